// Compiled once for each instruction set; the build defines COVIS_KERNELS (the table's name),
// COVIS_ISA_NAME, COVIS_LANES, and by kRows x kVectors the register blocking. No standard library
// templates here: the linker could take their code from the wrong object.
#include "block_sparse_attention/cpu/tile.h"

#include "block_sparse_attention/cpu/simd.h"

namespace covis::attention {
namespace {

// Accumulators of a micro-kernel: kRows x kVectors registers, plus kVectors of the panel and one
// broadcast. 6 x 2 fills the 16 registers of AVX2, 12 x 2 leaves a few of AVX-512's 32.
#if defined(__AVX512F__) || (COVIS_LANES == 16)
constexpr int kRows = 12, kVectors = 2;
#elif defined(__AVX2__) || (COVIS_LANES == 8)
constexpr int kRows = 6, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kRows = 3, kVectors = 4;
#endif
constexpr int kPanel = kLanes * kVectors;
static_assert(kTileQueries % kPanel == 0 && kTileKeys % kRows == 0);

constexpr float kMinusInfinity = -__builtin_inff();

struct Pair {
  Vec v[kVectors];
};

// scores[r][:] = K[r] . queries, for R rows of K; returns the running maximum over the rows.
// kSize: the head size where it is known at compile time, else 0.
template <int R, int kSize>
COVIS_INLINE Pair score_rows(int64_t head_size, const float* queries, const float* const* keys,
                             float* scores, Pair running) {
  const int64_t size = kSize > 0 ? kSize : head_size;
  Vec acc[R][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
  }
  const float* row[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) row[r] = keys[r];
#pragma GCC unroll 4
  for (int64_t d = 0; d < size; ++d) {
    Vec q[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) q[v] = load(queries + d * kPanel + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec k = splat(row[r][d]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] += k * q[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      store(scores + r * kPanel + v * kLanes, acc[r][v]);
      running.v[v] = max(acc[r][v], running.v[v]);
    }
  }
  return running;
}

// outputs[d][:] = outputs[d][:] * rescale + sum over keys of V[key][d] * weights[key], for R values
// of d from d0 on; without `accumulate` the old outputs are not read.
template <int R>
COVIS_INLINE void output_rows(int count, const float* const* values, int64_t d0,
                              const float* weights, float* outputs, Pair rescale, bool accumulate) {
  Vec acc[R][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] =
          accumulate ? load(outputs + (d0 + r) * kPanel + v * kLanes) * rescale.v[v] : Vec{};
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < count; ++j) {
    Vec w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = load(weights + j * kPanel + v * kLanes);
    const float* value = values[j] + d0;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec x = splat(value[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] += x * w[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      store(outputs + (d0 + r) * kPanel + v * kLanes, acc[r][v]);
    }
  }
}

// Calls f<R>() for the R in [1, kRows) that equals `rest`.
template <int R, class F>
COVIS_INLINE void with_rest(int64_t rest, const F& f) {
  if constexpr (R > 0) {
    if (rest == R) {
      f.template operator()<R>();
    } else {
      with_rest<R - 1>(rest, f);
    }
  }
}

// The last rows of a panel, fewer than kRows.
__attribute__((noinline)) Pair score_rest(int64_t head_size, const float* queries,
                                          const float* const* keys, int count, float* scores,
                                          Pair top) {
  with_rest<kRows - 1>(
      count, [&]<int R>() { top = score_rows<R, 0>(head_size, queries, keys, scores, top); });
  return top;
}

// Begins to load rows [from, to) of `size` floats each.
COVIS_INLINE void fetch(const float* const* rows, int from, int to, int64_t size) {
  for (int j = from; j < to; ++j) {
    for (int64_t d = 0; d < size; d += 16) __builtin_prefetch(rows[j] + d);
  }
}

// Keys of a sparse map are many short runs, which the processor's own prefetching misses at each
// start. So the first panel of a tile loads ahead: the keys of its next rows, and the values of
// this row on, which the weights will need. `values` is null for the other panels.
template <int kSize>
__attribute__((noinline)) Pair score_panel(int64_t head_size, const float* queries,
                                           const float* const* keys, const float* const* values,
                                           int count, float* scores) {
  Pair top;
  for (int v = 0; v < kVectors; ++v) top.v[v] = splat(kMinusInfinity);
  int j = 0;
  for (; j + kRows <= count; j += kRows) {
    if (values != nullptr) {
      fetch(keys, j + kRows, j + 2 * kRows < count ? j + 2 * kRows : count, head_size);
      fetch(values, j, j + kRows, head_size);
    }
    top = score_rows<kRows, kSize>(head_size, queries, keys + j, scores + j * kPanel, top);
  }
  if (j == count) return top;
  return score_rest(head_size, queries, keys + j, count - j, scores + j * kPanel, top);
}

__attribute__((noinline)) void output_panel(int64_t head_size, const float* const* values,
                                            int count, const float* weights, float* outputs,
                                            Pair rescale, bool accumulate) {
  int64_t d = 0;
  for (; d + kRows <= head_size; d += kRows) {
    output_rows<kRows>(count, values, d, weights, outputs, rescale, accumulate);
  }
  with_rest<kRows - 1>(head_size - d, [&]<int R>() {
    output_rows<R>(count, values, d, weights, outputs, rescale, accumulate);
  });
}

constexpr uint32_t kPanelBits = kPanel == 32 ? ~0u : (1u << (kPanel % 32)) - 1;

COVIS_INLINE uint32_t panel_bits(const uint32_t* mask, int panel) {
  const int first = panel * kPanel;
  return (mask[first / 32] >> (first % 32)) & kPanelBits;
}

// Scores of keys that a query does not attend to become -inf; returns the maximum of the rest.
Pair mask_scores(const KeyTile& keys, int panel, float* scores) {
  Pair top;
  for (int v = 0; v < kVectors; ++v) top.v[v] = splat(kMinusInfinity);
  for (int j = 0; j < keys.count; ++j) {
    const uint32_t bits = panel_bits(keys.mask[j], panel);
    for (int v = 0; v < kVectors; ++v) {
      float* place = scores + j * kPanel + v * kLanes;
      const Vec s = select(mask_of_bits(bits >> (v * kLanes)), load(place), splat(kMinusInfinity));
      store(place, s);
      top.v[v] = max(s, top.v[v]);
    }
  }
  return top;
}

struct Weights {
  Pair sum;
  Pair rescale;
};

// Scores become weights 2^(score - maximum), in place.
__attribute__((noinline)) Weights soften(int count, float* scores, Pair top, float* row_max) {
  Weights result;
  Pair shift;
  for (int v = 0; v < kVectors; ++v) {
    const Vec old = load(row_max + v * kLanes);
    const Vec now = max(top.v[v], old);
    store(row_max + v * kLanes, now);
    // A query that has not attended to any key yet has no maximum; -inf - -inf would be NaN.
    shift.v[v] = select(now == splat(kMinusInfinity), Vec{}, now);
    result.rescale.v[v] = exp2_nonpositive(old - shift.v[v]);
    result.sum.v[v] = Vec{};
  }
  for (int j = 0; j < count; ++j) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* place = scores + j * kPanel + v * kLanes;
      const Vec w = exp2_nonpositive(load(place) - shift.v[v]);
      store(place, w);
      result.sum.v[v] += w;
    }
  }
  return result;
}

Pair score(int64_t head_size, const float* queries, const float* const* keys,
           const float* const* values, int count, float* scores) {
  switch (head_size) {
    case 32: return score_panel<32>(head_size, queries, keys, values, count, scores);
    case 64: return score_panel<64>(head_size, queries, keys, values, count, scores);
    case 96: return score_panel<96>(head_size, queries, keys, values, count, scores);
    case 128: return score_panel<128>(head_size, queries, keys, values, count, scores);
    default: return score_panel<0>(head_size, queries, keys, values, count, scores);
  }
}

bool all_finite(const float* values, int64_t count) {
  float zero = 0.0f;  // x * 0 is NaN where x is not finite
  for (int64_t i = 0; i < count; ++i) zero += values[i] * 0.0f;
  return zero == 0.0f;
}

// The products of masked weights (0) with values that are not finite would be NaN in rows that do
// not attend to those values: such keys are replaced by zeros here and added query by query.
struct Outliers {
  int count = 0;
  int index[kTileKeys];
};

void add_outliers(QueryTile& tile, const KeyTile& keys, const Outliers& outliers, int panel) {
  float* outputs = tile.outputs + panel * tile.head_size * kPanel;
  for (int i = 0; i < outliers.count; ++i) {
    const int j = outliers.index[i];
    const uint32_t bits = panel_bits(keys.mask[j], panel);
    for (int lane = 0; lane < kPanel; ++lane) {
      if (((bits >> lane) & 1u) == 0) continue;
      const float weight = tile.scores[j * kPanel + lane];
      for (int64_t d = 0; d < tile.head_size; ++d) {
        outputs[d * kPanel + lane] += weight * keys.values[j][d];
      }
    }
  }
}

void attend_panel(QueryTile& tile, const KeyTile& keys, const float* const* values,
                  const Outliers& outliers, int panel, bool masked, bool first) {
  const int64_t size = tile.head_size;
  Pair top = score(size, tile.queries + panel * size * kPanel, keys.keys, first ? values : nullptr,
                   keys.count, tile.scores);
  if (masked) top = mask_scores(keys, panel, tile.scores);
  float* row_max = tile.row_max + panel * kPanel;
  float* row_sum = tile.row_sum + panel * kPanel;
  const Weights weights = soften(keys.count, tile.scores, top, row_max);
  for (int v = 0; v < kVectors; ++v) {
    const Vec sum = load(row_sum + v * kLanes) * weights.rescale.v[v] + weights.sum.v[v];
    store(row_sum + v * kLanes, sum);
  }
  output_panel(size, values, keys.count, tile.scores, tile.outputs + panel * size * kPanel,
               weights.rescale, tile.started[panel]);
  tile.started[panel] = true;
  if (outliers.count > 0) add_outliers(tile, keys, outliers, panel);
}

void attend(QueryTile& tile, const KeyTile& keys) {
  const int panels = (tile.count + kPanel - 1) / kPanel;
  Outliers outliers;
  if (!keys.masked) {
    for (int p = 0; p < panels; ++p) {
      attend_panel(tile, keys, keys.values, outliers, p, false, p == 0);
    }
    return;
  }
  const float* values[kTileKeys];
  for (int j = 0; j < keys.count; ++j) {
    values[j] = keys.values[j];
    if (!all_finite(values[j], tile.head_size)) {
      outliers.index[outliers.count++] = j;
      values[j] = tile.zeros;
    }
  }
  bool first = true;
  for (int p = 0; p < panels; ++p) {
    const int used = tile.count - p * kPanel;
    const uint32_t lanes = used >= kPanel ? kPanelBits : (1u << used) - 1;
    uint32_t every = lanes, any = 0;
    for (int j = 0; j < keys.count; ++j) {
      const uint32_t bits = panel_bits(keys.mask[j], p);
      every &= bits;
      any |= bits;
    }
    if ((any & lanes) == 0) continue;
    attend_panel(tile, keys, values, outliers, p, every != lanes, first);
    first = false;
  }
}

void widen(DataType type, const void* from, float* to, int64_t count) {
  const uint16_t* bits = static_cast<const uint16_t*>(from);
  int64_t i = 0;
  if (type == DataType::kBFloat16) {
    for (; i < count; ++i) to[i] = bfloat16_to_float(bits[i]);
    return;
  }
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(packed));
  }
