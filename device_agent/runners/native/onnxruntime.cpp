// ONNX Runtime as a runner. Its wheel carries the library and not the header, so what is used of
// the C API stands here: a table of functions whose order never changes (its places are counted
// from 0), and handles of which nothing but the address is known.
#include "loop.h"

#include <cstdlib>

extern "C" {
struct OrtApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*get_version_string)();
};
const OrtApiBase* OrtGetApiBase();
}

namespace nasdeploy {

using Handle = void*;
using Status = void*;

constexpr uint32_t kApiVersion = 5;  // the oldest that has bindings
constexpr int kErrors = 3;           // warnings about graphs are not the user's
constexpr int kArenaAllocator = 1, kDefaultMemory = 0;

const void* const* table() {
  static const void* const* functions = OrtGetApiBase()->get_api(kApiVersion);
  if (!functions) throw std::runtime_error("this library has no API of version 5");
  return functions;
}

template <size_t kPlace, typename... Arguments>
auto raw(Arguments... arguments) {
  using Function = void* (*)(Arguments...);
  return reinterpret_cast<Function>(const_cast<void*>(table()[kPlace]))(arguments...);
}

// calls the function at a place and throws what it says when it fails
template <size_t kPlace, typename... Arguments>
void call(Arguments... arguments) {
  if (Status status = raw<kPlace>(arguments...)) {
    std::string message = static_cast<const char*>(raw<2>(status));  // GetErrorMessage
    raw<93>(status);                                                // ReleaseStatus
    throw std::runtime_error(message);
  }
}

namespace ort {
constexpr size_t create_env = 3, create_session = 7, create_session_options = 10;
constexpr size_t set_log_severity = 22, set_intra_threads = 24, set_inter_threads = 25;
constexpr size_t input_count = 30, output_count = 31, input_type = 33, output_type = 34;
constexpr size_t input_name = 36, output_name = 37;
constexpr size_t create_tensor_with_data = 49, cast_to_tensor_info = 55, element_type = 60;
constexpr size_t dimension_count = 61, dimensions = 62, create_cpu_memory = 69;
constexpr size_t default_allocator = 78;
constexpr size_t release_session = 95, release_value = 96, release_type_info = 98;
constexpr size_t run_with_binding = 133, create_binding = 134, release_binding = 135;
constexpr size_t bind_input = 136, bind_output = 137;
}  // namespace ort

Type type_of(int number, const std::string& name) {
  switch (number) {
    case 1: return Type::float32;
    case 2: return Type::uint8;
    case 3: return Type::int8;
    case 6: return Type::int32;
    case 7: return Type::int64;
    case 9: return Type::boolean;
    default:
      throw std::runtime_error(name + " has the element type number " + std::to_string(number) +
                               ", which this runner does not know");
  }
}

// An input or output with memory of its own, which stays where it is.
struct Tensor {
  std::string name;
  Type type;
  Shape shape;
  std::vector<uint64_t> memory;  // 8 bytes each, so that every type is aligned
  Handle value = nullptr;
};

class OnnxModel : public LoadedModel {
 public:
  OnnxModel(Handle environment, Handle options, Handle cpu, const std::string& path) {
    call<ort::create_session>(environment, path.c_str(), options, &session_);
    call<ort::create_binding>(session_, &binding_);
    bind<ort::input_count, ort::input_type, ort::input_name, ort::bind_input>(cpu, inputs_);
    bind<ort::output_count, ort::output_type, ort::output_name, ort::bind_output>(cpu, outputs_);
    for (Tensor& tensor : inputs_) {
      fill_with_noise(tensor.memory.data(), tensor.type, element_count(tensor.shape));
    }
  }

  ~OnnxModel() override {
    if (binding_) raw<ort::release_binding>(binding_);
    for (Tensor& tensor : inputs_) raw<ort::release_value>(tensor.value);
    for (Tensor& tensor : outputs_) raw<ort::release_value>(tensor.value);
    if (session_) raw<ort::release_session>(session_);
  }

  void run() override {
    call<ort::run_with_binding>(session_, Handle{nullptr}, binding_);
  }

