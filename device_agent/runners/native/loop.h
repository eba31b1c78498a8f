// The side of a native runner that is the same for every runtime: a job in, JSON lines out.
// The protocol is described in the docstring of nasdeploy.device_agent.runners.
#pragma once

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "array.h"
#include "json.h"

namespace nasdeploy {

inline int64_t now_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// How often a model is run at one visit: timed, and untimed just before.
struct Visit {
  int64_t repeats, discard;
};

// Nanoseconds of each timed run; no thread times where they say nothing.
struct Times {
  std::vector<int64_t> wall_ns, thread_ns;
};

// One file, ready to run on inputs of its own making.
class LoadedModel {
 public:
  virtual ~LoadedModel() = default;
  // Put the inputs in place. Not timed.
  virtual void prepare() {}
  // The timed call: the inference and as little else as the runtime lets us.
  virtual void run() = 0;

  void run_untimed(int64_t times) {
    for (int64_t i = 0; i < times; ++i) {
      prepare();
      run();
    }
  }

  virtual Times time(Visit visit) {
    Times times{std::vector<int64_t>(visit.repeats), std::vector<int64_t>(visit.repeats)};
    run_untimed(visit.discard);
    for (int64_t i = 0; i < visit.repeats; ++i) {
      prepare();
      int64_t thread_before = now_ns(CLOCK_THREAD_CPUTIME_ID);
      int64_t wall_before = now_ns(CLOCK_MONOTONIC);
      run();
      int64_t wall_after = now_ns(CLOCK_MONOTONIC);
      times.thread_ns[i] = now_ns(CLOCK_THREAD_CPUTIME_ID) - thread_before;
      times.wall_ns[i] = wall_after - wall_before;
    }
    return times;
  }

  // One image of each input in, one array of each output out.
  virtual std::vector<Array> infer(const std::vector<Array>& inputs) = 0;
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual std::string version() const = 0;
  virtual std::unique_ptr<LoadedModel> load(const std::string& path) = 0;
  virtual int64_t peak_rss_bytes() const;
};

using OpenRuntime = std::function<std::unique_ptr<Runtime>(int threads)>;

// stdout for our lines alone: what a runtime prints by itself goes to stderr instead
class Lines {
 public:
  Lines() : file_(fdopen(dup(1), "w")) {
    dup2(2, 1);
    std::setvbuf(file_, nullptr, _IOFBF, 1 << 16);
  }

  void say(const std::string& fields) {
    say_soon(fields);
    flush();
  }

  // With the lines after it: each write wakes up whoever carries it to the host, a daemon that
  // works on the same processors, and it takes as long as a small operator.
  void say_soon(const std::string& fields) {
    std::fprintf(file_, "{%s}\n", fields.c_str());
    if (now_ns(CLOCK_MONOTONIC) - flushed_ns_ > kHeldBackNs) flush();
  }

  void flush() {
    std::fflush(file_);
    flushed_ns_ = now_ns(CLOCK_MONOTONIC);
  }

 private:
  static constexpr int64_t kHeldBackNs = 20'000'000;
  FILE* file_;
  int64_t flushed_ns_ = 0;
};

inline std::string field(const char* name, const std::string& text) {
  return json_text(name) + ":" + json_text(text);
}

inline std::string field(const char* name, int64_t number) {
  return json_text(name) + ":" + std::to_string(number);
}

inline std::string field(const char* name, const std::vector<int64_t>& numbers) {
  std::string list;
  for (int64_t number : numbers) list += (list.empty() ? "" : ",") + std::to_string(number);
  return json_text(name) + ":[" + list + "]";
}

inline std::string field(const char* name, double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6f", number);
  return json_text(name) + ":" + text;
}

inline std::string joined(std::initializer_list<std::string> fields) {
  std::string line;
  for (const std::string& part : fields) line += (line.empty() ? "" : ",") + part;
  return line;
}

// what the process has held at most: the kernel's own high-water mark
inline int64_t Runtime::peak_rss_bytes() const {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  throw std::runtime_error("/proc/self/status has no VmHWM");
}

// A job being carried out. A model that fails is named once and left out from then on.
class Work {
 public:
  Work(Runtime& runtime, const Json& job, Lines& lines)
      : runtime_(runtime),
        job_(job),
        lines_(lines),
        threads_(job.count("threads")),
        warmups_(job.count("warmups")),
        repeats_(job.count("repeats")),
        discard_(job.count("discard")) {}

  void carry_out() {
    for (const Json& entry : job_.items("models")) load(entry.string("id"), entry.string("path"));
    int64_t number = job_.count("first_round");
    for (const Json& order : job_.items("rounds")) {
      for (const Json& model : order.list) visit(number, model.text);
      lines_.flush();
      ++number;
    }
    for (const Json& entry : job_.items("outputs")) write_outputs(entry);
  }

