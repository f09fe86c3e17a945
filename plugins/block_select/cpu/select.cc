#include "block_select/cpu/select.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "block_sparse_attention/cpu/tile.h"

namespace covis {
namespace {

// Added to `cdf` before it is compared with the cumulated mass, so that the rounding of the sum
// does not decide whether a threshold of 1 keeps everything.
constexpr double kCdfSlack = 1e-5;

// The data that the threads share. Heads are processed in groups whose pooled tokens fit the
// memory.
struct SelectJob {
  explicit SelectJob(const SelectParams& params)
      : p(params),
        rows(params.layout.q_regions(params.tokens)),
        columns(params.layout.k_regions(params.tokens)),
        patches(params.layout.patches(params.tokens)),
        frame_patches(params.layout.frame_patches()) {}

  const SelectParams& p;
  int64_t rows, columns, patches, frame_patches;
  int64_t first_head = 0, group = 0;  // (batch, head) pairs in work
  std::unique_ptr<float[]> queries;   // (group, rows, head_size)
  std::unique_ptr<float[]> keys;      // (group, head_size, columns)
  int64_t chunks = 0;                 // work items per head
  std::atomic<bool> out_of_memory{false};

  bool full_pair() const { return p.pair_rows != 1 || p.pair_columns != 1; }
};

constexpr int64_t kChunk = 16;  // regions per work item

// Pools patches [first, first + count) into out (head_size).
void pool_region(const SelectJob& job, const void* base, int64_t head, int64_t first, int64_t count,
                 float* row, float* out) {
  const SelectParams& p = job.p;
  const int64_t size = p.head_size;
  std::fill_n(out, size, p.pool == Pool::kMean ? 0.0f : -std::numeric_limits<float>::infinity());
  for (int64_t patch = first; patch < first + count; ++patch) {
    const int64_t at = (head * p.tokens + p.layout.token_of_patch(patch)) * size;
    const float* values = row;
    if (p.type == DataType::kFloat32) {
      values = static_cast<const float*>(base) + at;
    } else {
      attention::kernels().widen(p.type, static_cast<const uint16_t*>(base) + at, row, size);
    }
    if (p.pool == Pool::kMean) {
      for (int64_t d = 0; d < size; ++d) out[d] += values[d];
    } else {
      for (int64_t d = 0; d < size; ++d) {
        out[d] = values[d] > out[d] || std::isnan(values[d]) ? values[d] : out[d];
      }
    }
  }
  if (p.pool == Pool::kMean) {
    for (int64_t d = 0; d < size; ++d) out[d] /= static_cast<float>(count);
  }
}

void pool_chunk(void* argument, int64_t index) {
  SelectJob& job = *static_cast<SelectJob*>(argument);
  const SelectParams& p = job.p;
  const int64_t size = p.head_size;
  std::unique_ptr<float[]> memory(new (std::nothrow) float[static_cast<size_t>(2 * size)]);
  if (!memory) {
    job.out_of_memory.store(true);
    return;
  }
  float *row = memory.get(), *pooled = row + size;
  const int64_t member = index / job.chunks, chunk = index % job.chunks;
  const int64_t head = job.first_head + member;
  const auto length = [&job](int64_t region, int64_t block) {
    return std::min(block, job.patches - region * block);
  };
  const int64_t q_block = std::min(p.layout.q_block, job.patches);
  const int64_t k_block = std::min(p.layout.k_block, job.patches);
  for (int64_t r = chunk * kChunk; r < std::min(job.rows, (chunk + 1) * kChunk); ++r) {
    pool_region(job, p.query, head, r * q_block, length(r, q_block), row,
                job.queries.get() + (member * job.rows + r) * size);
  }
  for (int64_t c = chunk * kChunk; c < std::min(job.columns, (chunk + 1) * kChunk); ++c) {
    pool_region(job, p.key, head, c * k_block, length(c, k_block), row, pooled);
    float* to = job.keys.get() + member * size * job.columns + c;
    for (int64_t d = 0; d < size; ++d) to[d * job.columns] = pooled[d];
  }
}

// One thread's memory for rows of the score matrix.
struct RowMemory {
  std::unique_ptr<float[]> scores;
  std::unique_ptr<uint64_t[]> order;
  std::unique_ptr<int8_t[]> pair;  // by key frame: the row's level

