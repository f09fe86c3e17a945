// The FP8 rule for single numbers; compiled for the device and for the host, where tests compare it
// with covis.export.ops.fp8.
//
// Patches are taken by their running number, in *cells* of kPiece: a cell shares one scale of Q and
// one of K. A scale is the largest magnitude over 448; V has one scale per channel. The mean of K
// over all patches is subtracted before rounding, which does not change the softmax. V is stored
// transposed, (D, patches), and permuted inside groups of 16 patches (value_slot).
#pragma once

#include <cstdint>
#include <cstring>

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr uint8_t kE4m3Nan = 0x7f;
inline constexpr float kWeightScale = 256.0f;  // of probabilities before they are rounded
inline constexpr int kMeasuredPatches = 1024;  // per block of the kernel that sums K

COVIS_HD int32_t cells_of(const Geometry& g) { return ceil_div(g.total_patches, kPiece); }
COVIS_HD int32_t measured_runs(const Geometry& g) {
  return ceil_div(g.total_patches, kMeasuredPatches);
}

// The scale of numbers up to `peak`; 1 where there is nothing to scale.
COVIS_HD float scale_of_peak(float peak) {
  const float scale = peak / kE4m3Max;
  return scale > 0.0f ? scale : 1.0f;
}

COVIS_HD bool is_finite(float x) { return x - x == 0.0f; }

// A peak is the largest finite magnitude: a NaN or Inf of one query must not change its cell.
COVIS_HD float peak_with(float peak, float x) {
  const float magnitude = x < 0.0f ? -x : x;
  return is_finite(x) && magnitude > peak ? magnitude : peak;
}

// Nearest e4m3 (ties to even), saturating; NaN stays NaN. The bits of the hardware's conversion.
COVIS_HD uint8_t to_e4m3(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(0.0f), "f"(x));
  return static_cast<uint8_t>(bits);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint8_t sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint8_t>(sign | kE4m3Nan);
  // Rounded by adding a power of two: its last place is that of the result, 2^-9 at least.
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof(bits));
  if (magnitude >= kE4m3Max) return static_cast<uint8_t>(sign | 0x7e);
  const int32_t exponent = max_int(static_cast<int32_t>(bits >> 23) - 127, -6);
  const uint32_t magic_bits = static_cast<uint32_t>(exponent + 20 + 127) << 23;
  float magic;
  std::memcpy(&magic, &magic_bits, sizeof(magic));
  const volatile float sum = magnitude + magic;
  const float rounded = sum - magic;
  // In units of the last place; a carry into the next binade carries into the exponent as well.
  const uint32_t unit_bits = static_cast<uint32_t>(3 - exponent + 127) << 23;
  float unit;
  std::memcpy(&unit, &unit_bits, sizeof(unit));
  const uint32_t steps = static_cast<uint32_t>(rounded * unit);
  return static_cast<uint8_t>(sign | (steps + (static_cast<uint32_t>(exponent + 6) << 3)));
#endif
}

// A number over its scale, rounded. A number that is not finite becomes NaN.
COVIS_HD uint8_t quantized(float x, float scale) {
  return is_finite(x) ? to_e4m3(x / scale) : kE4m3Nan;
}

// Where key `key` of a group of 16 is stored among V's columns. A thread's scores are columns
// 8 j + 2 t + e of a group (t = lane % 4); as an operand of the 8-bit wgmma it must hold four
// neighbouring columns 4 t + i. Storing V in that order makes shuffles unnecessary.
COVIS_HD constexpr int value_slot(int key) { return 4 * (key % 8 / 2) + 2 * (key / 8) + key % 2; }
// The inverse: the key stored in column `slot`.
COVIS_HD constexpr int value_key(int slot) {
  return 8 * (slot % 4 / 2) + 2 * (slot / 4) + slot % 2;
}

}  // namespace covis
