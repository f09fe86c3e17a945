// float16 and bfloat16 as bit patterns, to and from float32 (round to nearest even).
// Everything is `static`: the kernel objects are compiled for several instruction sets, and a
// shared inline function could be linked from the wrong one.
#pragma once

#include <cstdint>
#include <cstring>

namespace covis {

enum class DataType : int32_t { kFloat32, kFloat16, kBFloat16 };

[[maybe_unused]] static inline int64_t element_size(DataType type) {
  return type == DataType::kFloat32 ? 4 : 2;
}

[[maybe_unused]] static inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

[[maybe_unused]] static inline uint32_t bits_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

[[maybe_unused]] static inline float bfloat16_to_float(uint16_t half) {
  return float_from_bits(static_cast<uint32_t>(half) << 16);
}

[[maybe_unused]] static inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

[[maybe_unused]] static inline float float16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  if (magnitude >= (0x7c00u << 13)) return float_from_bits(sign | magnitude | 0x7f800000u);
  // Multiplying by 2^112 moves the exponent's bias and normalises subnormals exactly.
  const float scaled = float_from_bits(magnitude) * float_from_bits(0x77800000u);
  return float_from_bits(sign | bits_from_float(scaled));
}

[[maybe_unused]] static inline uint16_t float_to_float16(float value) {
  const uint32_t bits = bits_from_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {  // subnormal: the addition of 0.5 rounds at the right bit
    const float shifted = float_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_from_float(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace covis
