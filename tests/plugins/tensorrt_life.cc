// The plugin's whole life in the real registry, without a GPU. Usage: covis_trt_life LIBRARY
//
// Beside LIBRARY lies a libcovis_kernels.so made for the host (tensorrt_host_kernels.cc), so that
// enqueue runs on host memory and its results are compared with the definition in float64.
#include <NvInfer.h>
#include <dlfcn.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/half.h"
#include "tensorrt_expressions.h"
#include "tests/test.h"

namespace {

using namespace nvinfer1;
using covis::test::Sizes;

const char* library_path = nullptr;

// Keeps what the plugin reports; the registry hands it to the plugin.
class Recorder final : public IErrorRecorder {
 public:
  int32_t getNbErrors() const noexcept override { return static_cast<int32_t>(lines.size()); }
  ErrorCode getErrorCode(int32_t) const noexcept override { return ErrorCode::kINVALID_ARGUMENT; }
  ErrorDesc getErrorDesc(int32_t i) const noexcept override { return lines[i].c_str(); }
  bool hasOverflowed() const noexcept override { return false; }
  void clear() noexcept override { lines.clear(); }
  bool reportError(ErrorCode, ErrorDesc text) noexcept override {
    lines.emplace_back(text);
    return true;
  }
  RefCount incRefCount() noexcept override { return 1; }
  RefCount decRefCount() noexcept override { return 0; }
  std::string take() {
    std::string all;
    for (const std::string& line : lines) all += line + "\n";
    lines.clear();
    return all;
  }
  std::vector<std::string> lines;
};

Recorder& recorder() {
  static auto* const one = new Recorder;
  return *one;
}

bool registered(const char* name) {
  int32_t count = 0;
  IPluginCreatorInterface* const* all = getPluginRegistry()->getAllCreators(&count);
  for (int32_t i = 0; i < count; ++i) {
    if (std::strcmp(all[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) continue;
    const auto* creator = static_cast<IPluginCreatorV3One*>(all[i]);
    if (std::strcmp(creator->getPluginName(), name) == 0) return true;
  }
  return false;
}

bool both() { return registered("BlockSparseAttention") && registered("BlockSelect"); }
bool neither() { return !registered("BlockSparseAttention") && !registered("BlockSelect"); }

// The library for the length of one test.
struct Loaded {
  Loaded() : handle(getPluginRegistry()->loadLibrary(library_path)) {}
  ~Loaded() {
    if (handle != nullptr) getPluginRegistry()->deregisterLibrary(handle);
  }
  IPluginRegistry::PluginLibraryHandle handle;
};

// Fields of a call to createPlugin, holding their own data.
class Fields {
 public:
  Fields& integer(const char* name, int32_t value) {
    return add(name, PluginFieldType::kINT32, &value, sizeof(value), 1);
  }
  Fields& wide(const char* name, int64_t value) {
    return add(name, PluginFieldType::kINT64, &value, sizeof(value), 1);
  }
  Fields& number(const char* name, float value) {
    return add(name, PluginFieldType::kFLOAT32, &value, sizeof(value), 1);
  }
  Fields& text(const char* name, const std::string& value) {
    const auto length = static_cast<int32_t>(value.size());
    return add(name, PluginFieldType::kCHAR, value.data(), value.size(), length);
  }
  Fields& add(const char* name, PluginFieldType type, const void* data, size_t bytes,
              int32_t length) {
    // One byte off, as a plan may have it; exactly as long as said, for AddressSanitizer.
    data_.emplace_back(new char[bytes + 1]);
    std::memcpy(data_.back().get() + 1, data, bytes);
    fields_.emplace_back(name, data_.back().get() + 1, type, length);
    return *this;
  }
  std::unique_ptr<IPluginV3> create(const char* op,
                                    TensorRTPhase phase = TensorRTPhase::kBUILD) const {
    const PluginFieldCollection all{static_cast<int32_t>(fields_.size()), fields_.data()};
    return create(op, &all, phase);
  }
  static std::unique_ptr<IPluginV3> create(const char* op, const PluginFieldCollection* all,
                                           TensorRTPhase phase) {
    auto* const creator =
        static_cast<IPluginCreatorV3One*>(getPluginRegistry()->getCreator(op, "1", ""));
    CHECK(creator != nullptr, "%s", op);
    return std::unique_ptr<IPluginV3>(creator->createPlugin("test", all, phase));
  }

 private:
  std::vector<std::shared_ptr<char[]>> data_;
  std::vector<PluginField> fields_;
};

template <typename Capability>
Capability& as(IPluginV3& plugin, PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}
IPluginV3OneCore& core(IPluginV3& plugin) {
  return as<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
}
IPluginV3OneBuildV2& build(IPluginV3& plugin) {
  return as<IPluginV3OneBuildV2>(plugin, PluginCapabilityType::kBUILD);
}
IPluginV3OneRuntime& runtime(IPluginV3& plugin) {
  return as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

Dims dims(std::initializer_list<int64_t> sizes) {
  Dims made{static_cast<int32_t>(sizes.size()), {}};
  std::copy(sizes.begin(), sizes.end(), made.d);
  return made;
}

PluginTensorDesc desc(DataType type, const Dims& size) {
  return PluginTensorDesc{size, type, TensorFormat::kLINEAR, 0.0f};
}
DynamicPluginTensorDesc dynamic(DataType type, const Dims& least, const Dims& most) {
  return DynamicPluginTensorDesc{desc(type, most), least, most, most};
}
DynamicPluginTensorDesc dynamic(DataType type, const Dims& size = dims({1, 1, 1, 64})) {
  return dynamic(type, size, size);
}

// 5 special tokens, then 24 patches a frame, one token behind the last frame.
Fields frames() {
  Fields fields;
  fields.integer("frame_tokens", 29).integer("special_first", 5).integer("trailing_tokens", 1);
  return fields;
}

COVIS_TEST(dlopen_registers_and_dlclose_takes_back) {
  CHECK(neither(), "before");
  void* const handle = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
  CHECK(handle != nullptr, "%s", dlerror());
  CHECK(both(), "after dlopen");
  for (const char* op : {"BlockSparseAttention", "BlockSelect"}) {
    CHECK(getPluginRegistry()->getCreator(op, "1", "") != nullptr, "%s", op);
    CHECK(getPluginRegistry()->getCreator(op, "2", "") == nullptr, "%s version 2", op);
    CHECK(getPluginRegistry()->getCreator(op, "1", "covis") == nullptr, "%s namespace", op);
  }
  dlclose(handle);
  CHECK(neither(), "after dlclose");
}

COVIS_TEST(load_library_again_and_again) {
  for (int round = 0; round < 3; ++round) {
    auto* const handle = getPluginRegistry()->loadLibrary(library_path);
    CHECK(handle != nullptr, "round %d", round);
    CHECK(both(), "round %d", round);
    getPluginRegistry()->deregisterLibrary(handle);
    CHECK(neither(), "round %d", round);
  }
}

COVIS_TEST(load_library_after_dlopen) {
  void* const plain = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
  auto* const handle = getPluginRegistry()->loadLibrary(library_path);
  CHECK(handle != nullptr && both(), "both ways at once");
  getPluginRegistry()->deregisterLibrary(handle);
  CHECK(neither(), "after deregisterLibrary");
  dlclose(plain);
  CHECK(neither(), "after dlclose");
}

COVIS_TEST(field_names) {
  Loaded loaded;
  const auto names = [](const char* op) {
    auto* creator = static_cast<IPluginCreatorV3One*>(getPluginRegistry()->getCreator(op, "1", ""));
    const PluginFieldCollection* all = creator->getFieldNames();
    std::string text;
    for (int32_t i = 0; i < all->nbFields; ++i) {
      text += std::string(all->fields[i].name) + ":" +
              std::to_string(static_cast<int>(all->fields[i].type)) + " ";
    }
    return text;
  };
  const std::string layout =
      "frame_tokens:5 special_first:5 special_last:5 trailing_tokens:5 q_block:5 k_block:5 ";
  CHECK(names("BlockSparseAttention") == layout + "scale:1 precision:6 ", "%s",
        names("BlockSparseAttention").c_str());
  CHECK(names("BlockSelect") == layout + "pool:6 ", "%s", names("BlockSelect").c_str());
}

COVIS_TEST(good_fields) {
  Loaded loaded;
  CHECK(Fields().create("BlockSparseAttention") != nullptr, "defaults");
  CHECK(frames().wide("q_block", 24).create("BlockSparseAttention") != nullptr, "kINT64");
  for (const char* precision : {"full", "fp8"}) {
    CHECK(frames().number("scale", 0.25f).text("precision", precision).create(
              "BlockSparseAttention") != nullptr, "%s", precision);
  }
  CHECK(frames().text("pool", std::string("max\0", 4)).create("BlockSelect") != nullptr, "pool");
  CHECK(recorder().take().empty(), "reports");
}

COVIS_TEST(bad_fields) {
  Loaded loaded;
  const int32_t two[2] = {1, 1};
  const double wide = 1.0;
  struct {
    const char* op;
    Fields fields;
    const char* message;
  } cases[] = {
      {"BlockSparseAttention", Fields().integer("frame_tokens", 0), "frame_tokens is 0, must be 1"},
      {"BlockSelect", Fields().integer("k_block", -4), "k_block is -4, must be 1 to 2147483647"},
      {"BlockSelect", Fields().wide("q_block", 1LL << 31), "q_block is 2147483648, must be 1"},
      {"BlockSelect", Fields().number("q_block", 1.0f), "q_block is 1 of kFLOAT32, must be one"},
      {"BlockSelect", Fields().add("q_block", PluginFieldType::kINT32, two, 8, 2),
       "q_block is 2 of kINT32, must be one kINT32"},
      {"BlockSelect", Fields().add("q_block", PluginFieldType::kINT32, two, 0, 0), "is 0 of"},
      {"BlockSparseAttention", Fields().number("scale", -1.0f), "scale is -1.0"},
      {"BlockSparseAttention", Fields().number("scale", NAN), "must be finite"},
      {"BlockSparseAttention", Fields().add("scale", PluginFieldType::kFLOAT64, &wide, 8, 1),
       "scale is 1 of kFLOAT64, must be one kFLOAT32"},
      {"BlockSparseAttention", Fields().text("precision", "int8"),
       "precision is \"int8\", must be \"full\" or \"fp8\""},
      {"BlockSelect", Fields().text("pool", "m\n"), "pool is \"m?\", must be \"mean\" or"},
      {"BlockSelect", Fields().integer("pool", 1), "pool is kINT32, must be kCHAR"},
      {"BlockSelect", Fields().number("scale", 1.0f), "field \"scale\" is not known"},
      {"BlockSelect", Fields().integer("q_block", 1).integer("q_block", 2), "given twice"},
      {"BlockSelect", Fields().integer("frame_tokens", 6).integer("special_first", 4)
           .integer("special_last", 2),
       "special_first 4 and special_last 2 leave no patch of frame_tokens 6"},
  };
  for (const auto& bad : cases) {
    CHECK(bad.fields.create(bad.op) == nullptr, "%s", bad.message);
    const std::string said = recorder().take();
    CHECK(said.find(bad.message) != std::string::npos, "%s\n  said: %s", bad.message, said.c_str());
    CHECK(said.find(std::string("covis ") + bad.op) == 0, "%s", said.c_str());
  }
  CHECK(Fields::create("BlockSelect", nullptr, TensorRTPhase::kBUILD) == nullptr, "no collection");
  const PluginFieldCollection hollow{3, nullptr};
  CHECK(Fields::create("BlockSelect", &hollow, TensorRTPhase::kBUILD) == nullptr, "no fields");
  const PluginField nameless(nullptr, two, PluginFieldType::kINT32, 1);
  const PluginFieldCollection one{1, &nameless};
  CHECK(Fields::create("BlockSelect", &one, TensorRTPhase::kBUILD) == nullptr, "no name");
  recorder().clear();
}

COVIS_TEST(identity_and_capabilities) {
  Loaded loaded;
  const auto plugin = frames().create("BlockSparseAttention");
  CHECK(std::string(core(*plugin).getPluginName()) == "BlockSparseAttention", "name");
  CHECK(std::string(core(*plugin).getPluginVersion()) == "1", "version");
  CHECK(std::string(core(*plugin).getPluginNamespace()).empty(), "namespace");
  CHECK(build(*plugin).getNbOutputs() == 1 && build(*plugin).getAliasedInput(0) == -1, "outputs");
  CHECK(std::string(build(*plugin).getInterfaceInfo().kind) == "PLUGIN_V3ONE_BUILD", "build");
  CHECK(std::string(runtime(*plugin).getInterfaceInfo().kind) == "PLUGIN_V3ONE_RUNTIME", "runtime");
  const std::string text = "BlockSparseAttention frame_tokens=29 special_first=5 special_last=0 "
                           "trailing_tokens=1 q_block=1 k_block=1 scale=0.000000 precision=full";
  CHECK(build(*plugin).getMetadataString() == text, "%s", build(*plugin).getMetadataString());
  CHECK(build(*plugin).getTimingCacheID() == text, "%s", build(*plugin).getTimingCacheID());
}

COVIS_TEST(output_types) {
  Loaded loaded;
  const auto attention = frames().create("BlockSparseAttention");
  const auto select = frames().create("BlockSelect");
  for (DataType type : {DataType::kHALF, DataType::kBF16, DataType::kFLOAT}) {
    DataType out = DataType::kBOOL;
    const DataType in[4] = {type, type, type, DataType::kINT8};
    CHECK(build(*attention).getOutputDataTypes(&out, 1, in, 4) == 0 && out == type, "attention");
    const DataType in5[5] = {type, type, DataType::kINT8, DataType::kFLOAT, DataType::kFLOAT};
    CHECK(build(*select).getOutputDataTypes(&out, 1, in5, 5) == 0 && out == DataType::kINT8,
          "select");
  }
  DataType out = DataType::kBOOL;
  const DataType mixed[4] = {DataType::kHALF, DataType::kHALF, DataType::kBF16, DataType::kINT8};
  CHECK(build(*attention).getOutputDataTypes(&out, 1, mixed, 4) != 0, "mixed");
  CHECK(recorder().take().find("V is bfloat16, must be float16 as Q") != std::string::npos, "V");
  const DataType wide[4] = {DataType::kHALF, DataType::kHALF, DataType::kHALF, DataType::kINT32};
  CHECK(build(*attention).getOutputDataTypes(&out, 1, wide, 4) != 0, "level");
  CHECK(recorder().take().find("level is int32, must be int8") != std::string::npos, "level");
  const DataType half[5] = {DataType::kHALF, DataType::kHALF, DataType::kINT8, DataType::kHALF,
                            DataType::kFLOAT};
  CHECK(build(*select).getOutputDataTypes(&out, 1, half, 5) != 0, "keep_ratio");
  CHECK(recorder().take().find("keep_ratio is float16, must be float32") != std::string::npos, "k");
  CHECK(build(*select).getOutputDataTypes(&out, 1, half, 4) != 0, "four inputs");
  CHECK(recorder().take().find("4 inputs and 1 outputs are connected") != std::string::npos, "4");
}

COVIS_TEST(format_table) {
  Loaded loaded;
  const DataType all[] = {DataType::kFLOAT, DataType::kHALF,  DataType::kINT8, DataType::kINT32,
                          DataType::kBOOL,  DataType::kUINT8, DataType::kFP8,  DataType::kBF16,
                          DataType::kINT64};
  const TensorFormat formats[] = {TensorFormat::kLINEAR, TensorFormat::kCHW2, TensorFormat::kHWC8,
                                  TensorFormat::kCHW32, TensorFormat::kHWC};
  struct {
    const char* op;
    int inputs;
    std::vector<DataType> first;
    bool (*wanted)(int pos, DataType first, DataType type);
  } ops[] = {{"BlockSparseAttention", 4, {DataType::kHALF, DataType::kBF16},
              [](int pos, DataType first, DataType type) {
                return type == (pos == 3 ? DataType::kINT8 : first);
              }},
             {"BlockSelect", 5, {DataType::kHALF, DataType::kBF16, DataType::kFLOAT},
              [](int pos, DataType first, DataType type) {
                return type == (pos < 2                ? first
                                : pos == 3 || pos == 4 ? DataType::kFLOAT
                                                       : DataType::kINT8);
              }}};
  for (const auto& op : ops) {
    const auto plugin = frames().create(op.op);
    for (DataType first : all) {
      const bool known = std::find(op.first.begin(), op.first.end(), first) != op.first.end();
      for (int pos = known ? 1 : 0; pos <= (known ? op.inputs : 0); ++pos) {
        for (DataType type : all) {
          for (TensorFormat format : formats) {
            std::vector<DynamicPluginTensorDesc> tensors(pos + 1, dynamic(first));
            tensors[pos].desc.type = pos == 0 ? first : type;
            tensors[pos].desc.format = format;
            const bool wanted = known && format == TensorFormat::kLINEAR &&
                                op.wanted(pos, first, type);
            const bool got =
                build(*plugin).supportsFormatCombination(pos, tensors.data(), op.inputs, 1);
            CHECK(got == wanted, "%s pos %d type %d after %d", op.op, pos, int(type), int(first));
          }
        }
      }
    }
    std::vector<DynamicPluginTensorDesc> tensors(8, dynamic(DataType::kHALF));
    CHECK(!build(*plugin).supportsFormatCombination(7, tensors.data(), op.inputs, 1), "pos 7");
    CHECK(!build(*plugin).supportsFormatCombination(-1, tensors.data(), op.inputs, 1), "pos -1");
  }
  CHECK(recorder().take().empty(), "reports");
}

// The shape of the output, or {-2} where the plugin refuses.
Dims shape(IPluginV3& plugin, std::initializer_list<Dims> inputs) {
  Sizes sizes;
  std::vector<DimsExprs> in;
  for (const Dims& input : inputs) in.push_back(sizes.of(input));
  DimsExprs out{};
  const int32_t failed = build(plugin).getOutputShapes(in.data(), static_cast<int32_t>(in.size()),
                                                       nullptr, 0, &out, 1, sizes);
  return failed != 0 ? dims({-2}) : Sizes::values(out);
}

bool same(const Dims& a, const Dims& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d);
}

COVIS_TEST(shapes) {
  Loaded loaded;
  const auto attention = frames().integer("q_block", 24).integer("k_block", 24).create(
      "BlockSparseAttention");
  const Dims q = dims({2, 3, 88, 64});  // 3 frames and a trailing token
  const Dims open = dims({-1, 3, -1, 64});
  CHECK(same(shape(*attention, {q, q, q, dims({1, 1, 3, 3})}), q), "known");
  CHECK(same(shape(*attention, {open, open, open, dims({1, 1, -1, -1})}), open), "open");
  CHECK(same(shape(*attention, {open, open, open, dims({1, 3, 1, 1})}), open), "dense");
  const auto select = frames().create("BlockSelect");
  const Dims scalar = dims({});
  CHECK(same(shape(*select, {q, q, dims({1, 1, 3, 3}), scalar, scalar}), dims({2, 3, 1, 2})),
        "72 patches are one block of 128 and two of 64");
  CHECK(same(shape(*select, {open, open, dims({1, 1, -1, -1}), scalar, scalar}),
             dims({-1, 3, -1, -1})), "open");
  CHECK(recorder().take().empty(), "reports");

  struct {
    IPluginV3& plugin;
    std::vector<Dims> inputs;
    const char* message;
  } bad[] = {
      {*attention, {q, q, dims({2, 3, 88, 32}), dims({1, 1, 3, 3})}, "V is (2, 3, 88, 32), Q is"},
      {*attention, {dims({3, 88, 64}), q, q, dims({1, 1, 3, 3})}, "Q is (3, 88, 64), must be (B"},
      {*attention, {dims({2, 3, 89, 64}), dims({2, 3, 89, 64}), dims({2, 3, 89, 64}),
                    dims({1, 1, 3, 3})}, "89 tokens are not frames of frame_tokens 29 and"},
      {*attention, {q, q, q, dims({1, 1, 4, 3})}, "level is (1, 1, 4, 3); each size must be 1"},
      {*attention, {q, q, q, dims({1, 2, 3, 3})}, "that of (2, 3, 3, 3)"},
      {*attention, {q, q, q, dims({3, 3})}, "level is (3, 3), must be (b, h, Rq, Rk)"},
      {*select, {q, q, dims({1, 1, 2, 2}), scalar, scalar}, "pair is (1, 1, 2, 2), must be"},
      {*select, {q, q, dims({2, 1, 3, 3}), scalar, scalar}, "pair is (2, 1, 3, 3), must be"},
      {*select, {q, q, dims({1, 1, 3, 3}), dims({1}), scalar}, "keep_ratio is (1), must be a"},
      {*select, {dims({2, 3, 1, 64}), dims({2, 3, 1, 64}), dims({1, 1, 1, 1}), scalar, scalar},
       "1 tokens hold no frame"},
  };
  for (const auto& one : bad) {
    Sizes sizes;
    std::vector<DimsExprs> in;
    for (const Dims& input : one.inputs) in.push_back(sizes.of(input));
    DimsExprs out{};
    CHECK(build(one.plugin).getOutputShapes(in.data(), static_cast<int32_t>(in.size()), nullptr, 0,
                                            &out, 1, sizes) != 0, "%s", one.message);
    const std::string said = recorder().take();
    CHECK(said.find(one.message) != std::string::npos, "%s\n  said: %s", one.message, said.c_str());
  }
}

COVIS_TEST(configure_tactics_workspace) {
  Loaded loaded;
  const auto plugin = frames().integer("q_block", 24).integer("k_block", 24).create(
      "BlockSparseAttention");
  const auto profile = [](int64_t least, int64_t most, int64_t dim) {
    const Dims low = dims({1, 16, least * 29 + 1, dim});
    const Dims high = dims({1, 16, most * 29 + 1, dim});
    return std::vector<DynamicPluginTensorDesc>{
        dynamic(DataType::kHALF, low, high), dynamic(DataType::kHALF, low, high),
        dynamic(DataType::kHALF, low, high),
        dynamic(DataType::kINT8, dims({1, 1, 1, 1}), dims({1, 1, most, most}))};
  };
  const auto out = dynamic(DataType::kHALF);
  const auto wide = profile(1, 500, 64);
  CHECK(build(*plugin).configurePlugin(wide.data(), 4, &out, 1) == 0, "%s",
        recorder().take().c_str());
  int32_t tactics[4] = {};
  CHECK(build(*plugin).getNbTactics() == 2, "%d tactics", build(*plugin).getNbTactics());
  CHECK(build(*plugin).getValidTactics(tactics, 2) == 0 && tactics[0] == 1 && tactics[1] == 3,
        "%d %d", tactics[0], tactics[1]);
  CHECK(build(*plugin).getNbTactics() <= 2 && tactics[0] > 0, "tactics are positive");
  const auto deep = profile(1, 4, 128);
  CHECK(build(*plugin).configurePlugin(deep.data(), 4, &out, 1) == 0, "head_dim 128");
  CHECK(build(*plugin).getNbTactics() == 0, "one kernel only for head_dim 128");

  // Enough for every number of views up to the most, by the same function that launch asks.
  const size_t bytes = build(*plugin).getWorkspaceSize(wide.data(), 4, &out, 1);
  CHECK(bytes > 0, "workspace");
  for (int64_t views : {1, 2, 3, 50, 499, 500}) {
    const auto exact = profile(views, views, 64);
    const size_t here = build(*plugin).getWorkspaceSize(exact.data(), 4, &out, 1);
    CHECK(here > 0 && here <= bytes, "%ld views need %zu of %zu", long(views), here, bytes);
    CHECK(views < 500 || here == bytes, "the most is needed at 500 views: %zu, %zu", here, bytes);
  }
  // FP8 copies of the tokens need room of their own.
  const auto fp8 = frames().integer("q_block", 24).integer("k_block", 24).text("precision", "fp8")
                       .create("BlockSparseAttention");
  CHECK(build(*fp8).configurePlugin(wide.data(), 4, &out, 1) == 0, "%s", recorder().take().c_str());
  const size_t tokens = size_t{16} * (500 * 29 + 1) * 64;
  const size_t more = build(*fp8).getWorkspaceSize(wide.data(), 4, &out, 1);
  CHECK(more >= bytes + 2 * tokens, "%zu with fp8, %zu without", more, bytes);
  const auto bad = profile(1, 4, 80);
  CHECK(build(*plugin).configurePlugin(bad.data(), 4, &out, 1) != 0, "head_dim 80");
  CHECK(recorder().take().find("head_dim is 80; 64 and 128 are supported") != std::string::npos,
        "head_dim is named");

  const auto select = frames().create("BlockSelect");
  auto inputs = profile(1, 500, 64);
  inputs.erase(inputs.begin() + 2);
  inputs.push_back(dynamic(DataType::kFLOAT, dims({})));
  inputs.push_back(dynamic(DataType::kFLOAT, dims({})));
  CHECK(build(*select).configurePlugin(inputs.data(), 5, &out, 1) == 0, "%s",
        recorder().take().c_str());
  CHECK(build(*select).getNbTactics() == 0, "tactics");
  CHECK(build(*select).getWorkspaceSize(inputs.data(), 5, &out, 1) >
            size_t{16} * 64 * 4 * (500 * 24 / 128 + 500 * 24 / 64), "pooled queries and keys");
}

std::string serialised(IPluginV3& plugin) {
  const PluginFieldCollection* all = runtime(plugin).getFieldsToSerialize();
  std::string text;
  for (int32_t i = 0; i < all->nbFields; ++i) {
    const PluginField& field = all->fields[i];
    const size_t size = field.type == PluginFieldType::kCHAR ? 1 : 4;
    text += std::string(field.name) + "/" + std::to_string(static_cast<int>(field.type)) + "/" +
            std::string(static_cast<const char*>(field.data), size * field.length) + ";";
  }
  return text;
}

COVIS_TEST(serialise_deserialise_clone) {
  Loaded loaded;
  for (const char* op : {"BlockSparseAttention", "BlockSelect"}) {
    Fields fields = frames();
    if (std::strcmp(op, "BlockSelect") == 0) {
      fields.text("pool", "max");
    } else {
      fields.text("precision", "fp8").number("scale", 0.5f);
    }
    auto plugin = fields.create(op);
    const std::string before = serialised(*plugin);
    auto again = Fields::create(op, runtime(*plugin).getFieldsToSerialize(),
                                TensorRTPhase::kRUNTIME);
    CHECK(again != nullptr, "%s", recorder().take().c_str());
    std::unique_ptr<IPluginV3> copy(plugin->clone());
    runtime(*plugin).getFieldsToSerialize();
    plugin.reset();  // nothing may point into it
    CHECK(serialised(*again) == before, "deserialised");
    CHECK(serialised(*copy) == before, "clone");
    std::unique_ptr<IPluginV3> attached(runtime(*copy).attachToContext(nullptr));
    CHECK(serialised(*attached) == before, "attached");
  }
}

COVIS_TEST(damaged_plans) {
  Loaded loaded;
  const auto plugin = frames().create("BlockSparseAttention");
  const PluginFieldCollection* whole = runtime(*plugin).getFieldsToSerialize();
  const std::vector<PluginField> fields(whole->fields, whole->fields + whole->nbFields);
  const auto load = [](const std::vector<PluginField>& some) {
    const PluginFieldCollection all{static_cast<int32_t>(some.size()), some.data()};
    return Fields::create("BlockSparseAttention", &all, TensorRTPhase::kRUNTIME);
  };
  CHECK(load(fields) != nullptr, "whole");
  for (size_t i = 0; i < fields.size(); ++i) {
    std::vector<PluginField> cut = fields;
    cut.erase(cut.begin() + static_cast<long>(i));
    CHECK(load(cut) == nullptr, "without %s", fields[i].name);
    const std::string missing = std::string("field ") + fields[i].name + " is missing; build";
    CHECK(recorder().take().find(missing) != std::string::npos, "%s", missing.c_str());
    std::vector<PluginField> emptied = fields;
    emptied[i].length = 0;
    CHECK(load(emptied) == nullptr, "%s of length 0", fields[i].name);
    std::vector<PluginField> longer = fields;
    longer[i].length = 1000;  // never read: the length is checked first
    if (longer[i].type != PluginFieldType::kCHAR) {
      CHECK(load(longer) == nullptr, "%s of length 1000", fields[i].name);
    }
    std::vector<PluginField> hollow = fields;
    hollow[i].data = nullptr;
    CHECK(load(hollow) == nullptr, "%s without data", fields[i].name);
    std::vector<PluginField> negative = fields;
    negative[i].length = -1;
    CHECK(load(negative) == nullptr, "%s of length -1", fields[i].name);
  }
  std::vector<PluginField> more = fields;
  more.push_back(fields[1]);
  CHECK(load(more) == nullptr, "a field twice");
  more.back().name = "another";
  CHECK(load(more) == nullptr, "a field too many");
  CHECK(load({}) == nullptr, "nothing");
  recorder().clear();
  const int32_t newer = 2;
  std::vector<PluginField> version = fields;
  version[0].data = &newer;
  CHECK(load(version) == nullptr, "a newer version");
  CHECK(recorder().take().find("made by another version of this plugin") != std::string::npos, "2");
}

// Attention by its definition, in float64; `level` says of two patch tokens whether they attend.
std::vector<double> define(const std::vector<float>& q, const std::vector<float>& k,
                           const std::vector<float>& v, int64_t tokens, int64_t dim,
                           bool (*attends)(int64_t i, int64_t j)) {
  std::vector<double> out(q.size(), 0.0);
  for (size_t head = 0; head < q.size() / (tokens * dim); ++head) {
    const size_t base = head * tokens * dim;
    for (int64_t i = 0; i < tokens; ++i) {
      std::vector<double> weight(tokens, 0.0);
      double sum = 0.0;
      for (int64_t j = 0; j < tokens; ++j) {
        if (!attends(i, j)) continue;
        double score = 0.0;
        for (int64_t d = 0; d < dim; ++d) {
          score += double(q[base + i * dim + d]) * k[base + j * dim + d];
        }
        sum += weight[j] = std::exp(score / std::sqrt(double(dim)));
      }
      for (int64_t j = 0; j < tokens; ++j) {
        for (int64_t d = 0; d < dim; ++d) {
          out[base + i * dim + d] += weight[j] / sum * v[base + j * dim + d];
        }
      }
    }
  }
  return out;
}

struct Half {
  std::vector<uint16_t> bits;
  std::vector<float> values;
  Half(size_t count, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < count; ++i) {
      bits.push_back(covis::float_to_float16(normal(random)));
      values.push_back(covis::float16_to_float(bits.back()));
    }
  }
};

void* aligned(std::vector<char>& room, size_t bytes) {
  room.resize(bytes + 256);
  void* start = room.data();
  size_t space = room.size();
  return std::align(256, bytes, start, space);
}

COVIS_TEST(enqueue_attention) {
  Loaded loaded;
  constexpr int64_t kTokens = 3 * 29 + 1;
  constexpr int64_t kDim = 64;
  auto made = frames().integer("q_block", 24).integer("k_block", 24).create("BlockSparseAttention");
  std::unique_ptr<IPluginV3> plugin(runtime(*made).attachToContext(nullptr));
  const size_t count = 2 * 2 * kTokens * kDim;
  const Half q(count, 1), k(count, 2), v(count, 3);
  std::vector<uint16_t> o(count, 0x7e00);  // NaN
  const int8_t level[9] = {2, 0, 1, 0, 1, 0, 2, 2, 2};
  const Dims size = dims({2, 2, kTokens, kDim});
  const PluginTensorDesc in[4] = {desc(DataType::kHALF, size), desc(DataType::kHALF, size),
                                  desc(DataType::kHALF, size),
                                  desc(DataType::kINT8, dims({1, 1, 3, 3}))};
  const PluginTensorDesc out = desc(DataType::kHALF, size);
  const void* const inputs[4] = {q.bits.data(), k.bits.data(), v.bits.data(), level};
  void* const outputs[1] = {o.data()};
  std::vector<DynamicPluginTensorDesc> most;
  for (const PluginTensorDesc& one : in) most.push_back(dynamic(one.type, one.dims));
  const auto output = dynamic(DataType::kHALF, size);
  std::vector<char> room;
  void* const workspace =
      aligned(room, build(*made).getWorkspaceSize(most.data(), 4, &output, 1));
  for (int32_t tactic : {0, 1, 3}) {
    std::fill(o.begin(), o.end(), 0x7e00);
    CHECK(runtime(*plugin).setTactic(tactic) == 0, "tactic %d", tactic);
    CHECK(runtime(*plugin).onShapeChange(in, 4, &out, 1) == 0, "%s", recorder().take().c_str());
    CHECK(runtime(*plugin).enqueue(in, &out, inputs, outputs, workspace, nullptr) == 0, "%s",
          recorder().take().c_str());
    const std::vector<double> wanted =
        define(q.values, k.values, v.values, kTokens, kDim, [](int64_t i, int64_t j) {
          const auto frame = [](int64_t t) { return t < 87 && t % 29 >= 5 ? t / 29 : -1; };
          const bool kept[9] = {true, false, true, false, true, false, true, true, true};
          return frame(i) < 0 || frame(j) < 0 || kept[3 * frame(i) + frame(j)];
        });
    double worst = 0.0;
    for (size_t i = 0; i < count; ++i) {
      worst = std::fmax(worst, std::fabs(covis::float16_to_float(o[i]) - wanted[i]));
    }
    CHECK(worst < 2e-3, "largest error %g", worst);
  }
  // What must not run: a shape that was never announced, a tactic from another plan, no workspace.
  CHECK(runtime(*plugin).enqueue(in, &out, inputs, outputs, nullptr, nullptr) != 0, "no workspace");
  CHECK(recorder().take().find("workspace") != std::string::npos, "workspace is named");
  PluginTensorDesc wrong[4] = {in[0], in[1], in[2], desc(DataType::kINT8, dims({1, 1, 3, 4}))};
  CHECK(runtime(*plugin).onShapeChange(wrong, 4, &out, 1) != 0, "level of another size");
  CHECK(recorder().take().find("level is (1, 1, 3, 4)") != std::string::npos, "level is named");
  runtime(*plugin).setTactic(99);
  CHECK(runtime(*plugin).onShapeChange(in, 4, &out, 1) != 0, "tactic 99");
  CHECK(recorder().take().find("kernel is 99") != std::string::npos, "tactic is named");
}

COVIS_TEST(enqueue_select) {
  Loaded loaded;
  constexpr int64_t kTokens = 12 * 29 + 1;  // 288 patches: 3 blocks of queries, 5 of keys
  const auto made = frames().create("BlockSelect");
  std::unique_ptr<IPluginV3> plugin(runtime(*made).attachToContext(nullptr));
  const Half q(kTokens * 64, 1), k(kTokens * 64, 2);
  std::vector<int8_t> pair(144, 1), level(15, 77);
  pair[0] = 2;
  const float keep = 0.4f, cdf = 0.0f;
  const Dims size = dims({1, 1, kTokens, 64});
  const PluginTensorDesc in[5] = {desc(DataType::kHALF, size), desc(DataType::kHALF, size),
                                  desc(DataType::kINT8, dims({1, 1, 12, 12})),
                                  desc(DataType::kFLOAT, dims({})),
                                  desc(DataType::kFLOAT, dims({}))};
  const PluginTensorDesc out = desc(DataType::kINT8, dims({1, 1, 3, 5}));
  std::vector<DynamicPluginTensorDesc> most;
  for (const PluginTensorDesc& one : in) most.push_back(dynamic(one.type, one.dims));
  const auto output = dynamic(DataType::kINT8, out.dims);
  std::vector<char> room;
  void* const workspace =
      aligned(room, build(*made).getWorkspaceSize(most.data(), 5, &output, 1));
  const void* const inputs[5] = {q.bits.data(), k.bits.data(), pair.data(), &keep, &cdf};
  void* const outputs[1] = {level.data()};
  CHECK(runtime(*plugin).onShapeChange(in, 5, &out, 1) == 0, "%s", recorder().take().c_str());
  CHECK(runtime(*plugin).enqueue(in, &out, inputs, outputs, workspace, nullptr) == 0, "%s",
        recorder().take().c_str());
  for (int row = 0; row < 3; ++row) {
    int kept = 0;
    for (int col = 0; col < 5; ++col) {
      const int8_t value = level[row * 5 + col];
      CHECK(value == 0 || value == (row == 0 && col == 0 ? 2 : 1), "level %d", value);
      kept += value > 0;
    }
    CHECK(kept == 2, "row %d keeps %d of 5 at 0.4", row, kept);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  library_path = argv[1];
  getPluginRegistry()->setErrorRecorder(&recorder());
  const int32_t version = getInferLibVersion();
  for (const auto& test : covis::test::tests()) {
    const int before = covis::test::failures();
    recorder().clear();
    test.run();
    std::printf("%s %s\n", covis::test::failures() == before ? "ok  " : "FAIL", test.name);
  }
  getPluginRegistry()->setErrorRecorder(nullptr);
  dlopen(library_path, RTLD_NOW | RTLD_LOCAL);  // registered while the process ends
  std::printf("TensorRT %d, %zu tests, %d failures\n", version, covis::test::tests().size(),
              covis::test::failures());
  return covis::test::failures() == 0 ? 0 : 1;
}
