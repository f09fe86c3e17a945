// The inner part of the attention kernel: one tile of queries against tiles of keys. Compiled once
// for each instruction set; the driver (attention.cc) picks a table at run time.
//
// Everything is kept transposed, with queries along vector lanes: the softmax then needs no
// reduction across lanes, each query has a lane of its own (a NaN stays there), and rows of K and V
// are read in place, by broadcast, without packing.
#pragma once

#include <cstdint>

#include "common/half.h"

namespace covis::attention {

inline constexpr int kTileQueries = 128;
inline constexpr int kTileKeys = 96;  // a multiple of every micro-kernel's rows (6 and 12)
inline constexpr int kMaskWords = kTileQueries / 32;

// A tile of keys: rows of D float32 each, anywhere in memory.
struct KeyTile {
  int count;
  bool masked;  // some query of the tile does not attend to some key: `mask` is then valid
  const float* keys[kTileKeys];
  const float* values[kTileKeys];
  uint32_t mask[kTileKeys][kMaskWords];  // bit q: query q attends to this key
};

// The state of a tile of queries between key tiles. Panels are groups of `panel` queries
// (see Kernels); element (query, d) is at [query / panel][d][query % panel].
struct QueryTile {
  int64_t head_size;
  int count;                    // queries in use, the rest of the last panel is padding
  float* queries;               // scaled by scale * log2(e)
  float* outputs;               // unnormalised
  float* scores;                // (kTileKeys, panel): scores, then weights, of one panel
  const float* zeros;           // head_size zeros
  float row_max[kTileQueries];  // log2 units
  float row_sum[kTileQueries];
  bool started[kTileQueries];  // by panel: `outputs` holds values
};

struct Kernels {
  const char* name;
  int panel;

  // Fills tile.queries from rows of `type` at base + row_offset[i] (in elements) and clears the
  // statistics; tile.count and tile.head_size are set.
  void (*begin)(QueryTile& tile, DataType type, const void* base, const int64_t* row_offset,
                float scale);
  // Adds the contribution of the keys to the tile.
  void (*attend)(QueryTile& tile, const KeyTile& keys);
  // Writes outputs / row_sum to rows of `type`; zeros for queries that attended to nothing.
  void (*finish)(const QueryTile& tile, DataType type, void* base, const int64_t* row_offset);
  // count elements of a 2-byte type to float32.
  void (*widen)(DataType type, const void* from, float* to, int64_t count);
};

extern const Kernels kKernelsPortable;
#ifdef COVIS_X86
extern const Kernels kKernelsV3;  // AVX2, FMA, F16C
extern const Kernels kKernelsV4;  // AVX-512 F, BW, DQ, VL
#endif

// The best table that this processor can run; COVIS_ISA=portable|v3|v4 in the environment lowers
// it.
const Kernels& kernels();

// The name of that variant: "portable", "x86-64-v3" or "x86-64-v4".
const char* instruction_set();

}  // namespace covis::attention
