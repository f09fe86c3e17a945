#include "block_sparse_attention/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "block_sparse_attention/cpu/query_tiles.h"
#include "block_sparse_attention/cpu/tile.h"

namespace covis {
namespace attention {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats allocate(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  return Floats(static_cast<float*>(std::aligned_alloc(64, bytes)));
}

bool all_nonzero(const AttentionParams& p) {
  const int64_t count = p.level_batch * p.level_heads * p.level_rows * p.level_columns;
  return std::memchr(p.level, 0, static_cast<size_t>(count)) == nullptr;
}

// Without special tokens, frames do not matter: all of them are one.
TokenLayout merged(TokenLayout layout, int64_t tokens) {
  if (layout.special_first == 0 && layout.special_last == 0 && layout.frames(tokens) > 0) {
    layout.frame_tokens = tokens - layout.trailing_tokens;
  }
  return layout;
}

// Everything that the work items share.
struct Job {
  Job(const AttentionParams& params, const Kernels& kernels)
      : p(params),
        isa(kernels),
        dense(params.layout.patches(params.tokens) == 0 || all_nonzero(params)),
        max_queries(queries_that_fit(params.head_size)),
        q_block(params.level_rows == 1 ? params.tokens : params.layout.q_block),
        k_block(params.level_columns == 1 ? params.tokens : params.layout.k_block),
        layout(merged(params.layout, params.tokens)),
        tiles(layout, params.tokens, q_block, dense, max_queries),
        items(params.batch * params.heads * tiles.count()) {
    const float scale =
        p.scale != 0.0f ? p.scale : 1.0f / std::sqrt(static_cast<float>(p.head_size));
    query_scale = scale * kLog2E;
  }

  // Large heads get smaller tiles, so that a thread's memory stays small.
  static int queries_that_fit(int64_t head_size) {
    int queries = kTileQueries;
    while (queries > 32 && queries * head_size > (1 << 16)) queries /= 2;
    return queries;
  }

  const int8_t* level_row(int64_t batch, int64_t head, int64_t region) const {
    const int64_t b = p.level_batch == 1 ? 0 : batch, h = p.level_heads == 1 ? 0 : head;
    return p.level + ((b * p.level_heads + h) * p.level_rows + region) * p.level_columns;
  }

  int64_t q_region(int64_t patch) const { return p.level_rows == 1 ? 0 : patch / q_block; }

  const AttentionParams& p;
  const Kernels& isa;
  bool dense;
  int max_queries;
  int64_t q_block, k_block;  // a dimension of 1 is one region of all tokens
  TokenLayout layout;
  QueryTiles tiles;
  int64_t items;  // (batch, head, tile), the last fastest
  float query_scale;
  std::vector<uint64_t> order;  // empty: in numeric order
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
};

// One thread's memory and its current tile of queries.
class Worker {
 public:
  explicit Worker(Job& job) : job_(job), p_(job.p) {}

  bool allocate_memory() {
    const int64_t size = p_.head_size;
    const int64_t tile = static_cast<int64_t>(job_.max_queries) * size;
    const int64_t widened = p_.type == DataType::kFloat32 ? 0 : 2 * kTileKeys * size;
    memory_ = allocate(2 * tile + widened + size + kTileKeys * job_.isa.panel + 4 * 16);
    if (!memory_) return false;
    float* at = memory_.get();
    const auto take = [&at](int64_t count) {
      float* taken = at;
      at += (count + 15) / 16 * 16;
      return taken;
    };
    tile_.queries = take(tile);
    tile_.outputs = take(tile);
    tile_.scores = take(kTileKeys * job_.isa.panel);
    float* zeros = take(size);
    std::fill_n(zeros, size, 0.0f);
    tile_.zeros = zeros;
    widened_ = at;
    tile_.head_size = size;
    return true;
  }

  void run(int64_t item) {
    const int64_t head_index = item / job_.tiles.count();
    span_ = job_.tiles.span(item - head_index * job_.tiles.count());
    if (span_.count == 0) return;
    batch_ = head_index / p_.heads;
    head_ = head_index - batch_ * p_.heads;
    base_ = head_index * p_.tokens;
    int64_t rows[kTileQueries];
    for (int64_t i = 0; i < span_.count; ++i) {
      rows[i] = (base_ + job_.tiles.token(span_.kind, span_.first + i)) * p_.head_size;
    }
    tile_.count = static_cast<int>(span_.count);
    job_.isa.begin(tile_, p_.type, p_.query, rows, job_.query_scale);
    keys_.count = 0;
    keys_.masked = false;
    if (span_.kind == TileSpan::Kind::kPatches) {
      add_kept_keys();
    } else {
      add_run(0, p_.tokens, nullptr);
    }
    flush();
    job_.isa.finish(tile_, p_.type, p_.output, rows);
  }

