// The key list of a query tile, never stored: the walker reads the tile's level row in steps of
// 32 key units (one per lane) and expands those that are computed into chunks of at most kPiece
// keys. Rows of frame-pair maps are M bytes and shared by all heads and tiles of a frame; rows of
// per-head maps are read once or twice in the whole launch. So there is no list to build, store or
// overflow.
//
// The list is walked in sweeps: whole chunks first, then the short and partial ones, so that only
// the latter are masked. With FP8, level 1 comes before all others: its chunks
// are cells of the running patch number (quantize.h), whose storage ignores frame boundaries, so
// that only the ends of a run of neighbouring units are masked.
#pragma once

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

enum class Unit : int32_t { kSkip = 0, kLow = 1, kFull = 2, kPartial = 3 };

struct Chunk {
  int32_t frame;
  int32_t row;    // first patch counted in the frame, or first special; of a low chunk: its cell's
                  // first patch, running number
  int32_t count;  // valid keys, 1..kPiece
  int32_t patch;  // first valid patch, running number
  bool special;   // keys come from the gathered specials
  bool partial;   // needs the element rule
  bool low;       // computed in FP8; its keys are columns patch - row .. patch - row + count - 1
};

// The rows of the level map that a query tile touches.
struct LevelRows {
  const int8_t* level = nullptr;  // of the tile's batch and head; null = every key (special tiles)
  int32_t first = 0, last = -1;   // regions, inclusive
};

COVIS_HD LevelRows level_rows(const Geometry& g, const int8_t* level, const QueryTile& tile) {
  LevelRows rows;
  if (tile.special) return rows;
  rows.level = level_of(g, level, tile.batch, tile.head);
  for (int32_t i = 0; i < g.width; ++i) {
    const Piece piece = query_piece(g, tile, i);
    if (piece.count == 0) break;
    if (i == 0) rows.first = static_cast<int32_t>(g.q_block_div(piece.patch));
    rows.last = static_cast<int32_t>(g.q_block_div(piece.patch + piece.count - 1));
  }
  return rows;
}

// Patches of key unit `unit`.
COVIS_HD void unit_patches(const Geometry& g, int32_t unit, int32_t* begin, int32_t* end) {
  if (g.units_are_regions != 0) {
    *begin = unit * g.k_block;
    *end = min_int(*begin + g.k_block, g.total_patches);
    return;
  }
  const Piece piece = piece_of_ordinal(g, Cut::kFrame, unit);
  *begin = piece.patch;
  *end = piece.patch + piece.count;
}

// How a key unit is computed, decided for all rows of the tile together.
COVIS_HD Unit classify(const Geometry& g, const LevelRows& rows, int32_t unit) {
  if (unit >= g.units) return Unit::kSkip;
  if (rows.level == nullptr) return Unit::kFull;
  int32_t first = unit;
  int32_t last = unit;
  if (g.units_are_regions == 0) {
    int32_t begin;
    int32_t end;
    unit_patches(g, unit, &begin, &end);
    first = static_cast<int32_t>(g.k_block_div(begin));
    last = static_cast<int32_t>(g.k_block_div(end - 1));
  }
  bool any = false;
  bool all = true;
  bool low = true;
  COVIS_ROLLED
  for (int32_t r = rows.first; r <= rows.last; ++r) {
    const int8_t* row = rows.level + r * g.level_row_stride;
    COVIS_ROLLED
    for (int32_t c = first; c <= last; ++c) {
      const int8_t value = row[c * g.level_col_stride];
      any |= value > 0;
      all &= value > 0;
      low &= value == 1;
    }
  }
  if (!any) return Unit::kSkip;
  if (!all) return Unit::kPartial;
  return low ? Unit::kLow : Unit::kFull;
}

inline constexpr int kUnitBatch =
    4;  // x 32 units classified before any is expanded: loads in flight

// One bit per unit: computed / partial / low.
struct UnitMasks {
  uint32_t computed, partial, low;
};

