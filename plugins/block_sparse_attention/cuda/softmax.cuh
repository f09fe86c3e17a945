// Online softmax on the accumulators of a 64-row score tile, shared by all kernels.
//
// A thread of an m64 wgmma (or of a warp's m16 mma) holds two rows; element i of its scores is
// column 8 (i / 4) + 2 (lane % 4) + i % 2 of row r = (i / 2) % 2.
#pragma once

#include <cstdint>

namespace covis {

// 2^x on the special-function unit.
__device__ __forceinline__ float exp2_mufu(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 2^x for x <= 8 on the FMA pipe: split into integer and fraction in [-1/2, 1/2], a cubic for the
// fraction (minimax, relative error 7.5e-5: below half an ulp of float16), integer added
// to the exponent. Below -126 the result is 2^-126, which is 0 in float16 and negligible in a row
// sum.
__device__ __forceinline__ float exp2_polynomial(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  x = fmaxf(x, -126.0f);
  const float t = x + kMagic;
  const float f = x - (t - kMagic);
  float p = 0.0551717193f;
  p = fmaf(p, f, 0.2426113523f);
  p = fmaf(p, f, 0.6932609971f);
  p = fmaf(p, f, 0.9999280600f);
  return __int_as_float(__float_as_int(p) + (__float_as_int(t) << 23));
}

// Whether element `i` of a row's `n` goes to the FMA pipe: kShare of each 16, evenly spread.
template <int kShare>
__device__ constexpr bool on_fma_pipe(int i) {
  return (i * kShare) % 16 < kShare;
}

template <int kPolynomialOf16>
struct Softmax {
  float top[2];  // running maximum of the unscaled scores
  float sum[2];  // this thread's share of the running sum

  // The polynomial would lose a NaN, so there the maximum passes it on to the whole row.
  __device__ __forceinline__ static float larger(float a, float b) {
    if constexpr (kPolynomialOf16 == 0) return fmaxf(a, b);
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
  }

  __device__ __forceinline__ void reset() {
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0.0f;
  }

  // Scores -> exp2(scale_log2 * (score - top)), in place; `decay` is the factor by which earlier
  // sums and outputs must be multiplied. kScores is the number of the thread's elements in both
  // rows.
  template <int kScores, class Scores>
  __device__ __forceinline__ void step(Scores& scores, float scale_log2, float (&decay)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = top[r];
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
        high = larger(high, larger(scores(4 * i + 2 * r), scores(4 * i + 2 * r + 1)));
      }
      high = larger(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = larger(high, __shfl_xor_sync(0xffffffffu, high, 2));
      // A row without any key so far has no maximum; with 0, exp2(-inf - shift) is 0 and not NaN.
      const float shift = high == -INFINITY ? 0.0f : high * scale_log2;
      decay[r] = exp2_mufu(fmaf(top[r], scale_log2, -shift));
      top[r] = high;
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kScores / 2; ++i) {
        const int index = 4 * (i / 2) + 2 * r + i % 2;
        const float x = fmaf(scores(index), scale_log2, -shift);
        const float y = on_fma_pipe<kPolynomialOf16>(i) ? exp2_polynomial(x) : exp2_mufu(x);
        scores(index) = y;
        total += y;
      }
      sum[r] = fmaf(sum[r], decay[r], total);
    }
  }

  // The same for scores from FP8 products: raw scores of row r and 64-key half h are multiplied by
  // `factor[r][h]`, and the results by 2^kLift, which uses the range of e4m3. A maximum and a
  // factor for each half take no more time than `step`.
  template <int kScores, int kLift, class Scores>
  __device__ __forceinline__ void step_low(Scores& scores, const float (&factor)[2][2],
                                           float scale_log2, float (&decay)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = top[r];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float peak = -INFINITY;
#pragma unroll
        for (int i = 0; i < kScores / 8; ++i) {
          const int index = h * kScores / 2 + 4 * i + 2 * r;
          peak = larger(peak, larger(scores(index), scores(index + 1)));
        }
        high = larger(high, peak * factor[r][h]);
      }
      high = larger(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = larger(high, __shfl_xor_sync(0xffffffffu, high, 2));
      const float shift = high == -INFINITY ? 0.0f : high * scale_log2;
      decay[r] = exp2_mufu(fmaf(top[r], scale_log2, -shift));
      top[r] = high;
      const float lifted = static_cast<float>(kLift) - shift;
      float total = 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        // Never 0: a masked score is -infinity and must stay -infinity.
        const float slope = fmaxf(factor[r][h] * scale_log2, 1e-37f);
#pragma unroll
        for (int i = 0; i < kScores / 4; ++i) {
          const int index = h * kScores / 2 + 4 * (i / 2) + 2 * r + i % 2;
          const float x = fmaf(scores(index), slope, lifted);
          const float y = on_fma_pipe<kPolynomialOf16>(i) ? exp2_polynomial(x) : exp2_mufu(x);
          scores(index) = y;
          total += y;
        }
      }
      sum[r] = fmaf(sum[r], decay[r], total);
    }
  }

  // 1 / row sum over the four threads of a row; 0 for a row that attended to nothing.
  __device__ __forceinline__ void finish(float (&inverse)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = sum[r];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      inverse[r] = top[r] == -INFINITY ? 0.0f : 1.0f / total;
    }
  }
};

}  // namespace covis