 private:
  // Keys in sequence order: special tokens always, patches by their region's level.
  void add_kept_keys() {
    const TokenLayout& layout = job_.layout;
    const int64_t frame_patches = layout.frame_patches();
    first_region_ = job_.q_region(span_.first);
    regions_ = job_.q_region(span_.first + span_.count - 1) - first_region_ + 1;
    const int64_t frames = layout.frames(p_.tokens);
    int64_t region = -1, region_end = 0;
    Kept kept = Kept::kNone;
    for (int64_t frame = 0; frame < frames; ++frame) {
      const int64_t token = frame * layout.frame_tokens;
      add_run(token, layout.special_first, nullptr);
      const int64_t first = frame * frame_patches, end = first + frame_patches;
      for (int64_t patch = first; patch < end;) {
        if (patch >= region_end) {
          ++region;
          region_end = (region + 1) * job_.k_block;
          kept = region_kept(region);
        }
        const int64_t stop = std::min(region_end, end);
        if (kept != Kept::kNone) {
          add_run(token + layout.special_first + (patch - first), stop - patch,
                  kept == Kept::kSome ? region_mask_ : nullptr);
        }
        patch = stop;
      }
      add_run(token + layout.frame_tokens - layout.special_last, layout.special_last, nullptr);
    }
    add_run(frames * layout.frame_tokens, layout.trailing_tokens, nullptr);
  }

  enum class Kept { kNone, kSome, kAll };

  // Whether none, some or all of the tile's queries attend to a key region; fills region_mask_ for
  // kSome.
  Kept region_kept(int64_t region) {
    const int64_t columns = p_.level_columns;
    const int8_t* level = job_.level_row(batch_, head_, first_region_) + region;
    int64_t kept = 0;
    for (int64_t r = 0; r < regions_; ++r) kept += level[r * columns] != 0 ? 1 : 0;
    if (kept == 0) return Kept::kNone;
    if (kept == regions_) return Kept::kAll;
    std::fill_n(region_mask_, kMaskWords, 0u);
    for (int64_t r = 0; r < regions_; ++r) {
      if (level[r * columns] == 0) continue;
      const int64_t start = (first_region_ + r) * job_.q_block - span_.first;
      const int64_t end = std::min(start + job_.q_block, span_.count);
      for (int64_t q = std::max<int64_t>(start, 0); q < end; ++q) {
        region_mask_[q / 32] |= 1u << (q % 32);
      }
    }
    return Kept::kSome;
  }

  // `count` keys from sequence index `token` on, for the queries of `mask`, or for all of them.
  void add_run(int64_t token, int64_t count, const uint32_t* mask) {
    const int64_t size = p_.head_size;
    while (count > 0) {
      const int64_t taken = std::min<int64_t>(count, kTileKeys - keys_.count);
      const int64_t from = (base_ + token) * size;
      const float *keys, *values;
      if (p_.type == DataType::kFloat32) {
        keys = static_cast<const float*>(p_.key) + from;
        values = static_cast<const float*>(p_.value) + from;
      } else {
        float* key_rows = widened_ + keys_.count * size;
        float* value_rows = key_rows + kTileKeys * size;
        job_.isa.widen(p_.type, static_cast<const uint16_t*>(p_.key) + from, key_rows,
                       taken * size);
        job_.isa.widen(p_.type, static_cast<const uint16_t*>(p_.value) + from, value_rows,
                       taken * size);
        keys = key_rows;
        values = value_rows;
      }
      if (mask != nullptr && !keys_.masked) {
        keys_.masked = true;
        std::memset(keys_.mask, 0xff, sizeof(keys_.mask[0]) * static_cast<size_t>(keys_.count));
      }
      for (int64_t i = 0; i < taken; ++i) {
        const int at = keys_.count + static_cast<int>(i);
        keys_.keys[at] = keys + i * size;
        keys_.values[at] = values + i * size;
        if (keys_.masked) {
          if (mask != nullptr) {
            std::copy_n(mask, kMaskWords, keys_.mask[at]);
          } else {
            std::fill_n(keys_.mask[at], kMaskWords, ~0u);
          }
        }
      }
      keys_.count += static_cast<int>(taken);
      if (keys_.count == kTileKeys) flush();
      token += taken;
      count -= taken;
    }
  }

  void flush() {
    if (keys_.count > 0) job_.isa.attend(tile_, keys_);
    keys_.count = 0;
    keys_.masked = false;
  }

