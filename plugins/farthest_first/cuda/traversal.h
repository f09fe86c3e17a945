// A step of FarthestFirst for one view. Compiled for the device, where the threads of a CTA share
// the views, and for the host, where tests compare it with the contract.
//
// A view's score is its mean similarity until the first view is taken, then its distance to the
// nearest view taken, and NaN once it is taken itself.
#pragma once

#include <cstdint>
#include <limits>

#include "block_select/cuda/choose.h"

namespace covis {

COVIS_HD bool is_taken(float score) { return score != score; }
COVIS_HD float taken_score() { return std::numeric_limits<float>::quiet_NaN(); }

// The score before the first step. Without a number it ranks last, and is not that of a taken view.
COVIS_HD float central_score(double mean) {
  const float score = static_cast<float>(mean);
  return is_taken(score) ? -std::numeric_limits<float>::infinity() : score;
}

// The view of the largest key is the one that a step takes: the given one where it is not taken
// yet, else that of the largest score, of equal ones the lowest index. 0 for a view that is taken.
COVIS_HD uint64_t choice_key(float score, int32_t view, int64_t given) {
  if (is_taken(score)) return 0;
  const uint32_t high = view == given ? 0xffffffffu : score_key(score);  // no number has this key
  return static_cast<uint64_t>(high) << 32 | ~static_cast<uint32_t>(view);
}
COVIS_HD int32_t chosen_view(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}

// The score of a view that is not taken after a step that took a view of these similarities to it.
// A distance that is NaN leaves the least distance as it is.
COVIS_HD float next_score(float score, int32_t step, float similarity, float reverse) {
  const float distance = 1.0f - 0.5f * (similarity + reverse);
  const float least = step == 0 ? std::numeric_limits<float>::infinity() : score;
  return distance < least ? distance : least;
}

COVIS_HD int32_t step_count(int64_t count, int32_t views) {
  return count < 0 ? 0 : count < views ? static_cast<int32_t>(count) : views;
}

}  // namespace covis
