// The level rule of the saliency kernels on the host, for tests without a GPU: the descents of
// choose.h as the kernel runs them, a loop in place of the CTA.
#include "saliency/cuda/launch_plan.h"
#include "saliency/cuda/pair_rule.h"

namespace {

template <class Key, class Searched>
covis::Descent find_last(uint64_t keep, int shift, int views, Key key, Searched searched) {
  covis::Descent d;
  for (d.shift = shift; d.shift >= 0;) {
    uint32_t counts[256] = {};
    for (int j = 0; j < views; ++j) {
      if (searched(j) && covis::undecided(d, key(j))) ++counts[key(j) >> d.shift & 255];
    }
    covis::descend_by_count(d, counts, keep, 255, 0);
  }
  return d;
}

covis::LastNeighbour last_neighbour(const covis::PairRule& rule, const float* row, int view,
                                    int views) {
  const int count = covis::neighbour_count(rule, views);
  if (count == 0) return {};
  const auto key = [&](int j) { return covis::score_key(row[j]); };
  const covis::Descent similar = find_last(count, 24, views, key, [&](int j) { return j != view; });
  const covis::Descent first =
      find_last(count - similar.taken, covis::kIndexShift, views, covis::index_key,
                [&](int j) { return j != view && key(j) == similar.prefix; });
  return {similar.prefix, first.prefix};
}

}  // namespace

extern "C" {

void covis_host_pair_levels(const CovisPairLevelsParams* params) {
  const CovisPairLevelsParams& p = *params;
  const int views = static_cast<int>(p.views);
  int8_t* level = p.level;
  for (int map = 0; map < p.maps; ++map) {
    const covis::PairRule rule = covis::pair_rule(p, map);
    for (int i = 0; i < views; ++i) {
      const float* row = p.similarity + i * views;
      const covis::LastNeighbour last = last_neighbour(rule, row, i, views);
      for (int j = 0; j < views; ++j) {
        const bool neighbour = j != i && last.keeps(covis::score_key(row[j]), j);
        *level++ = covis::pair_level(rule, i, j, row[j], p.anchor_rank[j], neighbour);
      }
    }
  }
}

int covis_host_similarity_launch_plan(const CovisSimilarityParams* params, int pointers,
                                      uint64_t* bytes, char* message, size_t message_bytes) {
  covis::SimilarityPlan plan;
  const int status = covis::make_launch_plan(*params, pointers != 0,
                                             covis::Message{message, message_bytes}, &plan);
  *bytes = plan.bytes;
  return status;
}

int covis_host_pair_levels_check(const CovisPairLevelsParams* params, int pointers, uint64_t* bytes,
                                 char* message, size_t message_bytes) {
  *bytes = 0;
  return covis::check_pair_levels(*params, pointers != 0, covis::Message{message, message_bytes});
}

}  // extern "C"
