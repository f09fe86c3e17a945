// BlockSelect's choice of one row on the host, for tests without a GPU: the descents and the tie
// rule of choose.h as the kernel runs them, a loop in place of the CTA.
#include <cmath>
#include <limits>

#include "block_select/cuda/choose.h"
#include "block_select/cuda/launch_plan.h"

namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Row {
  const float* scores;
  int cols;

  template <bool kByMass>
  covis::Descent search(uint64_t limit, float high, float scale) const {
    covis::Descent d;
    for (int digit = 0; digit < 4 && !d.done; ++digit) {
      uint32_t counts[256] = {};
      uint64_t masses[256] = {};
      for (int col = 0; col < cols; ++col) {
        if (scores[col] == kNone) continue;
        const uint32_t key = covis::score_key(scores[col]);
        if (!covis::undecided(d, key)) continue;
        ++counts[key >> d.shift & 255];
        masses[key >> d.shift & 255] += covis::fixed_mass(std::exp(scores[col] - high) * scale);
      }
      if (kByMass)
        covis::descend_by_mass(d, counts, masses, limit, 255, 0);
      else
        covis::descend_by_count(d, counts, limit, 255, 0);
    }
    return d;
  }
};

}  // namespace

extern "C" {

// kept[col] = 1 for the candidates that the row keeps; scores are -inf where there is none.
void covis_host_choose(const float* scores, int cols, float keep_ratio, float cdf, int8_t* kept) {
  float high = kNone;
  float sum = 0.0f;
  uint64_t n = 0;
  for (int col = 0; col < cols; ++col) {
    n += scores[col] != kNone;
    high = std::fmax(high, scores[col]);
    kept[col] = 0;
  }
  if (n == 0) return;
  for (int col = 0; col < cols; ++col) {
    if (scores[col] != kNone) sum += std::exp(scores[col] - high);
  }
  const Row row{scores, cols};
  const covis::Descent within = row.search<true>(covis::mass_limit(cdf), high, 1.0f / sum);
  const uint64_t keep = covis::kept_count(keep_ratio, n, within.taken);
  const covis::Descent last = row.search<false>(keep, high, 0.0f);
  uint64_t ties = keep - last.taken;
  for (int col = 0; col < cols; ++col) {
    if (scores[col] == kNone) continue;
    const uint32_t key = covis::score_key(scores[col]);
    if (key > last.prefix) kept[col] = 1;
    if (key == last.prefix && ties > 0) {
      kept[col] = 1;
      --ties;
    }
  }
}

int8_t covis_host_block_level(const int8_t* pair, int pair_frames, int f0, int f1, int g0, int g1) {
  return covis::block_level(pair, pair_frames, f0, f1, g0, g1);
}

int covis_host_select_launch_plan(const CovisSelectParams* params, int pointers, uint64_t* bytes,
                                  int* rows_per_cta, char* message, size_t message_bytes) {
  covis::SelectLaunchPlan plan;
  const int status = covis::make_launch_plan(*params, pointers != 0,
                                             covis::Message{message, message_bytes}, &plan);
  *bytes = plan.bytes;
  *rows_per_cta = plan.rows_per_cta;
  return status;
}

}  // extern "C"
