// The keys of one tile of queries, gathered into tiles of keys and attended to when these are full.
#pragma once

#include <algorithm>
#include <cstdint>

#include "block_sparse_attention/cpu/attention.h"
#include "block_sparse_attention/cpu/tile.h"

namespace covis::attention {

// Keys that every query of the tile attends to, and keys that only some attend to (those of `mask`)
// fill tiles of their own. The former, which are nearly all keys of rows that share a list, then
// need no mask; and a tile of the latter ends where other queries begin to attend, so that each
// panel of queries computes little more than its own keys (the own frames of small frames that
// share a tile of queries).
class KeyGatherer {
 public:
  KeyGatherer(const AttentionParams& params, const Kernels& kernels) : p_(params), isa_(kernels) {
    shared_.masked = false;
    masked_.masked = true;
  }

  // Floats of memory that 16-bit types need for rows in float32.
  static int64_t memory(const AttentionParams& p) {
    return p.type == DataType::kFloat32 ? 0 : 4 * kTileKeys * p.head_size;
  }

  // Starts a tile of queries; token 0 of its batch and head is row `base` of K and V.
  void begin(QueryTile& tile, int64_t base, float* memory) {
    tile_ = &tile;
    base_ = base;
    memory_ = memory;
    shared_.count = masked_.count = 0;
  }

  // `count` keys from sequence index `token` on, to which all queries attend.
  void add(int64_t token, int64_t count) { append(shared_, token, count, nullptr); }

  // The same for the queries of `mask` alone.
  void add(int64_t token, int64_t count, const uint32_t* mask) {
    const uint32_t groups = query_groups(mask);
    if (masked_.count >= kLeastKeys && groups != groups_) attend(masked_);
    groups_ = masked_.count == 0 ? groups : groups_ | groups;
    append(masked_, token, count, mask);
  }

  void finish() {
    attend(shared_);
    attend(masked_);
  }

 private:
  // A shorter tile costs more for its own sake than it saves by the panels that it skips.
  static constexpr int kLeastKeys = 12;

  // Bit g: some of queries 16 g to 16 g + 15 are in the mask.
  static uint32_t query_groups(const uint32_t* mask) {
    uint32_t groups = 0;
    for (int w = 0; w < kMaskWords; ++w) {
      if ((mask[w] & 0xffffu) != 0) groups |= 1u << (2 * w);
      if ((mask[w] >> 16) != 0) groups |= 2u << (2 * w);
    }
    return groups;
  }

  void append(KeyTile& keys, int64_t token, int64_t count, const uint32_t* mask) {
    while (count > 0) {
      const int64_t taken = std::min<int64_t>(count, kTileKeys - keys.count);
      const float* key = rows(keys, p_.key, 0, token, taken);
      const float* value = rows(keys, p_.value, 1, token, taken);
      for (int64_t i = 0; i < taken; ++i) {
        const int at = keys.count + static_cast<int>(i);
        keys.keys[at] = key + i * p_.head_size;
        keys.values[at] = value + i * p_.head_size;
        if (mask != nullptr) std::copy_n(mask, kMaskWords, keys.mask[at]);
      }
      keys.count += static_cast<int>(taken);
      if (keys.count == kTileKeys) attend(keys);
      token += taken;
      count -= taken;
    }
  }

  // `count` rows of K or V (`which`) in float32: in place, or widened behind those in the tile.
  const float* rows(const KeyTile& keys, const void* from, int which, int64_t token,
                    int64_t count) {
    const int64_t size = p_.head_size, offset = (base_ + token) * size;
    if (p_.type == DataType::kFloat32) return static_cast<const float*>(from) + offset;
    const int64_t place = (keys.masked ? 2 : 0) + which;
    float* to = memory_ + (place * kTileKeys + keys.count) * size;
    isa_.widen(p_.type, static_cast<const uint16_t*>(from) + offset, to, count * size);
    return to;
  }

  void attend(KeyTile& keys) {
    if (keys.count > 0) isa_.attend(*tile_, keys);
    keys.count = 0;
  }

  const AttentionParams& p_;
  const Kernels& isa_;
  KeyTile shared_, masked_;
  uint32_t groups_ = 0;  // of the keys in masked_
  QueryTile* tile_ = nullptr;
  float* memory_ = nullptr;
  int64_t base_ = 0;
};

}  // namespace covis::attention
