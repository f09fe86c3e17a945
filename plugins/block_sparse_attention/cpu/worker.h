// One thread's memory and its current tile of queries.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "block_sparse_attention/cpu/job.h"
#include "block_sparse_attention/cpu/key_gatherer.h"

namespace covis::attention {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

inline Floats allocate(int64_t count) {
  const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
  return Floats(static_cast<float*>(std::aligned_alloc(64, bytes)));
}

class Worker {
 public:
  explicit Worker(Job& job) : job_(job), p_(job.p), keys_(job.p, job.isa) {}

  bool allocate_memory() {
    const int64_t size = p_.head_size;
    const int64_t tile = static_cast<int64_t>(job_.max_queries) * size;
    const int64_t widened = KeyGatherer::memory(p_);
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
    const int64_t base = head_index * p_.tokens;
    int64_t rows[kTileQueries];
    for (int64_t i = 0; i < span_.count; ++i) {
      rows[i] = (base + job_.tiles.token(span_.kind, span_.first + i)) * p_.head_size;
    }
    tile_.count = static_cast<int>(span_.count);
    job_.isa.begin(tile_, p_.type, p_.query, rows, job_.query_scale);
    keys_.begin(tile_, base, widened_);
    if (span_.kind == TileSpan::Kind::kPatches) {
      add_kept_keys(head_index / p_.heads, head_index % p_.heads);
    } else {
      keys_.add(0, p_.tokens);
    }
    keys_.finish();
    job_.isa.finish(tile_, p_.type, p_.output, rows);
  }

 private:
  // Special tokens, then the patches of each region that some of the tile's queries attend to.
  void add_kept_keys(int64_t batch, int64_t head) {
    first_region_ = job_.q_region(span_.first);
    regions_ = job_.q_region(span_.first + span_.count - 1) - first_region_ + 1;
    add_specials();
    const int8_t* level = job_.level_row(batch, head, first_region_);
    int64_t region = next_kept(level, 0);
    for (; region < p_.level_columns; region = next_kept(level, region + 1)) {
      add_region(region, fill_mask(level + region) ? nullptr : region_mask_);
    }
  }

  void add_specials() {
    const TokenLayout& layout = job_.layout;
    const int64_t frames = layout.frames(p_.tokens), last = layout.special_last;
    if (layout.special_first + last > 0) {
      for (int64_t frame = 0; frame < frames; ++frame) {
        keys_.add(frame * layout.frame_tokens, layout.special_first);
        keys_.add((frame + 1) * layout.frame_tokens - last, last);
      }
    }
    keys_.add(frames * layout.frame_tokens, layout.trailing_tokens);
  }

  // The first key region from `region` on that some query region attends to, or the number of
  // regions. Skips eight at a time: rows of many frames are mostly zeros.
  int64_t next_kept(const int8_t* level, int64_t region) const {
    const int64_t columns = p_.level_columns;
    for (; region + 8 <= columns; region += 8) {
      uint64_t any = 0;
      for (int64_t r = 0; r < regions_; ++r) {
        uint64_t eight;
        std::memcpy(&eight, level + r * columns + region, sizeof eight);
        any |= eight;
      }
      if (any != 0) break;
    }
    for (; region < columns; ++region) {
      for (int64_t r = 0; r < regions_; ++r) {
        if (level[r * columns + region] != 0) return region;
      }
    }
    return columns;
  }

  // Fills region_mask_ with the queries that attend to a key region, whose column of the map begins
  // at `level`; true if all do.
  bool fill_mask(const int8_t* level) {
    const int64_t columns = p_.level_columns;
    int64_t kept = 0;
    for (int64_t r = 0; r < regions_; ++r) kept += level[r * columns] != 0 ? 1 : 0;
    if (kept == regions_) return true;
    std::fill_n(region_mask_, kMaskWords, 0u);
    for (int64_t r = 0; r < regions_; ++r) {
      if (level[r * columns] == 0) continue;
      const int64_t start = (first_region_ + r) * job_.q_block - span_.first;
      const int64_t end = std::min(start + job_.q_block, span_.count);
      for (int64_t q = std::max<int64_t>(start, 0); q < end; ++q) {
        region_mask_[q / 32] |= 1u << (q % 32);
      }
    }
    return false;
  }

  // The patches of a key region, one run in each frame that it touches.
  void add_region(int64_t region, const uint32_t* mask) {
    const TokenLayout& layout = job_.layout;
    const int64_t frame_patches = layout.frame_patches();
    int64_t patch = region * job_.k_block;
    const int64_t end = std::min(patch + job_.k_block, layout.patches(p_.tokens));
    while (patch < end) {
      const int64_t stop = std::min(end, (patch / frame_patches + 1) * frame_patches);
      const int64_t token = layout.token_of_patch(patch);
      if (mask == nullptr) {
        keys_.add(token, stop - patch);
      } else {
        keys_.add(token, stop - patch, mask);
      }
      patch = stop;
    }
  }

  Job& job_;
  const AttentionParams& p_;
  Floats memory_;
  float* widened_ = nullptr;
  QueryTile tile_;
  KeyGatherer keys_;
  TileSpan span_{};
  int64_t first_region_ = 0, regions_ = 0;  // query regions of the tile
  uint32_t region_mask_[kMaskWords];
};

}  // namespace covis::attention
