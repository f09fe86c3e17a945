// The traversal of FarthestFirst on the host, for tests without a GPU: the steps of traversal.h as
// the kernel runs them, a loop in place of the CTA.
#include <vector>

#include "farthest_first/cuda/launch_plan.h"
#include "farthest_first/cuda/traversal.h"

namespace {

std::vector<float> central_scores(const float* similarity, int views) {
  std::vector<double> sums(views, 0.0);
  for (int i = 0; i < views; ++i) {
    for (int j = 0; j < views; ++j) {
      sums[i] += similarity[i * views + j];
      sums[j] += similarity[i * views + j];
    }
  }
  std::vector<float> scores;
  for (const double sum : sums) scores.push_back(covis::central_score(sum / (2.0 * views)));
  return scores;
}

}  // namespace

extern "C" {

void covis_host_farthest(const float* similarity, const int64_t* given, int64_t count, int views,
                         int32_t* rank) {
  std::vector<float> scores = central_scores(similarity, views);
  for (int view = 0; view < views; ++view) rank[view] = views;
  for (int step = 0; step < covis::step_count(count, views); ++step) {
    uint64_t key = 0;
    for (int view = 0; view < views; ++view) {
      const uint64_t own = covis::choice_key(scores[view], view, given[step]);
      key = own > key ? own : key;
    }
    const int chosen = covis::chosen_view(key);
    for (int view = 0; view < views; ++view) {
      if (view == chosen) {
        rank[view] = step;
        scores[view] = covis::taken_score();
      } else if (!covis::is_taken(scores[view])) {
        scores[view] = covis::next_score(scores[view], step, similarity[chosen * views + view],
                                         similarity[view * views + chosen]);
      }
    }
  }
}

int covis_host_farthest_check(const CovisFarthestParams* params, int pointers, uint64_t* bytes,
                              char* message, size_t message_bytes) {
  *bytes = 0;
  return covis::check_farthest(*params, pointers != 0, covis::Message{message, message_bytes});
}

}  // extern "C"
