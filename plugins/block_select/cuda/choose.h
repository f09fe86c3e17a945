// Steps 4 and 5 of BlockSelect's rules on one row, without sorting: a radix descent over the
// scores' bits finds how far the cumulated probability reaches, a second one the score of the last
// block kept. Compiled for the device, where a CTA runs it, and for the host, where tests compare
// it with the contract.
#pragma once

#include <cstdint>

#include "cuda/host_device.h"

namespace covis {

inline constexpr int kMassBits = 40;  // probabilities as fixed point: sums do not depend on order

// A key that orders like the score: larger score, larger key. Blocks that are not candidates get no
// key.
COVIS_HD uint32_t score_key(float score) {
  union {
    float f;
    uint32_t u;
  } bits{score};
  if ((bits.u << 1) == 0) bits.u = 0;  // -0 and +0 have the same rank
  return (bits.u & 0x80000000u) != 0 ? ~bits.u : bits.u | 0x80000000u;
}

COVIS_HD uint64_t fixed_mass(float probability) {
  const float scaled = probability * static_cast<float>(uint64_t{1} << kMassBits);
  return scaled > 0.0f ? static_cast<uint64_t>(scaled) : 0;  // NaN counts as nothing
}

// The state of a descent: keys that begin with `prefix` are undecided, larger ones are taken.
struct Descent {
  uint32_t prefix = 0;
  int shift = 24;      // of the next digit
  uint64_t taken = 0;  // number of keys taken
  uint64_t mass = 0;   // their mass
  bool done = false;   // all keys are taken, none is undecided
};

COVIS_HD bool undecided(const Descent& d, uint32_t key) {
  return d.shift == 24 || key >> (d.shift + 8) == d.prefix >> (d.shift + 8);
}

// One digit by mass: bins from `high` down to `low` are taken while the cumulated mass stays within
// `limit`. Over all 256 bins in one call, or over the run of bins that contains the limit.
COVIS_HD void descend_by_mass(Descent& d, const uint32_t* counts, const uint64_t* masses,
                              uint64_t limit, int high, int low) {
  for (int bin = high; bin >= low; --bin) {
    if (counts[bin] == 0) continue;
    if (d.mass + masses[bin] > limit) {
      d.prefix |= static_cast<uint32_t>(bin) << d.shift;
      if (d.shift == 0) {  // equal scores: as many as fit
        const uint64_t each = masses[bin] / counts[bin];
        d.taken += each == 0 ? counts[bin] : (limit - d.mass) / each;
        d.done = true;
      }
      d.shift -= 8;
      return;
    }
    d.taken += counts[bin];
    d.mass += masses[bin];
  }
  d.done = true;
}

// One digit by count: finds the bin of the key number `keep` (from 1).
COVIS_HD void descend_by_count(Descent& d, const uint32_t* counts, uint64_t keep, int high,
                               int low) {
  for (int bin = high; bin >= low; --bin) {
    if (d.taken + counts[bin] >= keep) {
      d.prefix |= static_cast<uint32_t>(bin) << d.shift;
      d.shift -= 8;
      return;
    }
    d.taken += counts[bin];
  }
}

COVIS_HD uint64_t mass_limit(float cdf) {
  const double limit = static_cast<double>(cdf) + 1e-5;
  return static_cast<uint64_t>((limit < 0.0   ? 0.0
                                : limit > 2.0 ? 2.0
                                              : limit) *
                               static_cast<double>(uint64_t{1} << kMassBits));
}

// Number of blocks kept of `n` candidates, from the ratio and the number within the cdf.
COVIS_HD uint64_t kept_count(float keep_ratio, uint64_t n, uint64_t within) {
  const double ratio = keep_ratio > 0.0f ? static_cast<double>(keep_ratio) : 0.0;
  const double top = ratio * static_cast<double>(n);
  uint64_t keep = top >= static_cast<double>(n) ? n : static_cast<uint64_t>(top);
  if (within > keep) keep = within;
  if (keep < 1) keep = 1;
  return keep < n ? keep : n;
}

// Highest level of the frame pairs that a block pair touches.
COVIS_HD int8_t block_level(const int8_t* pair, int32_t pair_frames, int32_t f0, int32_t f1,
                            int32_t g0, int32_t g1) {
  if (pair_frames == 1) return pair[0];
  int8_t level = 0;
  for (int32_t f = f0; f <= f1; ++f) {
    for (int32_t g = g0; g <= g1; ++g) {
      const int8_t value = pair[static_cast<int64_t>(f) * pair_frames + g];
      level = value > level ? value : level;
    }
  }
  return level;
}

}  // namespace covis
