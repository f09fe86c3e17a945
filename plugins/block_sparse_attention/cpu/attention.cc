#include "block_sparse_attention/cpu/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>

#include "block_sparse_attention/cpu/job.h"
#include "block_sparse_attention/cpu/worker.h"

namespace covis {
namespace attention {
namespace {

// Long tiles first: rows of special tokens and of a reference view are many times the mean, and one
// that starts last would leave the other threads idle. Lengths are ranked by powers of two alone:
// tiles of one rank follow in numeric order, (batch, head) by (batch, head), so that all threads
// work on the keys and values of one head, which stay in the cache. A full sort of the lengths
// balances no better and would change the head at every few tiles. A tile of several regions counts
// as its first.
void order_by_cost(Job& job) {
  constexpr int64_t kMostItems = 1 << 20;
  const AttentionParams& p = job.p;
  if (job.dense || job.items > kMostItems) return;
  job.order.resize(static_cast<size_t>(job.items));
  const int64_t tiles = job.tiles.count();
  const int64_t specials = p.tokens - p.layout.patches(p.tokens);
  const bool one_map = p.level_batch == 1 && p.level_heads == 1;
  for (int64_t item = 0; item < job.items; ++item) {
    const int64_t head = item / tiles;
    uint64_t& place = job.order[static_cast<size_t>(item)];
    if (one_map && head > 0) {
      place = job.order[static_cast<size_t>(item - tiles)] + static_cast<uint64_t>(tiles);
      continue;
    }
    const TileSpan span = job.tiles.span(item - head * tiles);
    int64_t keys = p.tokens;
    if (span.kind == TileSpan::Kind::kPatches && span.count > 0) {
      const int8_t* row = job.level_row(head / p.heads, head % p.heads, job.q_region(span.first));
      const int64_t skipped = std::count(row, row + p.level_columns, int8_t{0});
      keys = specials + (p.level_columns - skipped) * job.k_block;
    }
    const uint64_t rank = 64 - std::bit_width(static_cast<uint64_t>(keys * span.count));
    place = (rank << 32) | static_cast<uint64_t>(item);
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
