// The tile table: one row per kernel, with the reason for its numbers. Shared memory and registers
// follow from the row; nothing else in the project repeats these numbers.
#pragma once

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

struct TileRow {
  int head_dim;
  int consumers;  // consumer warpgroups = query pieces (64 rows each) of a CTA
  int stages;     // key and value tiles in flight
  int producer_registers;
  int consumer_registers;
  int polynomial_of_16;  // exponentials computed on the FMA pipe, of each 16 (0 = all on the MUFU)
  bool ordered;          // consumers take turns: products of one overlap the softmax of the others
};

inline constexpr int kKeysPerStage = 2 * kPiece;  // two chunks: with N = 128, S has 64 registers

// D = 64: exponentials and products take the same time, so three warpgroups hide one behind the
// other, and 192 query rows per key tile keep L2 traffic near 2.6 TB/s at full speed.
inline constexpr TileRow kHopperD64{64, 3, 4, 32, 160, 0, true};
inline constexpr TileRow kHopperD64Polynomial{64, 3, 4, 32, 160, 4, true};
// D = 128: O needs 64 registers more, so only two warpgroups fit; products dominate and hide the
// softmax.
inline constexpr TileRow kHopperD128{128, 2, 2, 40, 232, 0, true};
// sm_80: one piece per CTA of four warps; two CTAs per SM.
inline constexpr int kPortableConsumers = 1;

constexpr TileRow hopper_row(int head_dim, bool polynomial) {
  if (head_dim == 128) return kHopperD128;
  return polynomial ? kHopperD64Polynomial : kHopperD64;
}

// Two-byte elements: Q and O staging, and `stages` key and value tiles; barriers, rings and notes
// (kHopperControlBytes) follow them. FP8 key and value tiles use the same slots; Q8 has its own.
inline constexpr int kHopperControlBytes = 1024;
inline constexpr int kHopperSkippedBytes = 1024;  // per consumer warpgroup
constexpr int hopper_shared_bytes(const TileRow& row, bool fp8) {
  const int tile = kPiece * row.head_dim * 2;
  return 2 * row.consumers * tile + row.stages * 2 * 2 * tile + kHopperControlBytes +
         row.consumers * (kHopperSkippedBytes + (fp8 ? tile / 2 : 0));
}

inline constexpr int kSharedLimit = 227 * 1024;
constexpr bool fits(const TileRow& row) {
  return hopper_shared_bytes(row, true) <= kSharedLimit &&
         128 * (row.producer_registers + row.consumers * row.consumer_registers) <= 65536 &&
         row.producer_registers % 8 == 0 && row.consumer_registers % 8 == 0;
}
static_assert(fits(kHopperD64) && fits(kHopperD64Polynomial) && fits(kHopperD128));

}  // namespace covis
