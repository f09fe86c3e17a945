// What of the plugin no builder reaches without a GPU: the kernels it launches, the plan it is kept
// in. Usage: covis_trt_plugin_test LIBRARY
//
// No TensorRT is loaded: its headers are enough. Beside LIBRARY lies a libcovis_kernels.so made for
// the host (host_kernels.cc), so that enqueue runs on host memory and its results are compared with
// the definition in float64. Registration, fields, types and shapes: test_plugin.py.
#include <cmath>
#include <random>

#include "common/half.h"
#include "plugin_harness.h"

namespace {

using namespace plugin_harness;

COVIS_TEST(format_table) {
  const DataType all[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8,
                          DataType::kINT32, DataType::kBOOL, DataType::kUINT8,
                          DataType::kFP8,   DataType::kBF16, DataType::kINT64};
  const TensorFormat formats[] = {TensorFormat::kLINEAR, TensorFormat::kCHW2, TensorFormat::kHWC8,
                                  TensorFormat::kCHW32, TensorFormat::kHWC};
  struct {
    const char* op;
    int inputs;
    std::vector<DataType> first;
    bool (*wanted)(int pos, DataType first, DataType type);
  } ops[] = {{"BlockSparseAttention",
              4,
              {DataType::kHALF, DataType::kBF16},
              [](int pos, DataType first, DataType type) {
                return type == (pos == 3 ? DataType::kINT8 : first);
              }},
             {"BlockSelect",
              5,
              {DataType::kHALF, DataType::kBF16, DataType::kFLOAT},
              [](int pos, DataType first, DataType type) {
                return type == (pos < 2                ? first
                                : pos == 3 || pos == 4 ? DataType::kFLOAT
                                                       : DataType::kINT8);
              }},
             {"FarthestFirst", 3, {DataType::kFLOAT}, [](int pos, DataType first, DataType type) {
                return type == (pos == 0 ? first : pos == 3 ? DataType::kINT32 : DataType::kINT64);
              }}};
  for (const auto& op : ops) {
    const bool plain = std::strcmp(op.op, "FarthestFirst") == 0;
    const auto plugin = (plain ? Fields() : frames()).create(op.op);
    for (DataType first : all) {
      const bool known = std::find(op.first.begin(), op.first.end(), first) != op.first.end();
      for (int pos = known ? 1 : 0; pos <= (known ? op.inputs : 0); ++pos) {
        for (DataType type : all) {
          for (TensorFormat format : formats) {
            std::vector<DynamicPluginTensorDesc> tensors(pos + 1, dynamic(first));
            tensors[pos].desc.type = pos == 0 ? first : type;
            tensors[pos].desc.format = format;
            const bool wanted =
                known && format == TensorFormat::kLINEAR && op.wanted(pos, first, type);
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
  CHECK(reports().take().empty(), "reports");
}

COVIS_TEST(configure_tactics_workspace) {
  const auto plugin =
      frames().integer("q_block", 24).integer("k_block", 24).create("BlockSparseAttention");
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
        reports().take().c_str());
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
  const auto fp8 = frames()
                       .integer("q_block", 24)
                       .integer("k_block", 24)
                       .text("precision", "fp8")
                       .create("BlockSparseAttention");
  CHECK(build(*fp8).configurePlugin(wide.data(), 4, &out, 1) == 0, "%s", reports().take().c_str());
  const size_t tokens = size_t{16} * (500 * 29 + 1) * 64;
  const size_t more = build(*fp8).getWorkspaceSize(wide.data(), 4, &out, 1);
  CHECK(more >= bytes + 2 * tokens, "%zu with fp8, %zu without", more, bytes);
  const auto bad = profile(1, 4, 80);
  CHECK(build(*plugin).configurePlugin(bad.data(), 4, &out, 1) != 0, "head_dim 80");
  CHECK(reports().take().find("head_dim is 80; 64 and 128 are supported") != std::string::npos,
        "head_dim is named");

  const auto select = frames().create("BlockSelect");
  auto inputs = profile(1, 500, 64);
  inputs.erase(inputs.begin() + 2);
  inputs.push_back(dynamic(DataType::kFLOAT, dims({})));
  inputs.push_back(dynamic(DataType::kFLOAT, dims({})));
  CHECK(build(*select).configurePlugin(inputs.data(), 5, &out, 1) == 0, "%s",
        reports().take().c_str());
  CHECK(build(*select).getNbTactics() == 0, "tactics");
  CHECK(build(*select).getWorkspaceSize(inputs.data(), 5, &out, 1) >
            size_t{16} * 64 * 4 * (500 * 24 / 128 + 500 * 24 / 64),
        "pooled queries and keys");
}

COVIS_TEST(configure_farthest) {
  const auto plugin = Fields().create("FarthestFirst");
  const auto out = dynamic(DataType::kINT32, dims({1}));
  const auto profile = [](int64_t most) {
    return std::vector<DynamicPluginTensorDesc>{
        dynamic(DataType::kFLOAT, dims({1, 1}), dims({most, most})),
        dynamic(DataType::kINT64, dims({1}), dims({most})), dynamic(DataType::kINT64, dims({}))};
  };
  const auto wide = profile(16384);
  CHECK(build(*plugin).configurePlugin(wide.data(), 3, &out, 1) == 0, "%s",
        reports().take().c_str());
  CHECK(build(*plugin).getNbTactics() == 0, "tactics");
  CHECK(build(*plugin).getWorkspaceSize(wide.data(), 3, &out, 1) == 0, "workspace");
  const auto wider = profile(16385);
  CHECK(build(*plugin).configurePlugin(wider.data(), 3, &out, 1) != 0, "too many views");
  CHECK(reports().take().find("views is 16385; up to 16384") != std::string::npos, "named");
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
  const std::pair<const char*, Fields> ops[] = {
      {"BlockSparseAttention", frames().text("precision", "fp8").number("scale", 0.5f)},
      {"BlockSelect", frames().text("pool", "max")},
      {"FarthestFirst", {}}};
  for (const auto& [op, fields] : ops) {
    auto plugin = fields.create(op);
    const std::string before = serialised(*plugin);
    auto again =
        Fields::create(op, runtime(*plugin).getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    CHECK(again != nullptr, "%s", reports().take().c_str());
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
    CHECK(reports().take().find(missing) != std::string::npos, "%s", missing.c_str());
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
  reports().take();
  const int32_t newer = 2;
  std::vector<PluginField> version = fields;
  version[0].data = &newer;
  CHECK(load(version) == nullptr, "a newer version");
  CHECK(reports().take().find("made by another version of this plugin") != std::string::npos, "2");
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
  void* const workspace = aligned(room, build(*made).getWorkspaceSize(most.data(), 4, &output, 1));
  for (int32_t tactic : {0, 1, 3}) {
    std::fill(o.begin(), o.end(), 0x7e00);
    CHECK(runtime(*plugin).setTactic(tactic) == 0, "tactic %d", tactic);
    CHECK(runtime(*plugin).onShapeChange(in, 4, &out, 1) == 0, "%s", reports().take().c_str());
    CHECK(runtime(*plugin).enqueue(in, &out, inputs, outputs, workspace, nullptr) == 0, "%s",
          reports().take().c_str());
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
  CHECK(reports().take().find("workspace") != std::string::npos, "workspace is named");
  PluginTensorDesc wrong[4] = {in[0], in[1], in[2], desc(DataType::kINT8, dims({1, 1, 3, 4}))};
  CHECK(runtime(*plugin).onShapeChange(wrong, 4, &out, 1) != 0, "level of another size");
  CHECK(reports().take().find("level is (1, 1, 3, 4)") != std::string::npos, "level is named");
  runtime(*plugin).setTactic(99);
  CHECK(runtime(*plugin).onShapeChange(in, 4, &out, 1) != 0, "tactic 99");
  CHECK(reports().take().find("kernel is 99") != std::string::npos, "tactic is named");
}

COVIS_TEST(enqueue_select) {
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
  void* const workspace = aligned(room, build(*made).getWorkspaceSize(most.data(), 5, &output, 1));
  const void* const inputs[5] = {q.bits.data(), k.bits.data(), pair.data(), &keep, &cdf};
  void* const outputs[1] = {level.data()};
  CHECK(runtime(*plugin).onShapeChange(in, 5, &out, 1) == 0, "%s", reports().take().c_str());
  CHECK(runtime(*plugin).enqueue(in, &out, inputs, outputs, workspace, nullptr) == 0, "%s",
        reports().take().c_str());
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

COVIS_TEST(enqueue_farthest) {
  const auto made = Fields().create("FarthestFirst");
  std::unique_ptr<IPluginV3> plugin(runtime(*made).attachToContext(nullptr));
  // Views 0 and 1 are alike, 3 is like no other; 2 is given first.
  const float similarity[16] = {1.0f, 0.9f, 0.5f, 0.1f,  0.9f, 1.0f, 0.5f,  0.1f,
                                0.5f, 0.5f, 1.0f, 0.25f, 0.1f, 0.1f, 0.25f, 1.0f};
  const int64_t given[4] = {2, -1, -1, -1}, count = 3;
  int32_t rank[4] = {77, 77, 77, 77};
  const PluginTensorDesc in[3] = {desc(DataType::kFLOAT, dims({4, 4})),
                                  desc(DataType::kINT64, dims({4})),
                                  desc(DataType::kINT64, dims({}))};
  const PluginTensorDesc out = desc(DataType::kINT32, dims({4}));
  const void* const inputs[3] = {similarity, given, &count};
  void* const outputs[1] = {rank};
  CHECK(runtime(*plugin).onShapeChange(in, 3, &out, 1) == 0, "%s", reports().take().c_str());
  CHECK(runtime(*plugin).enqueue(in, &out, inputs, outputs, nullptr, nullptr) == 0, "%s",
        reports().take().c_str());
  const int32_t wanted[4] = {2, 4, 0, 1};
  CHECK(std::equal(rank, rank + 4, wanted), "%d %d %d %d", rank[0], rank[1], rank[2], rank[3]);
  const PluginTensorDesc wrong[3] = {in[0], desc(DataType::kINT64, dims({5})), in[2]};
  CHECK(runtime(*plugin).onShapeChange(wrong, 3, &out, 1) != 0, "given of another size");
  CHECK(
      reports().take().find("given is (5), must be (M), similarity is (4, 4)") != std::string::npos,
      "given is named");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  library_path = argv[1];
  exported<void(ILoggerFinder*)>("setLoggerFinder")(&reports());
  for (const auto& test : covis::test::tests()) {
    const int before = covis::test::failures();
    reports().take();
    test.run();
    std::printf("%s %s\n", covis::test::failures() == before ? "ok  " : "FAIL", test.name);
  }
  std::printf("%zu tests, %d failures\n", covis::test::tests().size(), covis::test::failures());
  return covis::test::failures() == 0 ? 0 : 1;
}