 private:
  void load(const std::string& id, const std::string& path) {
    attempt(id, [&] {
      int64_t started = now_ns(CLOCK_MONOTONIC);
      std::unique_ptr<LoadedModel> model = runtime_.load(path);
      int64_t loaded = now_ns(CLOCK_MONOTONIC);
      model->run_untimed(warmups_);
      int64_t warm = now_ns(CLOCK_MONOTONIC);
      models_[id] = std::move(model);
      lines_.say(joined({field("event", "loaded"), field("model", id),
                         field("load_ms", static_cast<double>(loaded - started) / 1e6),
                         field("warmup_ms", static_cast<double>(warm - loaded) / 1e6)}));
    });
  }

  void visit(int64_t number, const std::string& id) {
    auto found = models_.find(id);
    if (found == models_.end()) return;
    attempt(id, [&] {
      Times times = found->second->time({repeats_, discard_});
      // with more threads than one, this thread's time says little about the work done
      bool known = threads_ == 1 && !times.thread_ns.empty();
      std::string thread =
          known ? field("thread_ns", times.thread_ns) : json_text("thread_ns") + ":null";
      lines_.say_soon(joined({field("event", "sample"), field("round", number), field("model", id),
                              field("wall_ns", times.wall_ns), thread}));
    });
  }

  void write_outputs(const Json& entry) {
    const std::string& id = entry.string("id");
    auto found = models_.find(id);
    if (found == models_.end()) return;
    attempt(id, [&] {
      std::vector<Array> inputs;
      for (const Json& path : entry.items("inputs")) inputs.push_back(read_npy(path.text));
      std::vector<Array> outputs = infer_each(*found->second, inputs);
      std::string paths;
      for (size_t i = 0; i < outputs.size(); ++i) {
        std::string path = entry.string("outputs") + std::to_string(i) + ".npy";
        write_npy(path, outputs[i]);
        paths += (i ? "," : "") + json_text(path);
      }
      lines_.say(joined({field("event", "outputs"), field("model", id),
                         json_text("paths") + ":[" + paths + "]"}));
    });
  }

  static std::vector<Array> infer_each(LoadedModel& model, const std::vector<Array>& inputs) {
    std::vector<Array> outputs;
    const int64_t images = inputs.empty() ? 0 : inputs[0].shape[0];
    for (int64_t i = 0; i < images; ++i) {
      std::vector<Array> image;
      for (const Array& input : inputs) {
        if (input.shape[0] != images) throw std::runtime_error("the inputs differ in their images");
        image.push_back(input.image(i));
      }
      std::vector<Array> result = model.infer(image);
      outputs.resize(result.size());
      for (size_t k = 0; k < result.size(); ++k) outputs[k].append(result[k]);
    }
    return outputs;
  }

  template <typename Action>
  void attempt(const std::string& id, Action action) {
    try {
      action();
    } catch (const std::exception& error) {
      models_.erase(id);
      std::string message = std::string(error.what()).substr(0, 2000);
      lines_.say(joined({field("event", "error"), field("model", id), field("message", message)}));
    }
  }

  Runtime& runtime_;
  const Json& job_;
  Lines& lines_;
  const int64_t threads_, warmups_, repeats_, discard_;
  std::map<std::string, std::unique_ptr<LoadedModel>> models_;
};

inline std::string hello(const char* name, const Runtime& runtime, int64_t threads) {
  return joined({field("event", "hello"), field("runtime", name),
                 field("version", runtime.version()), field("threads", threads),
                 field("pid", int64_t{getpid()})});
}

// Entry of a runner's process: JOB carries out a job, --version says the version.
inline int runner_main(const char* name, const OpenRuntime& open, int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s JOB | --version\n", argv[0]);
    return 64;
  }
  Lines lines;
  try {
    if (std::string(argv[1]) == "--version") {
      lines.say(hello(name, *open(1), 1));
      return 0;
    }
    std::ifstream file(argv[1], std::ios::binary);
    if (!file) throw std::runtime_error(std::string("there is no job ") + argv[1]);
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const Json job = JsonReader(text).read();
    const int64_t threads = job.count("threads");
    std::unique_ptr<Runtime> runtime = open(static_cast<int>(threads));
    lines.say(hello(name, *runtime, threads));
    Work(*runtime, job, lines).carry_out();
    lines.say(joined({field("event", "bye"), field("peak_rss_bytes", runtime->peak_rss_bytes())}));
    std::fflush(nullptr);
    // the libraries' own ends are none of the job's, and some of them crash there
    _exit(0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s runner: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace nasdeploy