#endif
  for (; i < count; ++i) to[i] = float16_to_float(bits[i]);
}

void narrow(DataType type, const float* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  if (type == DataType::kBFloat16) {
    for (; i < count; ++i) to[i] = float_to_bfloat16(from[i]);
    return;
  }
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i packed = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), packed);
  }
#endif
  for (; i < count; ++i) to[i] = float_to_float16(from[i]);
}

void begin(QueryTile& tile, DataType type, const void* base, const int64_t* row_offset,
           float scale) {
  const int64_t size = tile.head_size;
  const float* rows[kTileQueries];
  for (int i = 0; i < tile.count; ++i) {
    if (type == DataType::kFloat32) {
      rows[i] = static_cast<const float*>(base) + row_offset[i];
    } else {  // the outputs' memory is not in use yet
      float* row = tile.outputs + i * size;
      widen(type, static_cast<const uint16_t*>(base) + row_offset[i], row, size);
      rows[i] = row;
    }
  }
  const int panels = (tile.count + kPanel - 1) / kPanel;
  for (int i = tile.count; i < panels * kPanel; ++i) rows[i] = tile.zeros;
  for (int p = 0; p < panels; ++p) {
    tile.started[p] = false;
    for (int group = 0; group < kPanel; group += kLanes) {
      const float* const* from = rows + p * kPanel + group;
      float* to = tile.queries + p * size * kPanel + group;
      int64_t d = 0;
      for (; d + kLanes <= size; d += kLanes) {
        Vec block[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) block[i] = load(from[i] + d) * scale;
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + (d + i) * kPanel, block[i]);
      }
      for (; d < size; ++d) {
        for (int i = 0; i < kLanes; ++i) to[d * kPanel + i] = from[i][d] * scale;
      }
    }
  }
  for (int i = 0; i < panels * kPanel; ++i) {
    tile.row_max[i] = kMinusInfinity;
    tile.row_sum[i] = 0.0f;
  }
}

