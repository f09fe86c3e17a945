// Vectors of kLanes floats by the compiler's vector extensions; the few operations that these do
// not express well are spelled out. Included only by sources that are compiled for each instruction
// set: everything has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace covis::attention {
namespace {

#ifndef COVIS_LANES
#define COVIS_LANES 4
#endif

constexpr int kLanes = COVIS_LANES;

typedef float Vec __attribute__((vector_size(4 * COVIS_LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * COVIS_LANES)));

#define COVIS_INLINE inline __attribute__((always_inline))

COVIS_INLINE Vec load(const float* from) {
  Vec v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

COVIS_INLINE void store(float* to, Vec v) { __builtin_memcpy(to, &v, sizeof v); }

// x - 0 is x for every x, so this compiles to a broadcast; 0 + x would turn -0 into +0.
COVIS_INLINE Vec splat(float x) { return x - Vec{}; }

// The larger of both; b where a is NaN, so max(score, running) drops a NaN score and
// max(bound, x) returns a NaN x.
COVIS_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__) && COVIS_LANES == 16
  // The masked form: the plain one sets off a false -Wuninitialized in GCC 12.
  return (Vec)_mm512_maskz_max_ps((__mmask16)-1, (__m512)a, (__m512)b);
#elif defined(__AVX2__) && COVIS_LANES == 8
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

COVIS_INLINE Vec select(IntVec mask, Vec a, Vec b) {
  return (Vec)(((IntVec)a & mask) | ((IntVec)b & ~mask));
}

// Lane i is all ones where bit i of `bits` is set.
COVIS_INLINE IntVec mask_of_bits(uint32_t bits) {
  IntVec place;
  for (int i = 0; i < kLanes; ++i) place[i] = 1 << i;
  const IntVec all = IntVec{} + static_cast<int32_t>(bits);
  return (all & place) == place;
}

// 2^x for x <= 0, relative error under 2e-7; exactly 0 below -126.5; NaN stays NaN.
COVIS_INLINE Vec exp2_nonpositive(Vec x) {
  // Adding 1.5 * 2^23 + 127 leaves round(x) + 127 in the low bits: the exponent of 2^round(x).
  constexpr float kShift = 12582912.0f + 127.0f;
  x = max(splat(-127.0f), x);
  const Vec shifted = x + kShift;
  const Vec f = x - (shifted - kShift);  // in [-0.5, 0.5]
  const Vec power = (Vec)((IntVec)shifted << 23);
  Vec p = splat(1.3264727253e-3f);
  p = p * f + 9.6715127858e-3f;
  p = p * f + 5.5507337445e-2f;
  p = p * f + 2.4022242083e-1f;
  p = p * f + 6.9314697760e-01f;
  p = p * f + 1.0f;
  return p * power;
}

// Lanes a and b of the two vectors in turn, from lane kFirst of each on.
template <int kFirst, int... kPlace>
COVIS_INLINE Vec interleave(Vec a, Vec b, std::integer_sequence<int, kPlace...>) {
  return __builtin_shufflevector(a, b, (kFirst + kPlace / 2 + (kPlace % 2) * kLanes)...);
}

// In place: row i of a kLanes x kLanes matrix becomes its column i, by log2(kLanes) rounds of
// interleaving row i with row i + kLanes / 2.
COVIS_INLINE void transpose(Vec (&rows)[kLanes]) {
  using Places = std::make_integer_sequence<int, kLanes>;
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Vec next[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave<0>(rows[i], rows[i + kLanes / 2], Places{});
      next[2 * i + 1] = interleave<kLanes / 2>(rows[i], rows[i + kLanes / 2], Places{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

}  // namespace
}  // namespace covis::attention
