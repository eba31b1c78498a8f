// ExecuTorch's C++ library as a runner. Its wheel is the library's SDK too: headers and all.
#include "loop.h"

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

namespace executorch::extension::threadpool {
// threadpool.h is missing from the wheel's headers; this is what is used of it. The object is made
// and laid out by the library, so nothing but the names counts here.
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace nasdeploy {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Method;
using executorch::runtime::Program;
using executorch::runtime::Result;

void check(Error error, const std::string& what) {
  if (error != Error::Ok) {
    throw std::runtime_error("ExecuTorch could not " + what + ": " +
                             executorch::runtime::to_string(error));
  }
}

template <typename T>
T& value_of(Result<T>& result, const std::string& what) {
  check(result.error(), what);
  return result.get();
}

Type type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return Type::float32;
    case ScalarType::Byte: return Type::uint8;
    case ScalarType::Char: return Type::int8;
    case ScalarType::Int: return Type::int32;
    case ScalarType::Long: return Type::int64;
    case ScalarType::Bool: return Type::boolean;
    default:
      throw std::runtime_error("a tensor has the type number " +
                               std::to_string(static_cast<int>(type)) +
                               ", which this runner does not know");
  }
}

// The sizes in the order in which they lie in memory, the last one innermost: what is written to a
// file. An image that lies channels last is (N, H, W, C).
template <typename Described>
Shape shape_in_memory(const Described& tensor) {
  Shape shape;
  for (auto dimension : tensor.dim_order()) shape.push_back(tensor.sizes()[dimension]);
  return shape;
}

// An input, whose memory the method reads or copies.
struct Input {
  Type type;
  Shape shape;
  std::vector<uint64_t> noise, given;  // 8 bytes each, so that every type is aligned
  TensorPtr noise_tensor, given_tensor;
};

// The method "forward" of a file.
class ExecuTorchModel : public LoadedModel {
 public:
  explicit ExecuTorchModel(const std::string& path) : module_(path, Module::LoadMode::Mmap) {
    check(module_.load(Program::Verification::InternalConsistency), "read the file");
    check(module_.load_method("forward"), "load the method forward");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    // a module's own execute() would fetch the outputs each time, and that is not to be timed
    Result<Method*> method = module_.method("forward");
#pragma GCC diagnostic pop
    method_ = value_of(method, "find the method forward");
    const auto meta = method_->method_meta();
    for (size_t i = 0; i < meta.num_inputs(); ++i) {
      auto found = meta.input_tensor_meta(i);
      const auto& tensor = value_of(found, "describe input " + std::to_string(i));
      inputs_.push_back(make_input(tensor));
    }
  }

  // The memory plan may have given the place of an input to an activation, so they are set again.
  void prepare() override { set_inputs(&Input::noise_tensor); }

  void run() override { check(method_->execute(), "run the method forward"); }

  std::vector<Array> infer(const std::vector<Array>& inputs) override {
    if (inputs.size() != inputs_.size()) {
      throw std::runtime_error("the model has " + std::to_string(inputs_.size()) + " inputs");
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      Input& input = inputs_[i];
      check_input(inputs[i], input.shape, i);
      store(inputs[i], input.type, quantisation("input", i, input.type), input.given.data());
    }
    set_inputs(&Input::given_tensor);
    run();
    std::vector<Array> results;
    for (size_t i = 0; i < method_->outputs_size(); ++i) {
      const auto tensor = method_->get_output(i).toTensor();
      Type type = type_of(tensor.scalar_type());
      const Shape shape = shape_in_memory(tensor);
      results.push_back(
          fetch(tensor.const_data_ptr(), type, quantisation("output", i, type), shape));
    }
    return results;
  }

 private:
  static Input make_input(const executorch::runtime::TensorInfo& tensor) {
    Input input;
    input.type = type_of(tensor.scalar_type());
    input.shape = shape_in_memory(tensor);
    const int64_t count = element_count(input.shape);
    const size_t words = static_cast<size_t>(count) * size_of(input.type) / 8 + 1;
    input.noise.resize(words);
    input.given.resize(words);
    fill_with_noise(input.noise.data(), input.type, count);
    std::vector<executorch::aten::SizesType> sizes(tensor.sizes().begin(), tensor.sizes().end());
    std::vector<executorch::aten::DimOrderType> order(tensor.dim_order().begin(),
                                                      tensor.dim_order().end());
    for (auto [memory, made] : {std::pair{&input.noise, &input.noise_tensor},
                                std::pair{&input.given, &input.given_tensor}}) {
      *made = executorch::extension::make_tensor_ptr(sizes, memory->data(), order, {},
                                                     tensor.scalar_type());
    }
    return input;
  }

  void set_inputs(TensorPtr Input::* which) {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      check(method_->set_input(EValue(*(inputs_[i].*which)), i), "set an input");
    }
  }

  // What executorch's QuantizeInputs and QuantizeOutputs leave behind: tiny methods.
  Quantisation quantisation(const char* side, size_t number, Type type) {
    if (type == Type::float32) return {};
    const std::string name = side + std::to_string(number);
    return {constant(name + "_scale"), static_cast<int64_t>(constant(name + "_zp"))};
  }

  double constant(const std::string& name) {
    auto found = module_.method_names();
    const auto& known = value_of(found, "list the methods");
    for (const std::string& method : {name, "forward_" + name}) {
      if (!known.count(method)) continue;
      auto results = module_.execute(method);
      const EValue& value = value_of(results, "run the method " + method).at(0);
      if (value.isDouble()) return value.toDouble();
      if (value.isInt()) return static_cast<double>(value.toInt());
      throw std::runtime_error("the method " + method + " does not give a number");
    }
    throw std::runtime_error("the file has quantised inputs or outputs and no method " + name +
                             " that says how; export it with float ones to compare outputs");
  }

  Module module_;
  Method* method_ = nullptr;
  std::vector<Input> inputs_;
};

class ExecuTorch : public Runtime {
 public:
  // the threads hold for the process: there is one pool
  explicit ExecuTorch(int threads) {
    auto* pool = executorch::extension::threadpool::get_threadpool();
    if (!pool || !pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads))) {
      throw std::runtime_error("ExecuTorch could not start " + std::to_string(threads) +
                               " threads");
    }
  }

  std::string version() const override { return RUNTIME_VERSION; }

  std::unique_ptr<LoadedModel> load(const std::string& path) override {
    return std::make_unique<ExecuTorchModel>(path);
  }
};

}  // namespace nasdeploy

int main(int argc, char** argv) {
  return nasdeploy::runner_main(
      "executorch", [](int threads) { return std::make_unique<nasdeploy::ExecuTorch>(threads); },
      argc, argv);
}
