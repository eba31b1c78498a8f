// A program of the user's as a runner: LiteRT's benchmark_model or ExecuTorch's executor_runner.
//
//     runner benchmark_model|executor_runner|executor_runner_means PROGRAM VERSION JOB
//
// It speaks the protocol and starts the program once for each visit; the times are the program's
// own. So that a run is warm it runs the model untimed first. `benchmark_model` tells, in whole
// microseconds, the first and the last of its timed runs, so that there can be two.
// `executor_runner` tells each of its runs. Older ones tell how long all of them took together
// (`executor_runner_means`): a time is the mean of so many that the first, cold one hardly counts,
// and each is a process of its own.
#include "loop.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <regex>
#include <sstream>

namespace nasdeploy {

constexpr size_t kMostOutput = 4 << 20;
constexpr int64_t kUntimed = 10;
constexpr int64_t kMostRuns = 1000;
constexpr double kMeanOverMs = 20;

// Why a program failed: the first line that it marks as an error, else its last.
std::string reason_in(const std::string& text) {
  std::istringstream lines(text);
  std::string last = "nothing";
  for (std::string line; std::getline(lines, line);) {
    for (const char* mark : {"E ", "F ", "ERROR", "FATAL"}) {
      if (line.rfind(mark, 0) == 0) return line;
    }
    if (!line.empty()) last = line;
  }
  return last;
}

// What a program prints, both streams together; throws with its reason when it fails. It is started
// in its own folder, since one that traces what it does writes a file where it is.
std::string output_of(const std::vector<std::string>& command) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe could be made");
  std::vector<char*> arguments;
  for (const std::string& part : command) arguments.push_back(const_cast<char*>(part.c_str()));
  arguments.push_back(nullptr);
  pid_t child = fork();
  if (child < 0) throw std::runtime_error("no process could be started");
  if (child == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    std::string folder = command[0].substr(0, command[0].find_last_of('/'));
    if (chdir(folder.c_str()) != 0) _exit(126);
    execv(arguments[0], arguments.data());
    std::fprintf(stderr, "%s cannot be started: %s\n", arguments[0], std::strerror(errno));
    _exit(127);
  }
  close(ends[1]);
  std::string text;
  char chunk[4096];
  for (ssize_t n; (n = read(ends[0], chunk, sizeof chunk)) > 0;) {
    if (text.size() < kMostOutput) text.append(chunk, static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error("the program failed and said: " + reason_in(text));
  }
  return text;
}

std::vector<std::smatch> matches_in(const std::string& text, const std::regex& wanted) {
  std::vector<std::smatch> found(std::sregex_iterator(text.begin(), text.end(), wanted), {});
  if (found.empty()) {
    throw std::runtime_error(
        "the program printed no time. An executor_runner prints it if it was built with "
        "-DEXECUTORCH_ENABLE_LOGGING=ON, and not to Android's log (-DEXECUTORCH_PAL_DEFAULT=posix)");
  }
  return found;
}

int64_t nanoseconds(const std::string& text, double factor) {
  double value = std::stod(text) * factor;
  if (!(value >= 0) || value > 1e15) throw std::runtime_error("the program printed the time " + text);
  return static_cast<int64_t>(value);
}

class ExternalModel : public LoadedModel {
 public:
  ExternalModel(std::string program, std::string path, int threads)
      : program_(std::move(program)), path_(std::move(path)), threads_(threads) {}

  std::vector<Array> infer(const std::vector<Array>&) override {
    throw std::runtime_error(program_ + " does not tell what a model computes; ask for the native "
                             "runner to compare outputs");
  }

  // a process of its own each time, so that warming up here would warm nothing
  void run() override {}

 protected:
  std::string program_, path_;
  int threads_;
};

class BenchmarkModel : public ExternalModel {
 public:
  using ExternalModel::ExternalModel;

