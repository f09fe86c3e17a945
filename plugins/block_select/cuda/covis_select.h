// C ABI of the CUDA kernels of BlockSelect; conventions as in covis_attention.h.
#ifndef COVIS_SELECT_H_
#define COVIS_SELECT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum CovisSelectType { kCovisSelectFloat16 = 0, kCovisSelectBfloat16 = 1, kCovisSelectFloat32 = 2 };
enum CovisPool { kCovisPoolMean = 0, kCovisPoolMax = 1 };

typedef struct CovisSelectParams {
  uint32_t struct_size;  // sizeof(CovisSelectParams) of the caller
  int32_t data_type;     // CovisSelectType of q and k
  int32_t pool;          // CovisPool
  uint32_t reserved;     // 0

  int64_t batch, heads, tokens, head_dim;
  int64_t frame_tokens, special_first, special_last, trailing_tokens;
  int64_t q_block, k_block;

  const void* q;
  const void* k;
  int64_t q_stride[3], k_stride[3];  // batch, head, token, in elements; head_dim is contiguous

  const int8_t* pair;       // (pair_frames, pair_frames)
  int64_t pair_frames;      // frames of the sequence, or 1 = one level for all pairs
  const float* keep_ratio;  // device scalars
  const float* cdf;

  int8_t* level;  // (B, H, Rq, Rk)

  void* workspace;  // 256-byte aligned
  uint64_t workspace_bytes;
} CovisSelectParams;

int covis_select_workspace(const CovisSelectParams* params, uint64_t* bytes, char* message,
                           size_t message_bytes);
int covis_select_launch(const CovisSelectParams* params, void* stream, char* message,
                        size_t message_bytes);

#ifdef __cplusplus
}
#endif
#endif  // COVIS_SELECT_H_
