// The types of tensor-core operands, as instructions carry them.
#pragma once

#include "numbers.h"

namespace covis::emulator {

enum Type : int { kHalf, kBfloat, kE4m3 };

inline float decode(int type, const uint8_t* from) {
  if (type == kE4m3) {
    static const auto table = [] {
      std::vector<float> t(256);
      for (int i = 0; i < 256; ++i) t[i] = e4m3_to_float(static_cast<uint8_t>(i));
      return t;
    }();
    return table[*from];
  }
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  if (type == kBfloat) return bfloat_to_float(bits);
  static const auto table = [] {
    std::vector<float> t(65536);
    for (int i = 0; i < 65536; ++i) t[i] = half_to_float(static_cast<uint16_t>(i));
    return t;
  }();
  return table[bits];
}

}  // namespace covis::emulator