  std::vector<Array> infer(const std::vector<Array>& inputs) override {
    for (const std::vector<Tensor>* tensors : {&inputs_, &outputs_}) {
      for (const Tensor& tensor : *tensors) check_is_float(tensor);
    }
    if (inputs.size() != inputs_.size()) {
      throw std::runtime_error("the model has " + std::to_string(inputs_.size()) + " inputs");
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      check_input(inputs[i], inputs_[i].shape, i);
      store(inputs[i], inputs_[i].type, {}, inputs_[i].memory.data());
    }
    run();
    std::vector<Array> results;
    for (const Tensor& tensor : outputs_) {
      results.push_back(fetch(tensor.memory.data(), tensor.type, {}, tensor.shape));
    }
    return results;
  }

 private:
  template <size_t kCount, size_t kType, size_t kName, size_t kBind>
  void bind(Handle cpu, std::vector<Tensor>& tensors) {
    size_t count = 0;
    call<kCount>(session_, &count);
    tensors.resize(count);
    Handle allocator = nullptr;
    call<ort::default_allocator>(&allocator);
    for (size_t i = 0; i < count; ++i) {
      Tensor& tensor = tensors[i];
      char* name = nullptr;
      call<kName>(session_, i, allocator, &name);
      tensor.name = name;
      Handle type_info = nullptr;
      call<kType>(session_, i, &type_info);
      describe(type_info, tensor);
      raw<ort::release_type_info>(type_info);
      size_t bytes = static_cast<size_t>(element_count(tensor.shape)) * size_of(tensor.type);
      tensor.memory.resize(bytes / 8 + 1);
      call<ort::create_tensor_with_data>(cpu, static_cast<void*>(tensor.memory.data()), bytes,
                                         tensor.shape.data(), tensor.shape.size(),
                                         number_, &tensor.value);
      call<kBind>(binding_, tensor.name.c_str(), tensor.value);
    }
  }

  void describe(Handle type_info, Tensor& tensor) {
    Handle info = nullptr;
    call<ort::cast_to_tensor_info>(type_info, &info);
    if (!info) throw std::runtime_error(tensor.name + " is not a tensor");
    call<ort::element_type>(info, &number_);
    tensor.type = type_of(number_, tensor.name);
    size_t rank = 0;
    call<ort::dimension_count>(info, &rank);
    tensor.shape.resize(rank);
    call<ort::dimensions>(info, tensor.shape.data(), rank);
    for (int64_t size : tensor.shape) {
      if (size < 0) {
        throw std::runtime_error(tensor.name + " has the open shape " + shown(tensor.shape) +
                                 "; export it with a fixed one");
      }
    }
  }

  static void check_is_float(const Tensor& tensor) {
    if (tensor.type != Type::float32) {
      throw std::runtime_error(tensor.name + " is not float32, and an .onnx file does not say the "
                               "scale of its inputs and outputs; export it with float ones to "
                               "compare outputs");
    }
  }

  Handle session_ = nullptr, binding_ = nullptr;
  std::vector<Tensor> inputs_, outputs_;
  int number_ = 0;  // of the element type last described
};

class OnnxRuntime : public Runtime {
 public:
  explicit OnnxRuntime(int threads) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    call<ort::create_env>(kErrors, "nasdeploy", &environment_);
    call<ort::create_session_options>(&options_);
    call<ort::set_log_severity>(options_, kErrors);
    call<ort::set_intra_threads>(options_, threads);
    call<ort::set_inter_threads>(options_, 1);
    call<ort::create_cpu_memory>(kArenaAllocator, kDefaultMemory, &cpu_);
  }

  std::string version() const override { return OrtGetApiBase()->get_version_string(); }

  std::unique_ptr<LoadedModel> load(const std::string& path) override {
    return std::make_unique<OnnxModel>(environment_, options_, cpu_, path);
  }

 private:
  Handle environment_ = nullptr, options_ = nullptr, cpu_ = nullptr;
};

}  // namespace nasdeploy

int main(int argc, char** argv) {
  return nasdeploy::runner_main(
      "onnxruntime",
      [](int threads) { return std::make_unique<nasdeploy::OnnxRuntime>(threads); }, argc, argv);
}
