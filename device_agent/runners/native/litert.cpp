// LiteRT's compiled model as a runner. Its wheel carries the library and no headers, and its C
// interface changes between versions, so what is used of version 2.3.0 stands here.
#include "loop.h"

#include <cstdlib>
#include <cstring>

extern "C" {
using LiteRtStatus = int;
using LiteRtHandle = void*;

// Only `rank`, `has_strides` and `dimensions` are read; the size of the whole counts.
struct LiteRtLayout {
  uint32_t rank : 7, has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
};
struct LiteRtTensorType {
  int element_type;
  LiteRtLayout layout;
};
struct LiteRtPerTensorQuantization {
  float scale;
  int64_t zero_point;
};
static_assert(sizeof(LiteRtTensorType) == 72, "as the library has it");

LiteRtStatus LiteRtCreateEnvironment(int options, const void* list, LiteRtHandle* environment);
LiteRtStatus LiteRtCreateModelFromFile(LiteRtHandle environment, const char* path, LiteRtHandle*);
void LiteRtDestroyModel(LiteRtHandle model);
LiteRtStatus LiteRtCreateOptions(LiteRtHandle* options);
void LiteRtDestroyOptions(LiteRtHandle options);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtHandle options, int accelerators);
LiteRtStatus LiteRtCreateOpaqueOptions(const char* identifier, void* payload,
                                       void (*deleter)(void*), LiteRtHandle* options);
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtHandle options, LiteRtHandle opaque);
LiteRtStatus LiteRtCreateCompiledModel(LiteRtHandle environment, LiteRtHandle model,
                                       LiteRtHandle options, LiteRtHandle* compiled);
void LiteRtDestroyCompiledModel(LiteRtHandle compiled);
LiteRtStatus LiteRtGetModelSubgraph(LiteRtHandle model, size_t index, LiteRtHandle* subgraph);
LiteRtStatus LiteRtGetNumSubgraphInputs(LiteRtHandle subgraph, size_t* count);
LiteRtStatus LiteRtGetNumSubgraphOutputs(LiteRtHandle subgraph, size_t* count);
LiteRtStatus LiteRtGetSubgraphInput(LiteRtHandle subgraph, size_t index, LiteRtHandle* tensor);
LiteRtStatus LiteRtGetSubgraphOutput(LiteRtHandle subgraph, size_t index, LiteRtHandle* tensor);
LiteRtStatus LiteRtGetModelSignature(LiteRtHandle model, size_t index, LiteRtHandle* signature);
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtHandle signature, size_t index,
                                                  LiteRtHandle* tensor);
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtHandle signature, size_t index,
                                                   LiteRtHandle* tensor);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtHandle tensor, LiteRtTensorType* type);
LiteRtStatus LiteRtGetQuantizationTypeId(LiteRtHandle tensor, int* type);
LiteRtStatus LiteRtGetPerTensorQuantization(LiteRtHandle tensor, LiteRtPerTensorQuantization*);
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtHandle compiled, size_t signature,
                                                           size_t index, LiteRtHandle* needs);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtHandle compiled, size_t signature,
                                                            size_t index, LiteRtHandle* needs);
LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(LiteRtHandle environment,
                                                             const LiteRtTensorType* type,
                                                             LiteRtHandle needs, LiteRtHandle*);
void LiteRtDestroyTensorBuffer(LiteRtHandle buffer);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtHandle buffer, void** memory, int mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtHandle buffer);
LiteRtStatus LiteRtRunCompiledModel(LiteRtHandle compiled, size_t signature, size_t input_count,
                                    LiteRtHandle* inputs, size_t output_count,
                                    LiteRtHandle* outputs);
}

