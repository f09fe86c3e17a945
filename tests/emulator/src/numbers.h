// Numbers of two bytes and of one: float16, bfloat16, e4m3.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace covis::emulator {

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = h >> 10 & 31;
  const uint32_t mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | mantissa << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return 0x7fff;
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {
    const int steps = static_cast<int>(std::nearbyint(magnitude * 0x1p24f));
    return sign | static_cast<uint16_t>(steps);
  }
  const uint32_t rounded = bits + 0xfff + (bits >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}
inline float bfloat_to_float(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline uint16_t float_to_bfloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
// e4m3: bias 7, no infinities, largest 448, NaN 0x7f; round to nearest even, saturating.
inline uint8_t float_to_e4m3(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint8_t sign = bits >> 24 & 0x80;
  if (x != x) return 0x7f;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= 448.0) return sign | 0x7e;
  int exponent = magnitude == 0.0 ? -6 : std::ilogb(magnitude);
  if (exponent < -6) exponent = -6;
  const double steps = std::nearbyint(std::ldexp(magnitude, 3 - exponent));  // of 2^(e - 3)
  int code = static_cast<int>(steps);
  if (exponent == -6 && code < 8) return sign | static_cast<uint8_t>(code);
  if (code == 16) {
    code = 8;
    ++exponent;
  }
  const int out = (exponent + 7) << 3 | (code - 8);
  return sign | static_cast<uint8_t>(out > 0x7e ? 0x7e : out);
}
inline float e4m3_to_float(uint8_t h) {
  const int exponent = h >> 3 & 15;
  const int mantissa = h & 7;
  float value;
  if (exponent == 15 && mantissa == 7)
    value = NAN;
  else if (exponent == 0)
    value = std::ldexp(static_cast<float>(mantissa), -9);
  else
    value = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return h & 0x80 ? -value : value;
}

}  // namespace covis::emulator
