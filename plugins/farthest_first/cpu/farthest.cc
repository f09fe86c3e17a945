#include "farthest_first/cpu/farthest.h"

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>
#include <vector>

namespace covis {
namespace {

constexpr int64_t kNone = -1;

// Several sums, so that no addition waits for the one before it.
double sum_of(const float* values, int64_t count) {
  constexpr int64_t kSums = 8;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int64_t lane = 0; lane < kSums; ++lane) sums[lane] += values[i + lane];
  }
  for (; i < count; ++i) sums[0] += values[i];
  return std::accumulate(sums, sums + kSums, 0.0);
}

// The view of the largest mean similarity to all views. K_ij + K_ji counts once in the sum of i and
// once in that of j, so that one pass over the matrix is enough. In float64: no rounding decides.
int64_t most_central(const FarthestParams& p) {
  std::vector<double> sums(static_cast<size_t>(p.views), 0.0);
  for (int64_t i = 0; i < p.views; ++i) {
    const float* row = p.similarity + i * p.views;
    for (int64_t j = 0; j < p.views; ++j) sums[static_cast<size_t>(j)] += row[j];
    sums[static_cast<size_t>(i)] += sum_of(row, p.views);
  }
  return std::max_element(sums.begin(), sums.end()) - sums.begin();
}

// A traversal: which views are taken, and how far the others are from them.
class Traversal {
 public:
  explicit Traversal(const FarthestParams& p)
      : p_(p), least_(static_cast<size_t>(p.views), std::numeric_limits<float>::infinity()) {
    std::fill_n(p.rank, p.views, static_cast<int32_t>(p.views));
  }

  void run() {
    const int64_t steps = std::clamp<int64_t>(p_.count, 0, p_.views);
    for (int64_t step = 0; step < steps; ++step) take(view_of(step), step);
  }

 private:
  bool is_taken(int64_t view) const { return p_.rank[view] < p_.views; }

  int64_t view_of(int64_t step) const {
    const int64_t given = p_.given[step];
    if (given >= 0 && given < p_.views && !is_taken(given)) return given;
    return step == 0 ? most_central(p_) : farthest();
  }

  // Of the views not taken, the one whose least distance is greatest; ties: the lowest index.
  int64_t farthest() const {
    int64_t best = kNone;
    for (int64_t view = 0; view < p_.views; ++view) {
      if (is_taken(view)) continue;
      if (best == kNone || least_[view] > least_[best]) best = view;
    }
    return best;
  }

  // A distance that is NaN leaves the least distance as it is.
  void take(int64_t view, int64_t step) {
    p_.rank[view] = static_cast<int32_t>(step);
    const float* row = p_.similarity + view * p_.views;
    const float* column = p_.similarity + view;
    for (int64_t j = 0; j < p_.views; ++j) {
      const float distance = 1.0f - 0.5f * (row[j] + column[j * p_.views]);
      least_[j] = distance < least_[j] ? distance : least_[j];
    }
  }

  const FarthestParams& p_;
  std::vector<float> least_;  // distance to the nearest view taken
};

}  // namespace

std::string check_farthest(const FarthestParams& p) {
  if (p.views >= 1 && p.views <= std::numeric_limits<int32_t>::max()) return {};
  return "input similarity has " + std::to_string(p.views) + " views, must be from 1 to 2147483647";
}

std::string farthest_first(const FarthestParams& p) try {
  Traversal(p).run();
  return {};
} catch (const std::bad_alloc&) {
  return "out of memory";
}

}  // namespace covis
