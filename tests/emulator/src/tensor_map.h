// Tensor maps as the fake driver encodes them.
#pragma once

#include <cstdint>

namespace covis::emulator {

// In the 128 bytes of a CUtensorMap.
struct TensorMap {
  uint64_t magic;
  uint64_t base;
  uint64_t stride[5];  // bytes; [0] is the element
  uint32_t size[5];
  uint16_t box[5];
  uint8_t rank, element, swizzle;  // swizzle: 0, 1 = 32, 2 = 64, 3 = 128 bytes
  uint8_t pad[128 - 16 - 40 - 20 - 10 - 3];
};
static_assert(sizeof(TensorMap) == 128);
inline constexpr uint64_t kMapMagic = 0x70616d726f736e74;
uint32_t box_bytes(const TensorMap& map);

}  // namespace covis::emulator
