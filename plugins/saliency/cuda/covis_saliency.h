// C ABI of the saliency pre-op on CUDA: patch tokens -> similarity of views -> frame-pair levels.
// Conventions as in covis_attention.h.
#ifndef COVIS_SALIENCY_H_
#define COVIS_SALIENCY_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CovisSaliencyParams {
  uint32_t struct_size;  // sizeof(CovisSaliencyParams) of the caller
  int32_t data_type;     // of the tokens: 0 float16, 1 bfloat16, 2 float32
  int64_t views, patches, channels;
  const void* tokens;  // (views, patches, channels), contiguous
  const float* tau;    // device scalars
  const float* tau_low;
  const int64_t* min_neighbours;
  const int64_t* reference;  // index of the reference view, or -1
  float* similarity;         // (views, views)
  int8_t* level;             // (views, views)
  void* workspace;           // 256-byte aligned
  uint64_t workspace_bytes;
} CovisSaliencyParams;

int covis_saliency_workspace(const CovisSaliencyParams* params, uint64_t* bytes, char* message,
                             size_t message_bytes);
int covis_saliency_launch(const CovisSaliencyParams* params, void* stream, char* message,
                          size_t message_bytes);

#ifdef __cplusplus
}
#endif
#endif  // COVIS_SALIENCY_H_
