// One wgmma of 64 x 64 numbers, its operands in shared memory where the host says.
#include "shared.h"

namespace {

struct Wgmma {
  const uint8_t *a, *b;        // bytes of A (64 x K) and B (N x K or as the table says)
  const int32_t *a_at, *b_at;  // where each byte goes in shared memory
  int32_t a_bytes, b_bytes;
  uint32_t a_start, b_start;  // matrix starts behind the base
  uint64_t a_desc, b_desc;    // without the address
  float* d;                   // 64 x 64
};

#define REGS                                                                                    \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, "                                                                                       \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define OUT                                                                                       \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])

// float16 or e4m3; B transposed; A in registers.
enum Kind : int { kHalf, kHalfTransposed, kLow, kLowRegisters, kHalfRegisters };

template <int kKind>
__global__ void __launch_bounds__(128) multiply(Wgmma w) {
  extern __shared__ __align__(1024) uint8_t raw[];
  for (int i = threadIdx.x; i < 32768; i += 128) raw[i] = 0x7f;
  __syncthreads();
  uint8_t* a = raw;
  uint8_t* b = raw + 16384;
  for (int i = threadIdx.x; i < w.a_bytes; i += 128) a[w.a_at[i]] = w.a[i];
  for (int i = threadIdx.x; i < w.b_bytes; i += 128) b[w.b_at[i]] = w.b[i];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const uint64_t a_desc = w.a_desc | ((shared_of(a) + w.a_start) >> 4 & 0x3fff);
  const uint64_t b_desc = w.b_desc | ((shared_of(b) + w.b_start) >> 4 & 0x3fff);
  float d[32];
  for (int i = 0; i < 32; ++i) d[i] = 0.0f;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  uint32_t r[4] = {};
  if constexpr (kKind == kLowRegisters ||
                kKind == kHalfRegisters) {  // A in registers: rows lane / 4 and + 8, four bytes of
                                            // K each, then the same behind
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * warp + lane / 4 + 8 * (i % 2);
      r[i] = *reinterpret_cast<const uint32_t*>(w.a + row * 32 + 4 * (lane % 4) + 16 * (i / 2));
    }
  }
  // The compiler must not set registers behind the fence.
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(d[i])::"memory");
  for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(r[i])::"memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  if constexpr (kKind == kHalf)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " REGS
                 ", %32, %33, 1, 1, 1, 0, 0;"
                 : OUT
                 : "l"(a_desc), "l"(b_desc));
  if constexpr (kKind == kHalfTransposed)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " REGS
                 ", %32, %33, 1, 1, 1, 0, 1;"
                 : OUT
                 : "l"(a_desc), "l"(b_desc));
  if constexpr (kKind == kLow)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 " REGS ", %32, %33, 1, 1, 1;"
                 : OUT
                 : "l"(a_desc), "l"(b_desc));
  if constexpr (kKind == kLowRegisters)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 " REGS
                 ", {%32, %33, %34, %35}, %36, 1, 1, 1;"
                 : OUT
                 : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(b_desc));
  if constexpr (kKind == kHalfRegisters)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " REGS
                 ", {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
                 : OUT
                 : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(b_desc));
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 32; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
    const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    w.d[row * 64 + column] = d[i];
  }
}

}  // namespace

SELFTEST_API int selftest_wgmma(int kind, const void* arguments) {
  const auto& w = *static_cast<const Wgmma*>(arguments);
  switch (kind) {
    case kHalf: multiply<kHalf><<<1, 128, 32768>>>(w); break;
    case kHalfTransposed: multiply<kHalfTransposed><<<1, 128, 32768>>>(w); break;
    case kLow: multiply<kLow><<<1, 128, 32768>>>(w); break;
    case kLowRegisters: multiply<kLowRegisters><<<1, 128, 32768>>>(w); break;
    default: multiply<kHalfRegisters><<<1, 128, 32768>>>(w);
  }
  return cudaGetLastError();
}
