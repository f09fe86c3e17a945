// Levels of frame pairs from their similarity; the rule of covis.export.saliency.pair_levels.
#pragma once

#include <cstdint>

#include "cuda/host_device.h"

namespace covis {

struct PairRule {
  float tau, tau_low;
  int64_t min_neighbours, reference;
};

// Which rank (from 1) a view's last guaranteed neighbour has; 0 = none is guaranteed.
COVIS_HD int64_t neighbour_rank(const PairRule& rule, int32_t views) {
  if (rule.min_neighbours <= 0) return 0;
  return rule.min_neighbours < views ? rule.min_neighbours : views;
}

// `nearest` is the similarity of the last guaranteed neighbour, where one is guaranteed.
COVIS_HD int8_t pair_level(const PairRule& rule, int32_t i, int32_t j, float similarity,
                           bool guaranteed, float nearest) {
  const bool referring = i == rule.reference || j == rule.reference;
  if (i == j || referring || (guaranteed && similarity >= nearest)) return 2;
  const float found = similarity > 0.0f ? similarity : 0.0f;
  const float low = rule.tau_low < rule.tau ? rule.tau_low : rule.tau;
  return static_cast<int8_t>((found >= rule.tau) + (found >= low));
}

}  // namespace covis
