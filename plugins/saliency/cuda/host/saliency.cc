// The level rule of the saliency kernels on the host, for tests without a GPU.
#include <algorithm>
#include <functional>
#include <vector>

#include "saliency/cuda/launch_plan.h"
#include "saliency/cuda/pair_rule.h"

extern "C" {

void covis_host_pair_levels(const float* similarity, int views, float tau, float tau_low,
                            int64_t min_neighbours, int64_t reference, int8_t* level) {
  const covis::PairRule rule{tau, tau_low, min_neighbours, reference};
  const int64_t rank = covis::neighbour_rank(rule, views);
  for (int i = 0; i < views; ++i) {
    std::vector<float> others(similarity + i * views, similarity + (i + 1) * views);
    others[i] = -2.0f;
    std::vector<float> sorted = others;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (int j = 0; j < views; ++j) {
      const bool near = rank > 0 && others[j] >= sorted[rank - 1];
      level[i * views + j] =
          covis::pair_level(rule, i, j, similarity[i * views + j], near, similarity[i * views + j]);
    }
  }
}

int covis_host_saliency_launch_plan(const CovisSaliencyParams* params, int pointers,
                                    uint64_t* bytes, char* message, size_t message_bytes) {
  covis::SaliencyLaunchPlan plan;
  const int status = covis::make_launch_plan(*params, pointers != 0,
                                             covis::Message{message, message_bytes}, &plan);
  *bytes = plan.bytes;
  return status;
}

}  // extern "C"