  bool allocate(int64_t columns, int64_t frames) {
    scores.reset(new (std::nothrow) float[static_cast<size_t>(columns)]);
    order.reset(new (std::nothrow) uint64_t[static_cast<size_t>(columns)]);
    pair.reset(new (std::nothrow) int8_t[static_cast<size_t>(frames)]);
    return scores && order && pair;
  }
};

// The level each key region may have: the highest of the frame pairs that the two regions touch.
void candidate_levels(const SelectJob& job, int64_t row, int8_t* pair, int8_t* level) {
  const SelectParams& p = job.p;
  if (!job.full_pair()) {
    std::fill_n(level, job.columns, p.pair[0]);
    return;
  }
  const int64_t frames = p.layout.frames(p.tokens);
  const auto last = [&job](int64_t region, int64_t block) {
    return std::min((region + 1) * std::min(block, job.patches), job.patches) - 1;
  };
  const int64_t q_block = std::min(p.layout.q_block, job.patches);
  const int64_t k_block = std::min(p.layout.k_block, job.patches);
  std::fill_n(pair, frames, int8_t{0});
  for (int64_t f = row * q_block / job.frame_patches; f <= last(row, q_block) / job.frame_patches;
       ++f) {
    for (int64_t k = 0; k < frames; ++k) {
      const int64_t at =
          (p.pair_rows == 1 ? 0 : f) * p.pair_columns + (p.pair_columns == 1 ? 0 : k);
      pair[k] = std::max(pair[k], p.pair[at]);
    }
  }
  for (int64_t c = 0; c < job.columns; ++c) {
    const int8_t* from = pair + c * k_block / job.frame_patches;
    const int8_t* to = pair + last(c, k_block) / job.frame_patches;
    level[c] = *std::max_element(from, to + 1);
  }
}

// Scores of one pooled query against all pooled keys.
void score_row(const SelectJob& job, const float* query, const float* keys, float* scores) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(job.p.head_size));
  std::fill_n(scores, job.columns, 0.0f);
  for (int64_t d = 0; d < job.p.head_size; ++d) {
    const float q = query[d];
    const float* k = keys + d * job.columns;
    for (int64_t c = 0; c < job.columns; ++c) scores[c] += q * k[c];
  }
  for (int64_t c = 0; c < job.columns; ++c) scores[c] *= scale;
}

// Ascending integers for descending floats; -0 and 0 are equal.
uint32_t descending_key(float score) {
  const uint32_t bits = bits_from_float(score + 0.0f);
  return (bits & 0x80000000u) != 0 ? bits : 0x7fffffffu - bits;
}

// Sets `level` (candidates' levels) to 0 where the row does not keep the candidate.
void select_row(const SelectJob& job, const float* scores, uint64_t* order, int8_t* level) {
  int64_t n = 0;
  for (int64_t c = 0; c < job.columns; ++c) {
    if (level[c] == 0) continue;
    // A row that is not finite has no order: all its candidates are kept, and the attention's
    // output shows the NaN or Inf.
    if (!std::isfinite(scores[c])) return;
    order[n++] =
        (static_cast<uint64_t>(descending_key(scores[c])) << 32) | static_cast<uint64_t>(c);
  }
  if (n == 0) return;
  std::sort(order, order + n);
  const auto column = [order](int64_t rank) { return order[rank] & 0xffffffffu; };
  const auto weight = [&](int64_t rank) {
    return std::exp(scores[column(rank)] - scores[column(0)]);
  };
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += weight(i);
  const double limit = (static_cast<double>(job.p.cdf) + kCdfSlack) * sum;
  double mass = 0.0;
  int64_t kept = 0;
  for (; kept < n; ++kept) {
    mass += weight(kept);
    if (mass > limit) break;
  }
  const double top_k = std::floor(static_cast<double>(job.p.keep_ratio) * static_cast<double>(n));
  kept = std::min(std::max({kept, static_cast<int64_t>(top_k), int64_t{1}}), n);
  for (int64_t i = kept; i < n; ++i) level[column(i)] = 0;
}

