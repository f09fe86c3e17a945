// C ABI of the saliency pre-op on CUDA: patch tokens -> similarity of views, and similarity and
// anchors -> frame-pair maps. FarthestFirst comes between them. Conventions as in
// covis_attention.h.
#ifndef COVIS_SALIENCY_H_
#define COVIS_SALIENCY_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CovisSimilarityParams {
  uint32_t struct_size;  // sizeof(CovisSimilarityParams) of the caller
  int32_t data_type;     // of the tokens: 0 float16, 1 bfloat16, 2 float32
  int64_t views, patches, channels;
  const void* tokens;  // (views, patches, channels), contiguous
  float* similarity;   // (views, views)
  void* workspace;     // 256-byte aligned
  uint64_t workspace_bytes;
} CovisSimilarityParams;

// The numbers of `maps` pair rules, in device memory; a bool is one byte, 0 or 1.
typedef struct CovisPairLevelsParams {
  uint32_t struct_size;  // sizeof(CovisPairLevelsParams) of the caller
  uint32_t reserved;     // 0
  int64_t views, maps;
  const float* similarity;     // (views, views), contiguous
  const int32_t* anchor_rank;  // (views)
  const float* tau;            // (maps), as the next
  const float* tau_low;
  const int64_t* anchors;
  const int64_t* min_neighbours;
  const uint8_t* own_frame;
  const int64_t* reference;     // scalar: index of the reference view, or -1
  const uint8_t* to_reference;  // (maps), as the next
  const uint8_t* from_reference;
  int8_t* level;    // (maps, views, views)
  void* workspace;  // of the size that the query gives, which is 0 at present
  uint64_t workspace_bytes;
} CovisPairLevelsParams;

int covis_similarity_workspace(const CovisSimilarityParams* params, uint64_t* bytes, char* message,
                               size_t message_bytes);
int covis_similarity_launch(const CovisSimilarityParams* params, void* stream, char* message,
                            size_t message_bytes);
int covis_pair_levels_workspace(const CovisPairLevelsParams* params, uint64_t* bytes, char* message,
                                size_t message_bytes);
int covis_pair_levels_launch(const CovisPairLevelsParams* params, void* stream, char* message,
                             size_t message_bytes);

#ifdef __cplusplus
}
#endif
#endif  // COVIS_SALIENCY_H_
