// Boxes of a tensor of five dimensions to shared memory and back.
#include "shared.h"

namespace {

// A box to shared memory, and shared memory as it then lies to global memory; a store back.
__global__ void __launch_bounds__(32)
    copy_box(const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap back,
             int bytes, int c0, int c1, int c2, int c3, int c4, uint8_t* seen) {
  extern __shared__ __align__(1024) uint8_t raw[];
  __shared__ __align__(8) uint64_t barrier;
  if (threadIdx.x == 0)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_of(&barrier)));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_of(&barrier)),
        "r"(bytes)
        : "memory");
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
        "{%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_of(raw)),
        "l"(&map), "r"(shared_of(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
  }
  asm volatile(
      "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra "
      "again;\n}" ::"r"(shared_of(&barrier))
      : "memory");
  for (int i = threadIdx.x; i < bytes; i += 32) seen[i] = raw[i];
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::
            "l"(&back),
        "r"(shared_of(raw)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}

}  // namespace

SELFTEST_API int selftest_copy(const CUtensorMap* map, const CUtensorMap* back, int bytes,
                               const int* at, uint8_t* seen) {
  alignas(64) CUtensorMap maps[2] = {*map, *back};
  copy_box<<<1, 32, 32768>>>(maps[0], maps[1], bytes, at[0], at[1], at[2], at[3], at[4], seen);
  return cudaGetLastError();
}

SELFTEST_API int selftest_encode(CUtensorMap* map, int type, void* data, const uint64_t* sizes,
                                 const uint64_t* strides, const uint32_t* box, int swizzle) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                   &found);
  const uint32_t ones[5] = {1, 1, 1, 1, 1};
  alignas(64) CUtensorMap made;
  const auto f = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  const int status =
      f(&made, static_cast<CUtensorMapDataType>(type), 5, data,
        reinterpret_cast<const cuuint64_t*>(sizes), reinterpret_cast<const cuuint64_t*>(strides),
        box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
        CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  *map = made;
  return status;
}