  Job& job_;
  const AttentionParams& p_;
  Floats memory_;
  float* widened_ = nullptr;
  QueryTile tile_;
  KeyTile keys_;
  TileSpan span_{};
  int64_t batch_ = 0, head_ = 0;
  int64_t base_ = 0;  // first row of this (batch, head)
  int64_t first_region_ = 0, regions_ = 0;
  uint32_t region_mask_[kMaskWords];
};

// Longest first: rows of special tokens and of a reference view are many times the mean, and one
// that starts last would leave the other threads idle.
void order_by_cost(Job& job) {
  constexpr int64_t kMostItems = 1 << 20;
  const AttentionParams& p = job.p;
  if (job.dense || job.items > kMostItems || job.q_block < kTileQueries / 2) return;
  job.order.resize(static_cast<size_t>(job.items));
  const int64_t tiles = job.tiles.count();
  for (int64_t item = 0; item < job.items; ++item) {
    const int64_t head = item / tiles;
    const TileSpan span = job.tiles.span(item - head * tiles);
    int64_t kept = p.level_columns;
    if (span.kind == TileSpan::Kind::kPatches && span.count > 0) {
      const int8_t* row = job.level_row(head / p.heads, head % p.heads, job.q_region(span.first));
      kept = p.level_columns - std::count(row, row + p.level_columns, int8_t{0});
    }
    // Lengths are rounded to 256ths of a full row and 16ths of a tile, so that items of nearly
    // equal length stay neighbours in memory.
    const int64_t cost =
        kept * 256 / std::max<int64_t>(1, p.level_columns) * ((span.count + 15) / 16);
    job.order[static_cast<size_t>(item)] =
        (static_cast<uint64_t>(0xffffff - cost) << 32) | static_cast<uint64_t>(item);
  }
  std::sort(job.order.begin(), job.order.end());
}

void work(void* argument, int64_t) {
  Job& job = *static_cast<Job*>(argument);
  std::unique_ptr<Worker> worker;
  while (!job.out_of_memory.load(std::memory_order_relaxed)) {
    const int64_t next = job.next.fetch_add(1, std::memory_order_relaxed);
    if (next >= job.items) return;
    if (!worker) {
      worker.reset(new (std::nothrow) Worker(job));
      if (!worker || !worker->allocate_memory()) {
        job.out_of_memory.store(true);
        return;
      }
    }
    worker->run(job.order.empty()
                    ? next
                    : static_cast<int64_t>(job.order[static_cast<size_t>(next)] & 0xffffffffu));
  }
}

}  // namespace
}  // namespace attention

std::string check_scale(float scale) {
  if (std::isfinite(scale) && scale >= 0.0f) return {};
  return "attribute scale is " + std::to_string(scale) + ", must be finite and at least 0";
}

std::string check_attention(const AttentionParams& p) {
  if (std::string error = check_layout(p.layout); !error.empty()) return error;
  if (std::string error = check_scale(p.scale); !error.empty()) return error;
  if (std::string error = check_tokens(p.layout, p.tokens); !error.empty()) return error;
  const auto fits = [](int64_t dimension, int64_t full) {
    return dimension == 1 || dimension == full;
  };
  const int64_t rows = p.layout.q_regions(p.tokens), columns = p.layout.k_regions(p.tokens);
  const struct {
    const char* meaning;
    int axis;
    int64_t dimension, full;
  } dimensions[] = {{"batch", 0, p.level_batch, p.batch},
                    {"heads", 1, p.level_heads, p.heads},
                    {"query regions", 2, p.level_rows, rows},
                    {"key regions", 3, p.level_columns, columns}};
  for (const auto& d : dimensions) {
    if (!fits(d.dimension, d.full)) {
      return "input level has " + std::to_string(d.dimension) + " " + d.meaning + " (axis " +
             std::to_string(d.axis) + "), must be 1 or " + std::to_string(d.full);
    }
  }
  const int64_t count = p.level_batch * p.level_heads * p.level_rows * p.level_columns;
  const auto bad = [](int8_t level) { return static_cast<uint8_t>(level) > 2; };
  for (int64_t start = 0; start < count; start += 4096) {  // without early exit: vectorised
    const int8_t *from = p.level + start, *to = p.level + std::min(start + 4096, count);
    bool any = false;
    for (const int8_t* at = from; at < to; ++at) any |= bad(*at);
    if (!any) continue;
    const int8_t* at = std::find_if(from, to, bad);
    return "input level holds " + std::to_string(*at) + " at element " +
           std::to_string(at - p.level) + ", must be 0, 1 or 2";
  }
  return {};
}

std::string block_sparse_attention(const AttentionParams& p, const ParallelFor& parallel_for) {
  return block_sparse_attention(p, parallel_for, attention::kernels());
}

std::string block_sparse_attention(const AttentionParams& p, const ParallelFor& parallel_for,
                                   const attention::Kernels& kernels) try {
  attention::Job job(p, kernels);
  attention::order_by_cost(job);
  // More calls than any machine has threads: the last ones find no work.
  constexpr int64_t kMostThreads = 256;
  parallel_for.run(parallel_for.host, std::min(job.items, kMostThreads), attention::work, &job);
  if (job.out_of_memory.load()) return "out of memory";
  return {};
} catch (const std::bad_alloc&) {
  return "out of memory";
}

}  // namespace covis
