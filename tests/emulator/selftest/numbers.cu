// mma.sync through the matrix loads and stores, and conversions to two bytes and one.
#include "shared.h"

namespace {

// A 16 x 16, B 16 x 8 (both row-major halves) -> D 16 x 8; A through stmatrix and ldmatrix.
__global__ void __launch_bounds__(32) multiply(const uint16_t* a, const uint16_t* b, float* d) {
  __shared__ __align__(16) uint16_t tile[16 * 16];
  __shared__ __align__(16) uint16_t other[16 * 8];
  const int lane = threadIdx.x;
  for (int i = lane; i < 128; i += 32) other[i] = b[i];
  uint32_t r[4];
  for (int m = 0; m < 4; ++m) {
    const int row = lane / 4 + 8 * (m % 2);
    const int column = 2 * (lane % 4) + 8 * (m / 2);
    r[m] = a[row * 16 + column] | static_cast<uint32_t>(a[row * 16 + column + 1]) << 16;
  }
  const uint32_t at = shared_of(&tile[(lane % 8 + 8 * (lane / 8 % 2)) * 16 + 8 * (lane / 16)]);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
  __syncwarp();
  uint32_t x[4], y[2];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at)
               : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(y[0]), "=r"(y[1])
               : "r"(shared_of(&other[lane % 16 * 8]))
               : "memory");
  float c[4] = {};
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
  for (int i = 0; i < 4; ++i) d[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = c[i];
}

// Conversions of n floats (n a multiple of 2).
__global__ void convert(const float* x, int n, uint32_t* half, uint32_t* bfloat, uint16_t* low) {
  for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
    uint32_t h, b;
    uint16_t e;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(b) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(e) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
    half[i] = h;
    bfloat[i] = b;
    low[i] = e;
  }
}

}  // namespace

SELFTEST_API int selftest_mma(const uint16_t* a, const uint16_t* b, float* d) {
  multiply<<<1, 32>>>(a, b, d);
  return cudaGetLastError();
}

SELFTEST_API int selftest_convert(const float* x, int n, uint32_t* half, uint32_t* bfloat,
                                  uint16_t* low) {
  convert<<<1, 64>>>(x, n, half, bfloat, low);
  return cudaGetLastError();
}