void select_chunk(void* argument, int64_t index) {
  SelectJob& job = *static_cast<SelectJob*>(argument);
  const int64_t member = index / job.chunks, chunk = index % job.chunks;
  RowMemory memory;
  if (!memory.allocate(job.columns, job.p.layout.frames(job.p.tokens))) {
    job.out_of_memory.store(true);
    return;
  }
  const int64_t size = job.p.head_size;
  for (int64_t r = chunk * kChunk; r < std::min(job.rows, (chunk + 1) * kChunk); ++r) {
    int8_t* level = job.p.level + ((job.first_head + member) * job.rows + r) * job.columns;
    candidate_levels(job, r, memory.pair.get(), level);
    score_row(job, job.queries.get() + (member * job.rows + r) * size,
              job.keys.get() + member * size * job.columns, memory.scores.get());
    select_row(job, memory.scores.get(), memory.order.get(), level);
  }
}

}  // namespace

std::string check_select(const SelectParams& p) {
  if (std::string error = check_layout(p.layout); !error.empty()) return error;
  if (std::string error = check_tokens(p.layout, p.tokens); !error.empty()) return error;
  const struct {
    const char* name;
    float value;
  } shares[] = {{"keep_ratio", p.keep_ratio}, {"cdf", p.cdf}};
  for (const auto& share : shares) {
    if (!(share.value >= 0.0f && share.value <= 1.0f)) {
      return "input " + std::string(share.name) + " is " + std::to_string(share.value) +
             ", must be from 0 to 1";
    }
  }
  const int64_t frames = p.layout.frames(p.tokens);
  const bool one = p.pair_rows == 1 && p.pair_columns == 1;
  if (!one && (p.pair_rows != frames || p.pair_columns != frames)) {
    return "input pair is " + std::to_string(p.pair_rows) + " x " + std::to_string(p.pair_columns) +
           " (axes 2, 3), must be 1 x 1 or " + std::to_string(frames) + " x " +
           std::to_string(frames) + " (frames)";
  }
  for (int64_t i = 0; i < p.pair_rows * p.pair_columns; ++i) {
    if (p.pair[i] < 0 || p.pair[i] > 2) {
      return "input pair holds " + std::to_string(p.pair[i]) + " at element " + std::to_string(i) +
             ", must be 0, 1 or 2";
    }
  }
  if (p.layout.k_regions(p.tokens) > std::numeric_limits<uint32_t>::max()) {
    return "attribute k_block is " + std::to_string(p.layout.k_block) + ", too small for " +
           std::to_string(p.tokens) + " tokens";
  }
  return {};
}

std::string block_select(const SelectParams& p, const ParallelFor& parallel_for) try {
  SelectJob job(p);
  if (job.rows == 0 || job.columns == 0) return {};
  constexpr int64_t kMemory = 16 << 20;
  const int64_t all = p.batch * p.heads;
  const int64_t head_bytes = (job.rows + job.columns) * p.head_size * 4;
  const int64_t group = std::clamp<int64_t>(kMemory / head_bytes, 1, all);
  job.queries.reset(new float[static_cast<size_t>(group * job.rows * p.head_size)]);
  job.keys.reset(new float[static_cast<size_t>(group * job.columns * p.head_size)]);
  for (job.first_head = 0; job.first_head < all; job.first_head += group) {
    job.group = std::min(group, all - job.first_head);
    job.chunks = TokenLayout::ceil_div(std::max(job.rows, job.columns), kChunk);
    parallel_for.run(parallel_for.host, job.group * job.chunks, pool_chunk, &job);
    job.chunks = TokenLayout::ceil_div(job.rows, kChunk);
    parallel_for.run(parallel_for.host, job.group * job.chunks, select_chunk, &job);
    if (job.out_of_memory.load()) return "out of memory";
  }
  return {};
} catch (const std::bad_alloc&) {
  return "out of memory";
}

}  // namespace covis