// The state of a walk besides its few loop variables. On the device it is in shared memory, one per
// walking warp, because producers have too few registers for it.
struct WalkScratch {
  LevelRows rows;
  UnitMasks masks[kUnitBatch];
};

#if defined(__CUDA_ARCH__)
__device__ __forceinline__ void classify_batch(const Geometry& g, WalkScratch& scratch,
                                               int32_t base) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  const LevelRows& rows = scratch.rows;
  if (g.units_are_regions != 0 && rows.first == rows.last && rows.level != nullptr) {
    // The usual case, one byte per unit: all loads are issued before the first result is used.
    const int8_t* row = rows.level + rows.first * g.level_row_stride;
    int value[kUnitBatch];
#pragma unroll
    for (int b = 0; b < kUnitBatch; ++b) {
      const int32_t unit = base + 32 * b + lane;
      value[b] = unit < g.units ? row[unit * g.level_col_stride] : 0;
    }
    __syncwarp();
#pragma unroll
    for (int b = 0; b < kUnitBatch; ++b) {
      const uint32_t computed = __ballot_sync(0xffffffffu, value[b] > 0);
      const uint32_t low = __ballot_sync(0xffffffffu, value[b] == 1);
      if (lane == 0) scratch.masks[b] = UnitMasks{computed, 0, low};
    }
  } else {
    __syncwarp();
#pragma unroll 1
    for (int b = 0; b < kUnitBatch; ++b) {
      const Unit unit = classify(g, rows, base + 32 * b + lane);
      const uint32_t computed = __ballot_sync(0xffffffffu, unit != Unit::kSkip);
      const uint32_t partial = __ballot_sync(0xffffffffu, unit == Unit::kPartial);
      const uint32_t low = __ballot_sync(0xffffffffu, unit == Unit::kLow);
      if (lane == 0) scratch.masks[b] = UnitMasks{computed, partial, low};
    }
  }
  __syncwarp();
}
#else
inline void classify_batch(const Geometry& g, WalkScratch& scratch, int32_t base) {
  for (int b = 0; b < kUnitBatch; ++b) {
    UnitMasks masks{0, 0, 0};
    for (int32_t lane = 0; lane < 32; ++lane) {
      const Unit unit = classify(g, scratch.rows, base + 32 * b + lane);
      masks.computed |= static_cast<uint32_t>(unit != Unit::kSkip) << lane;
      masks.partial |= static_cast<uint32_t>(unit == Unit::kPartial) << lane;
      masks.low |= static_cast<uint32_t>(unit == Unit::kLow) << lane;
    }
    scratch.masks[b] = masks;
  }
}
#endif

COVIS_HD int32_t lowest_bit(uint32_t mask) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(mask)) - 1;
#else
  return __builtin_ctz(mask);
#endif
}

// The first patch at or after `patch` where a piece shorter than kPiece starts: at a frame's start
// (kGrid) or at its end. Without it, the search for short pieces would step through thousands of
// whole ones.
COVIS_HD int32_t next_short_piece(const Geometry& g, Cut cut, int32_t patch) {
  const int32_t frame_start = static_cast<int32_t>(g.patches_div(patch)) * g.patches;
  const int32_t frame_end = frame_start + g.patches;
  const int32_t origin = cut == Cut::kFrame ? frame_start : 0;
  if ((patch - origin) % kPiece != 0) return patch;
  const int32_t tail = origin + (frame_end - origin) / kPiece * kPiece;
  return tail < frame_end && tail >= patch ? tail : frame_end;
}

// The part of the cell of `patch` that lies before `limit`.
COVIS_HD Piece cell_at(int32_t patch, int32_t limit) {
  Piece piece;
  piece.row = patch / kPiece * kPiece;
  piece.count = min_int(piece.row + kPiece, limit) - patch;
  piece.patch = patch;
  return piece;
}