namespace nasdeploy {

constexpr int kCpu = 1, kPerTensor = 1, kLockToRead = 0, kLockToWrite = 1;

void check(LiteRtStatus status, const char* what) {
  if (status != 0) {
    throw std::runtime_error(std::string("LiteRT could not ") + what + " (status " +
                             std::to_string(status) + ")");
  }
}

Type type_of(int number) {
  switch (number) {
    case 1: return Type::float32;
    case 2: return Type::int32;
    case 3: return Type::uint8;
    case 4: return Type::int64;
    case 6: return Type::boolean;
    case 9: return Type::int8;
    default:
      throw std::runtime_error("a tensor has the element type number " + std::to_string(number) +
                               ", which this runner does not know");
  }
}

// The buffer of an input or output.
struct Tensor {
  LiteRtHandle buffer = nullptr;
  Type type = Type::float32;
  Shape shape;
  Quantisation quantisation;
  size_t place = 0;  // in the order of the graph, which is what users count by

  template <typename Action>
  void locked(int mode, Action action) const {
    void* memory = nullptr;
    check(LiteRtLockTensorBuffer(buffer, &memory, mode), "lock a buffer");
    action(memory);
    check(LiteRtUnlockTensorBuffer(buffer), "unlock a buffer");
  }
};

class LiteRtModel : public LoadedModel {
 public:
  LiteRtModel(LiteRtHandle environment, LiteRtHandle options, const std::string& path) {
    check(LiteRtCreateModelFromFile(environment, path.c_str(), &model_), "read the model");
    check(LiteRtCreateCompiledModel(environment, model_, options, &compiled_),
          "prepare the model");
    LiteRtHandle graph = nullptr, signature = nullptr;
    check(LiteRtGetModelSubgraph(model_, 0, &graph), "find the graph");
    check(LiteRtGetModelSignature(model_, 0, &signature), "find the signature");
    size_t count = 0;
    check(LiteRtGetNumSubgraphInputs(graph, &count), "count the inputs");
    inputs_ = describe(environment, graph, signature, count, LiteRtGetSubgraphInput,
                       LiteRtGetSignatureInputTensorByIndex,
                       LiteRtGetCompiledModelInputBufferRequirements);
    check(LiteRtGetNumSubgraphOutputs(graph, &count), "count the outputs");
    outputs_ = describe(environment, graph, signature, count, LiteRtGetSubgraphOutput,
                        LiteRtGetSignatureOutputTensorByIndex,
                        LiteRtGetCompiledModelOutputBufferRequirements);
    for (const Tensor& tensor : inputs_) {
      tensor.locked(kLockToWrite, [&](void* memory) {
        fill_with_noise(memory, tensor.type, element_count(tensor.shape));
      });
      input_buffers_.push_back(tensor.buffer);
    }
    for (const Tensor& tensor : outputs_) output_buffers_.push_back(tensor.buffer);
  }

  ~LiteRtModel() override {
    for (LiteRtHandle buffer : input_buffers_) LiteRtDestroyTensorBuffer(buffer);
    for (LiteRtHandle buffer : output_buffers_) LiteRtDestroyTensorBuffer(buffer);
    if (compiled_) LiteRtDestroyCompiledModel(compiled_);
    if (model_) LiteRtDestroyModel(model_);
  }

  void run() override {
    check(LiteRtRunCompiledModel(compiled_, 0, input_buffers_.size(), input_buffers_.data(),
                                 output_buffers_.size(), output_buffers_.data()),
          "run the model");
  }

  std::vector<Array> infer(const std::vector<Array>& inputs) override {
    if (inputs.size() != inputs_.size()) {
      throw std::runtime_error("the model has " + std::to_string(inputs_.size()) + " inputs");
    }
    for (const Tensor& tensor : inputs_) {
      const Array& given = inputs[tensor.place];
      check_input(given, tensor.shape, tensor.place);
      tensor.locked(kLockToWrite, [&](void* memory) {
        store(given, tensor.type, tensor.quantisation, memory);
      });
    }
    run();
    std::vector<Array> results(outputs_.size());
    for (const Tensor& tensor : outputs_) {
      tensor.locked(kLockToRead, [&](void* memory) {
        results[tensor.place] = fetch(memory, tensor.type, tensor.quantisation, tensor.shape);
      });
    }
    return results;
  }