  Times time(Visit visit) override {
    if (visit.repeats > 2) {
      throw std::runtime_error("benchmark_model tells no more than two single runs, and " +
                               std::to_string(visit.repeats) + " were asked for");
    }
    // stopped by the counts alone, not by how long it took
    std::string text = output_of({program_, "--graph=" + path_,
                                  "--num_threads=" + std::to_string(threads_),
                                  "--warmup_runs=" + std::to_string(kUntimed + visit.discard),
                                  "--warmup_min_secs=0", "--min_secs=0",
                                  "--num_runs=" + std::to_string(visit.repeats)});
    static const std::regex counted(R"(count=(\d+)(?: first=([0-9.e+]+))? curr=([0-9.e+]+))");
    // the warm-up's numbers come first
    std::smatch found = matches_in(text, counted).back();
    if (found[1] != std::to_string(visit.repeats)) {
      throw std::runtime_error("benchmark_model timed " + found[1].str() + " runs, and not " +
                               std::to_string(visit.repeats));
    }
    Times times;
    // where all are equal, it prints one of them
    std::string first = found[2].matched ? found[2].str() : found[3].str();
    if (visit.repeats == 2) times.wall_ns.push_back(nanoseconds(first, 1e3));
    times.wall_ns.push_back(nanoseconds(found[3], 1e3));
    return times;
  }
};

class ExecutorRunner : public ExternalModel {
 public:
  using ExternalModel::ExternalModel;

  Times time(Visit visit) override {
    static const std::regex one(R"(Iteration \d+ of \d+: ([0-9.]+) ms)");
    std::string text = output_of_runs(kUntimed + visit.discard + visit.repeats);
    std::vector<std::smatch> found = matches_in(text, one);
    if (static_cast<int64_t>(found.size()) < visit.repeats) {
      throw std::runtime_error("executor_runner told fewer runs than it was to do");
    }
    Times times;
    for (auto it = found.end() - visit.repeats; it != found.end(); ++it) {
      times.wall_ns.push_back(nanoseconds((*it)[1], 1e6));
    }
    return times;
  }

 protected:
  std::string output_of_runs(int64_t count) const {
    return output_of({program_, "--model_path=" + path_, "--cpu_threads=" + std::to_string(threads_),
                      "--num_executions=" + std::to_string(count)});
  }
};

class ExecutorRunnerMeans : public ExecutorRunner {
 public:
  using ExecutorRunner::ExecutorRunner;

  Times time(Visit visit) override {
    if (count_ == 0) count_ = enough(mean_ns(kUntimed));
    Times times;
    for (int64_t i = 0; i < visit.repeats; ++i) times.wall_ns.push_back(mean_ns(count_));
    return times;
  }

 private:
  int64_t mean_ns(int64_t count) const {
    static const std::regex all(R"(executed successfully (\d+) time\(s\) in ([0-9.]+) ms)");
    std::string text = output_of_runs(count);
    std::smatch found = matches_in(text, all).back();
    return nanoseconds(found[2], 1e6 / std::stod(found[1]));
  }

  static int64_t enough(int64_t one_ns) {
    double count = kMeanOverMs * 1e6 / static_cast<double>(std::max<int64_t>(one_ns, 1));
    return std::clamp<int64_t>(static_cast<int64_t>(count), kUntimed, kMostRuns);
  }

  int64_t count_ = 0;
};

class External : public Runtime {
 public:
  External(std::string tool, std::string program, std::string version, int threads)
      : tool_(std::move(tool)),
        program_(std::move(program)),
        version_(std::move(version)),
        threads_(threads) {}

  std::string version() const override { return version_; }

  // run once, so that a file that does not run is found out before the first round
  std::unique_ptr<LoadedModel> load(const std::string& path) override {
    std::unique_ptr<LoadedModel> model;
    if (tool_ == "benchmark_model") {
      model = std::make_unique<BenchmarkModel>(program_, path, threads_);
    } else if (tool_ == "executor_runner") {
      model = std::make_unique<ExecutorRunner>(program_, path, threads_);
    } else {
      model = std::make_unique<ExecutorRunnerMeans>(program_, path, threads_);
    }
    model->time({1, 0});
    return model;
  }

  // of the largest of the processes that were started
  int64_t peak_rss_bytes() const override {
    rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return int64_t{usage.ru_maxrss} * 1024;
  }

 private:
  std::string tool_, program_, version_;
  int threads_;
};

}  // namespace nasdeploy

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr,
                 "usage: %s benchmark_model|executor_runner|executor_runner_means PROGRAM VERSION "
                 "JOB\n",
                 argv[0]);
    return 64;
  }
  std::string tool = argv[1], program = argv[2], version = argv[3];
  const char* runtime = tool == "benchmark_model" ? "litert" : "executorch";
  char* rest[] = {argv[0], argv[4]};
  return nasdeploy::runner_main(
      runtime,
      [&](int threads) {
        return std::make_unique<nasdeploy::External>(tool, program, version, threads);
      },
      2, rest);
}
