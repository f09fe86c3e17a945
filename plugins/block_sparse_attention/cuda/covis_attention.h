// C ABI of the CUDA kernels of BlockSparseAttention: raw pointers, one POD struct, a stream.
//
// Every function returns a CovisStatus, never throws, never synchronises. When the status is not 0,
// `message` (unless null) receives one line with the name of the invalid field, its value, and the
// allowed range.
#ifndef COVIS_ATTENTION_H_
#define COVIS_ATTENTION_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum CovisStatus {
  kCovisOk = 0,
  kCovisBadArgument = 1,  // a field is outside its range, or fields contradict each other
  kCovisUnsupported = 2,  // valid by the contract, but this library has no kernel for it
  kCovisWorkspace = 3,    // the workspace is absent, misaligned or too small
  kCovisNoDevice = 4,     // no GPU, or a GPU for which the library has no code
  kCovisCudaError = 5,    // a call of the CUDA runtime or driver failed
};

enum CovisDataType { kCovisFloat16 = 0, kCovisBfloat16 = 1 };

// The lowest precision in which region pairs of level 1 ("low precision allowed") may be computed;
// pairs of level 2 are always computed in data_type, in the same pass over the same softmax. Fp8 is
// a permission: kernels without FP8 (all GPUs except those of compute capability 9.0) compute level
// 1 as level 2. With Fp8 the workspace holds FP8 copies of q, k and v: about 3 bytes per element of
// one of them.
enum CovisPrecision { kCovisPrecisionFull = 0, kCovisPrecisionFp8 = 1 };

// Which row of the tile table (tiles.h) is launched; 0 lets the library choose.
enum CovisKernel {
  kCovisKernelAuto = 0,
  kCovisKernelHopper = 1,           // wgmma, TMA
  kCovisKernelPortable = 2,         // mma.sync, cp.async
  kCovisKernelHopperPolynomial = 3  // as 1, a share of the exponentials on the FMA pipe
};

// Strides count elements; the innermost dimension (head_dim) is contiguous. Pointers are device
// pointers, 16-byte aligned; strides are multiples of 8 elements.
typedef struct CovisAttentionParams {
  uint32_t struct_size;  // sizeof(CovisAttentionParams) of the caller: guards against old callers
  int32_t data_type;     // CovisDataType of q, k, v, o
  int32_t precision;     // CovisPrecision
  int32_t kernel;        // CovisKernel

  int64_t batch, heads, tokens, head_dim;  // B, H, S, D
  int64_t frame_tokens, special_first, special_last, trailing_tokens;
  int64_t q_block, k_block;  // patch tokens per region
  float scale;               // factor of the scores; 0 = 1 / sqrt(D)
  uint32_t reserved;         // 0

  const void* q;
  const void* k;
  const void* v;
  void* o;
  int64_t q_stride[3], k_stride[3], v_stride[3], o_stride[3];  // batch, head, token

  const int8_t* level;  // (level_batch, level_heads, level_rows, level_cols), contiguous
  int64_t level_batch, level_heads, level_rows, level_cols;

  void* workspace;  // 256-byte aligned; may be null where the needed size is 0
  uint64_t workspace_bytes;
} CovisAttentionParams;

// ABI version; raised when CovisAttentionParams or a function changes incompatibly.
int covis_abi_version(void);

// Bytes of workspace that covis_attention_launch needs for these params (pointers are not read).
int covis_attention_workspace(const CovisAttentionParams* params, uint64_t* bytes, char* message,
                              size_t message_bytes);

// Enqueues the attention on `stream` (a cudaStream_t). The same inputs give the same bits.
int covis_attention_launch(const CovisAttentionParams* params, void* stream, char* message,
                           size_t message_bytes);

#ifdef __cplusplus
}
#endif
#endif  // COVIS_ATTENTION_H_