 private:
  using Getter = LiteRtStatus (*)(LiteRtHandle, size_t, LiteRtHandle*);
  using Needs = LiteRtStatus (*)(LiteRtHandle, size_t, size_t, LiteRtHandle*);

  // Buffers go in by the order of the signature, which may be another than that of the graph.
  std::vector<Tensor> describe(LiteRtHandle environment, LiteRtHandle graph,
                               LiteRtHandle signature, size_t count, Getter of_graph,
                               Getter of_signature, Needs needs) {
    std::vector<Tensor> tensors(count);
    for (size_t i = 0; i < count; ++i) {
      Tensor& tensor = tensors[i];
      LiteRtHandle handle = nullptr;
      check(of_signature(signature, i, &handle), "find a tensor of the signature");
      tensor.place = place_in(graph, count, of_graph, handle);
      LiteRtTensorType type{};
      check(LiteRtGetRankedTensorType(handle, &type), "tell the type of a tensor");
      tensor.type = type_of(type.element_type);
      tensor.shape = Shape(type.layout.dimensions, type.layout.dimensions + type.layout.rank);
      for (int64_t size : tensor.shape) {
        if (size < 0) throw std::runtime_error("the model has an open shape " +
                                               shown(tensor.shape) + "; export it with a fixed one");
      }
      tensor.quantisation = quantisation_of(handle);
      LiteRtHandle needed = nullptr;
      check(needs(compiled_, 0, i, &needed), "tell what a buffer needs");
      check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, needed,
                                                            &tensor.buffer),
            "make a buffer");
    }
    return tensors;
  }

  static size_t place_in(LiteRtHandle graph, size_t count, Getter of_graph, LiteRtHandle wanted) {
    for (size_t i = 0; i < count; ++i) {
      LiteRtHandle tensor = nullptr;
      check(of_graph(graph, i, &tensor), "find a tensor of the graph");
      if (tensor == wanted) return i;
    }
    throw std::runtime_error("the model's signature is not that of its first graph");
  }

  static Quantisation quantisation_of(LiteRtHandle tensor) {
    int kind = 0;
    check(LiteRtGetQuantizationTypeId(tensor, &kind), "tell how a tensor is quantised");
    if (kind != kPerTensor) return {};
    LiteRtPerTensorQuantization found{};
    check(LiteRtGetPerTensorQuantization(tensor, &found), "tell how a tensor is quantised");
    return {found.scale, found.zero_point};
  }

  LiteRtHandle model_ = nullptr, compiled_ = nullptr;
  std::vector<Tensor> inputs_, outputs_;
  std::vector<LiteRtHandle> input_buffers_, output_buffers_;
};

class LiteRt : public Runtime {
 public:
  explicit LiteRt(int threads) : threads_(threads) {
    check(LiteRtCreateEnvironment(0, nullptr, &environment_), "start");
  }

  std::string version() const override { return RUNTIME_VERSION; }

  // a model takes its options with it, so each gets new ones
  std::unique_ptr<LoadedModel> load(const std::string& path) override {
    LiteRtHandle options = nullptr, cpu = nullptr;
    check(LiteRtCreateOptions(&options), "make options");
    check(LiteRtSetOptionsHardwareAccelerators(options, kCpu), "choose the CPU");
    std::string settings = "num_threads = " + std::to_string(threads_) + "\n";
    check(LiteRtCreateOpaqueOptions("xnnpack", strdup(settings.c_str()), std::free, &cpu),
          "make options of the CPU");
    check(LiteRtAddOpaqueOptions(options, cpu), "set the number of threads");
    auto model = std::make_unique<LiteRtModel>(environment_, options, path);
    LiteRtDestroyOptions(options);
    return model;
  }

 private:
  LiteRtHandle environment_ = nullptr;
  int threads_;
};

}  // namespace nasdeploy

int main(int argc, char** argv) {
  return nasdeploy::runner_main(
      "litert", [](int threads) { return std::make_unique<nasdeploy::LiteRt>(threads); }, argc,
      argv);
}