// Number of neighbouring bits set from `bit` on.
COVIS_HD int32_t run_of_bits(uint32_t mask, int32_t bit) {
  const uint32_t gaps = ~(mask >> bit);
  return gaps == 0 ? 32 : lowest_bit(gaps);
}

enum class Sweep : int32_t {
  kLow,     // chunks of level 1, for the FP8 products
  kWhole,   // chunks of kPiece keys that need no mask
  kMasked,  // shorter chunks and partial ones
};

// Calls emit(Chunk) for each chunk of one sweep, in ascending patch order. All 32 lanes of a warp
// call it together and see the same chunks. With `fp8`, level-1 chunks belong to kLow only.
template <class Emit>
COVIS_HD void walk_patches(const Geometry& g, WalkScratch& scratch, Sweep sweep, bool fp8,
                           Emit&& emit) {
  for (int32_t base = 0; base < g.units; base += 32 * kUnitBatch) {
    classify_batch(g, scratch, base);
    for (int b = 0; b < kUnitBatch; ++b) {
      const UnitMasks& masks = scratch.masks[b];
      const bool cells = fp8 && sweep == Sweep::kLow;
      const uint32_t low = fp8 ? masks.low : 0u;
      uint32_t mask = masks.computed & (cells ? low : ~low);
      if (sweep == Sweep::kWhole) mask &= ~masks.partial;
      while (mask != 0) {
        const int32_t bit = lowest_bit(mask);
        const bool partial = (masks.partial >> bit & 1u) != 0;
        int32_t patch;
        int32_t end;
        unit_patches(g, base + 32 * b + bit, &patch, &end);
        mask &= mask - 1;
        if (cells) {
          const int32_t run = run_of_bits(low, bit);
          if (run > 1) {
            int32_t unused;
            unit_patches(g, base + 32 * b + bit + run - 1, &unused, &end);
            mask &= run == 32 ? 0u : ~(((1u << run) - 1u) << bit);
          }
        }
        while (patch < end) {
          if (sweep == Sweep::kMasked && !partial) {
            patch = next_short_piece(g, g.k_cut, patch);
            if (patch >= end) break;
          }
          const Piece piece = cells ? cell_at(patch, end) : piece_at(g, g.k_cut, patch, end);
          patch += piece.count;
          const bool masked = partial || piece.count < kPiece;
          if (sweep == Sweep::kWhole && masked) continue;
          if (sweep == Sweep::kMasked && !masked) continue;
          emit(Chunk{piece.frame, piece.row, piece.count, piece.patch, false, partial, cells});
        }
      }
    }
  }
}

// Special keys: every query attends to them.
template <class Emit>
COVIS_HD void walk_specials(const Geometry& g, Emit&& emit) {
  for (int32_t first = 0; first < g.specials; first += kPiece) {
    const int32_t count = min_int(kPiece, g.specials - first);
    emit(Chunk{0, first, count, first, true, false, false});
  }
}

// The whole key list of a tile in the order in which the kernels compute it.
template <class Emit>
COVIS_HD void walk_keys(const Geometry& g, WalkScratch& scratch, bool fp8, Emit&& emit) {
  // One loop instead of three calls: `emit` is large in the kernels and is inlined once here.
  for (int32_t sweep = fp8 ? 0 : 1; sweep <= static_cast<int32_t>(Sweep::kMasked); ++sweep) {
    walk_patches(g, scratch, static_cast<Sweep>(sweep), fp8, emit);
  }
  walk_specials(g, emit);
}

// Sets the tile whose keys are walked next; all lanes of the warp together.
COVIS_HD void start_walk(const Geometry& g, const int8_t* level, const QueryTile& tile,
                         WalkScratch* scratch) {
#if defined(__CUDA_ARCH__)
  __syncwarp();
  if (threadIdx.x % 32 == 0) scratch->rows = level_rows(g, level, tile);
  __syncwarp();
#else
  scratch->rows = level_rows(g, level, tile);
#endif
}

}  // namespace covis
