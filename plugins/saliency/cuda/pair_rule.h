// Levels of frame pairs; the rule of covis.export.selection.pair_rules.
#pragma once

#include <cstdint>

#include "block_select/cuda/choose.h"
#include "saliency/cuda/covis_saliency.h"

namespace covis {

// The numbers of one map.
struct PairRule {
  float tau, tau_low;
  int64_t anchors, min_neighbours, reference;
  bool own_frame, to_reference, from_reference;
};

COVIS_HD PairRule pair_rule(const CovisPairLevelsParams& p, int map) {
  const float tau = p.tau[map], low = p.tau_low[map];
  return {
      tau,          low < tau ? low : tau, p.anchors[map],           p.min_neighbours[map],
      *p.reference, p.own_frame[map] != 0, p.to_reference[map] != 0, p.from_reference[map] != 0};
}

// How many other views are kept as the most similar ones.
COVIS_HD int32_t neighbour_count(const PairRule& rule, int32_t views) {
  if (rule.min_neighbours <= 0) return 0;
  return rule.min_neighbours < views - 1 ? static_cast<int32_t>(rule.min_neighbours) : views - 1;
}

// A key of 16 bits that is larger for a lower index. Views are at most 65535.
COVIS_HD uint32_t index_key(int32_t view) { return 0xffffu - static_cast<uint32_t>(view); }
constexpr int kIndexShift = 8;  // of the first of its two digits

// The last neighbour that is kept: keys of its similarity and of its index. Two descents by count
// find them (choose.h): the first over all other views, the second over those of equal similarity.
struct LastNeighbour {
  uint32_t similarity = 0xffffffffu, index = 0x10000u;  // no view is a neighbour

  COVIS_HD bool keeps(uint32_t similarity_key, int32_t view) const {
    if (similarity_key != similarity) return similarity_key > similarity;
    return index_key(view) >= index;
  }
};

// `neighbour`: whether j is one of the most similar other views of i.
COVIS_HD int8_t pair_level(const PairRule& rule, int32_t i, int32_t j, float similarity,
                           int32_t anchor_rank, bool neighbour) {
  const float found = similarity > 0.0f ? similarity : 0.0f;
  const bool full = found >= rule.tau || anchor_rank < rule.anchors || neighbour ||
                    (i == j && rule.own_frame) || (j == rule.reference && rule.to_reference) ||
                    (i == rule.reference && rule.from_reference);
  return full ? 2 : found >= rule.tau_low ? 1 : 0;
}

}  // namespace covis
