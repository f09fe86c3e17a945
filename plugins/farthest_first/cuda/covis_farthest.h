// C ABI of the CUDA kernel of FarthestFirst; conventions as in covis_attention.h.
#ifndef COVIS_FARTHEST_H_
#define COVIS_FARTHEST_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CovisFarthestParams {
  uint32_t struct_size;  // sizeof(CovisFarthestParams) of the caller
  uint32_t reserved;     // 0

  int64_t views;            // up to 16384
  const float* similarity;  // (views, views), contiguous
  const int64_t* given;     // (views)
  const int64_t* count;     // device scalar
  int32_t* rank;            // (views)

  void* workspace;  // of the size that the query gives, which is 0 at present
  uint64_t workspace_bytes;
} CovisFarthestParams;

int covis_farthest_workspace(const CovisFarthestParams* params, uint64_t* bytes, char* message,
                             size_t message_bytes);
int covis_farthest_launch(const CovisFarthestParams* params, void* stream, char* message,
                          size_t message_bytes);

#ifdef __cplusplus
}
#endif
#endif  // COVIS_FARTHEST_H_
