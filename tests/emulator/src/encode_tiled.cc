// The driver's encoder of tensor maps.
#include <cstring>

#include "fake_cuda.h"
#include "tensor_map.h"

namespace covis::emulator {

CUresult encode_tiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                      CUtensorMapFloatOOBfill fill) {
  const auto bad = [](const char* why) {
    runtime().error = std::string("cuTensorMapEncodeTiled: ") + why;
    return CUDA_ERROR_INVALID_VALUE;
  };
  TensorMap map{};
  map.magic = kMapMagic;
  if (reinterpret_cast<uintptr_t>(out) % 64 != 0) return bad("the map is not 64-byte aligned");
  if (rank < 1 || rank > 5) return bad("rank");
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return bad("interleave");
  if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) return bad("fill");
  map.rank = static_cast<uint8_t>(rank);
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: map.element = 1; break;
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: map.element = 2; break;
    default: return bad("type");
  }
  map.base = reinterpret_cast<uint64_t>(address);
  if (map.base % 16 != 0 || map.base == 0) return bad("the address is not 16-byte aligned");
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || sizes[i] > (uint64_t{1} << 32)) return bad("size");
    map.size[i] = static_cast<uint32_t>(sizes[i]);
    if (i > 0) {
      if (strides[i - 1] % 16 != 0 || strides[i - 1] >= (uint64_t{1} << 40) || strides[i - 1] == 0)
        return bad("stride");
      map.stride[i] = strides[i - 1];
    }
    if (box[i] == 0 || box[i] > 256) return bad("box");
    map.box[i] = static_cast<uint16_t>(box[i]);
    if (steps[i] != 1) return bad("element strides");
  }
  map.stride[0] = map.element;
  const uint32_t inner = box[0] * map.element;
  if (inner % 16 != 0) return bad("the inner box is not a multiple of 16 bytes");
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE: map.swizzle = 0; break;
    case CU_TENSOR_MAP_SWIZZLE_32B: map.swizzle = 1; break;
    case CU_TENSOR_MAP_SWIZZLE_64B: map.swizzle = 2; break;
    case CU_TENSOR_MAP_SWIZZLE_128B: map.swizzle = 3; break;
    default: return bad("swizzle");
  }
  // Narrower inner boxes than the swizzle's row are allowed, but rows would then lie closer
  // together than the products expect; this project never wants that.
  if (map.swizzle != 0 && inner != 16u << map.swizzle) return bad("inner box and swizzle differ");
  std::memcpy(static_cast<void*>(out), &map, sizeof(map));
  return CUDA_SUCCESS;
}

}  // namespace covis::emulator