void finish(const QueryTile& tile, DataType type, void* base, const int64_t* row_offset) {
  const int64_t size = tile.head_size;
  for (int first = 0; first < tile.count; first += kLanes) {
    const int panel = first / kPanel;
    const float* outputs = tile.outputs + panel * size * kPanel + first % kPanel;
    const int used = tile.count - first < kLanes ? tile.count - first : kLanes;
    float* rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      // The queries are no longer needed: their memory is used for rows of other types and of
      // padding.
      rows[i] = type == DataType::kFloat32 && i < used
                    ? static_cast<float*>(base) + row_offset[first + i]
                    : tile.queries + i * size;
    }
    float inverse[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const float sum = tile.row_sum[first + i];
      inverse[i] = sum == 0.0f ? 0.0f : 1.0f / sum;
    }
    const bool started = tile.started[panel];
    int64_t d = 0;
    for (; d + kLanes <= size; d += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        block[i] = started ? load(outputs + (d + i) * kPanel) * load(inverse) : Vec{};
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(rows[i] + d, block[i]);
    }
    for (; d < size; ++d) {
      for (int i = 0; i < kLanes; ++i) {
        rows[i][d] = started ? outputs[d * kPanel + i] * inverse[i] : 0.0f;
      }
    }
    if (type == DataType::kFloat32) continue;
    for (int i = 0; i < used; ++i) {
      narrow(type, rows[i], static_cast<uint16_t*>(base) + row_offset[first + i], size);
    }
  }
}

}  // namespace

extern const Kernels COVIS_KERNELS = {COVIS_ISA_NAME, kPanel, begin, attend, finish, widen};

}  // namespace covis::attention
