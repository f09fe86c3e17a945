#include "reference.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "block_sparse_attention/cpu/tile.h"
#include "test.h"

namespace covis::attention {
extern const Kernels kKernelsWide;  // 16 lanes, of whatever vectors this machine has
}

namespace covis::test {

double read(DataType type, const void* from, int64_t index) {
  if (type == DataType::kFloat32) return static_cast<const float*>(from)[index];
  const uint16_t bits = static_cast<const uint16_t*>(from)[index];
  return type == DataType::kFloat16 ? float16_to_float(bits) : bfloat16_to_float(bits);
}

Tokens::Tokens(DataType type, int64_t count, Random& random)
    : bytes(new char[static_cast<size_t>(count * element_size(type))]),
      values(static_cast<size_t>(count)) {
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) {
    const float value = normal(random);
    if (type == DataType::kFloat32) {
      reinterpret_cast<float*>(bytes.get())[i] = value;
    } else {
      reinterpret_cast<uint16_t*>(bytes.get())[i] =
          type == DataType::kFloat16 ? float_to_float16(value) : float_to_bfloat16(value);
    }
    values[static_cast<size_t>(i)] = read(type, bytes.get(), i);
  }
}

namespace {

Random seeded(uint32_t seed) { return Random(seed); }

}  // namespace

AttentionCase::AttentionCase(DataType type, int64_t batch, int64_t heads, int64_t tokens,
                             int64_t head_size, const TokenLayout& layout, double density,
                             bool per_head, uint32_t seed)
    : q(type, batch * heads * tokens * head_size, *std::make_unique<Random>(seeded(seed))),
      k(type, batch * heads * tokens * head_size, *std::make_unique<Random>(seeded(seed + 1))),
      v(type, batch * heads * tokens * head_size, *std::make_unique<Random>(seeded(seed + 2))) {
  params.type = type;
  params.batch = batch, params.heads = heads, params.tokens = tokens, params.head_size = head_size;
  params.query = q.bytes.get(), params.key = k.bytes.get(), params.value = v.bytes.get();
  params.layout = layout;
  params.level_batch = per_head ? batch : 1;
  params.level_heads = per_head ? heads : 1;
  params.level_rows = layout.q_regions(tokens);
  params.level_columns = layout.k_regions(tokens);
  const int64_t count =
      params.level_batch * params.level_heads * params.level_rows * params.level_columns;
  level.reset(new int8_t[static_cast<size_t>(count)]);
  Random random(seed + 3);
  std::bernoulli_distribution kept(density);
  for (int64_t i = 0; i < count; ++i) {
    level[static_cast<size_t>(i)] = static_cast<int8_t>(kept(random) ? 1 + (random() & 1u) : 0);
  }
  params.level = level.get();
}

std::vector<int64_t> patch_numbers(const TokenLayout& layout, int64_t tokens) {
  std::vector<int64_t> numbers(static_cast<size_t>(tokens), -1);
  int64_t seen = 0;
  for (int64_t t = 0; t < tokens - layout.trailing_tokens; ++t) {
    const int64_t place = t % layout.frame_tokens;
    if (place >= layout.special_first && place < layout.frame_tokens - layout.special_last) {
      numbers[static_cast<size_t>(t)] = seen++;
    }
  }
  return numbers;
}

std::vector<double> AttentionCase::definition() const {
  const AttentionParams& p = params;
  const std::vector<int64_t> numbers = patch_numbers(p.layout, p.tokens);
  std::vector<double> out(q.values.size(), 0.0), weights(static_cast<size_t>(p.tokens));
  const double scale = p.scale != 0.0f ? p.scale : 1.0 / std::sqrt(double(p.head_size));
  for (int64_t bh = 0; bh < p.batch * p.heads; ++bh) {
    const int64_t b = p.level_batch == 1 ? 0 : bh / p.heads;
    const int64_t h = p.level_heads == 1 ? 0 : bh % p.heads;
    const int8_t* map = p.level + (b * p.level_heads + h) * p.level_rows * p.level_columns;
    const double* keys = k.values.data() + bh * p.tokens * p.head_size;
    const double* values = v.values.data() + bh * p.tokens * p.head_size;
    for (int64_t i = 0; i < p.tokens; ++i) {
      const double* query = q.values.data() + (bh * p.tokens + i) * p.head_size;
      double* to = out.data() + (bh * p.tokens + i) * p.head_size;
      double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
      for (int64_t j = 0; j < p.tokens; ++j) {
        const int64_t qn = numbers[size_t(i)], kn = numbers[size_t(j)];
        const int64_t row = p.level_rows == 1 ? 0 : qn / p.layout.q_block;
        const int64_t column = p.level_columns == 1 ? 0 : kn / p.layout.k_block;
        const bool attends = qn < 0 || kn < 0 || map[row * p.level_columns + column] > 0;
        double score = attends ? 0.0 : -std::numeric_limits<double>::infinity();
        for (int64_t d = 0; attends && d < p.head_size; ++d) {
          score += query[d] * keys[j * p.head_size + d] * scale;
        }
        weights[size_t(j)] = score;
        top = std::max(top, score);
      }
      for (int64_t j = 0; j < p.tokens; ++j) {
        const double w = std::isinf(top) ? 0.0 : std::exp(weights[size_t(j)] - top);
        sum += w;
        for (int64_t d = 0; w > 0.0 && d < p.head_size; ++d)
          to[d] += w * values[j * p.head_size + d];
      }
      for (int64_t d = 0; sum > 0.0 && d < p.head_size; ++d) to[d] /= sum;
    }
  }
  return out;
}

std::vector<double> AttentionCase::run(const attention::Kernels& kernels, int threads) const {
  const int64_t count = static_cast<int64_t>(q.values.size());
  const std::unique_ptr<char[]> bytes(
      new char[static_cast<size_t>(count * element_size(params.type))]);
  std::memset(bytes.get(), 0x7f, static_cast<size_t>(count * element_size(params.type)));
  AttentionParams p = params;
  p.output = bytes.get();
  const std::string error = check_attention(p);
  CHECK(error.empty(), "%s", error.c_str());
  ThreadTeam team(threads);
  const std::string failed = block_sparse_attention(p, team.parallel_for(), kernels);
  CHECK(failed.empty(), "%s", failed.c_str());
  std::vector<double> out(q.values.size());
  for (int64_t i = 0; i < count; ++i) out[size_t(i)] = read(p.type, bytes.get(), i);
  return out;
}

double AttentionCase::error(const attention::Kernels& kernels) const {
  const std::vector<double> wanted = definition(), given = run(kernels, 2);
  double worst = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    // Written so that NaN counts as an error.
    if (!(std::abs(given[i] - wanted[i]) <= worst)) worst = std::abs(given[i] - wanted[i]);
  }
  return worst;
}

void ThreadTeam::run(void* host, int64_t count, ParallelFor::Body body, void* argument) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < static_cast<ThreadTeam*>(host)->threads_; ++t) {
    threads.emplace_back([&] {
      for (int64_t i = next++; i < count; i = next++) body(argument, i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<const attention::Kernels*> runnable_kernels() {
  std::vector<const attention::Kernels*> all{&attention::kKernelsPortable};
  const std::string best = attention::kernels().name;
#ifdef COVIS_X86
  if (best == "v3" || best == "v4") {
    all.push_back(&attention::kKernelsV3);
    all.push_back(&attention::kKernelsWide);  // compiled for v3
  }
  if (best == "v4") all.push_back(&attention::kKernelsV4);
#else
  all.push_back(&attention::kKernelsWide);
#endif
  return all;
}

}  // namespace covis::test
