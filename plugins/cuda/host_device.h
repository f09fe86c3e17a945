// Functions that are compiled for the device and for the host, and integer arithmetic for both.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define COVIS_HD __host__ __device__ __forceinline__
#else
#define COVIS_HD inline
#endif

// A rare loop that must not cost the registers of an unrolled one.
#if defined(__CUDA_ARCH__)
#define COVIS_ROLLED _Pragma("unroll 1")
#else
#define COVIS_ROLLED
#endif

namespace covis {

// Unsigned division by a number known at launch: one multiply instead of some twenty instructions.
// Exact for every 32-bit numerator below 2^31 and divisor in [1, 2^31).
struct FastDiv {
  uint32_t divisor = 1;
  uint32_t multiplier = 0;
  uint32_t shift = 0;

  static FastDiv of(uint32_t divisor) {
    FastDiv d;
    d.divisor = divisor;
    while ((uint64_t{1} << d.shift) < divisor) ++d.shift;
    // ceil(2^(31 + shift) / divisor) fits 32 bits, because 2^(shift - 1) < divisor.
    d.multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + d.shift)) + divisor - 1) / divisor);
    return d;
  }

  COVIS_HD uint32_t operator()(uint32_t n) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier) >> (31 + shift));
  }
};

COVIS_HD int32_t min_int(int32_t a, int32_t b) { return a < b ? a : b; }
COVIS_HD int32_t max_int(int32_t a, int32_t b) { return a > b ? a : b; }
COVIS_HD constexpr int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

}  // namespace covis
