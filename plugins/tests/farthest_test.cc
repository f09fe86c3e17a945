// FarthestFirst against its definition in float64; choices where rounding may decide are left out.
#include "farthest_first/cpu/farthest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "reference.h"
#include "test.h"

namespace covis::test {
namespace {

struct FarthestCase {
  FarthestCase(int64_t views, int64_t steps) : p{views} {
    similarity.reset(new float[size_t(views * views)]);
    given.reset(new int64_t[size_t(views)]);
    std::fill_n(given.get(), views, int64_t{-1});
    p.similarity = similarity.get(), p.given = given.get(), p.count = steps;
  }

  std::vector<int32_t> run() {
    const std::unique_ptr<int32_t[]> rank(new int32_t[size_t(p.views)]);
    p.rank = rank.get();
    const std::string error = check_farthest(p);
    CHECK(error.empty(), "%s", error.c_str());
    CHECK(farthest_first(p).empty(), "failed");
    return {rank.get(), rank.get() + p.views};
  }

  double both(int64_t i, int64_t j) const {
    return 0.5 *
           (double(similarity[size_t(i * p.views + j)]) + similarity[size_t(j * p.views + i)]);
  }

  // What a step ranks the views by: mean similarity first, then the distance to the nearest taken.
  double score(int64_t view, const std::vector<int64_t>& taken) const {
    if (!taken.empty()) {
      double least = std::numeric_limits<double>::infinity();
      for (const int64_t other : taken) least = std::min(least, 1.0 - both(view, other));
      return least;
    }
    double sum = 0.0;
    for (int64_t j = 0; j < p.views; ++j) sum += both(view, j);
    return sum / double(p.views);
  }

  // Follows the views in the order of `rank` and checks each against all others; returns the number
  // of near ties.
  int check(const std::vector<int32_t>& rank) const {
    const int64_t steps = std::clamp<int64_t>(p.count, 0, p.views);
    std::vector<int64_t> taken;
    int ties = 0;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t view = std::find(rank.begin(), rank.end(), step) - rank.begin();
      CHECK(view < p.views, "nobody has rank %lld", (long long)step);
      if (view == p.views) return ties;
      const auto is_taken = [&](int64_t v) {
        return std::find(taken.begin(), taken.end(), v) != taken.end();
      };
      const int64_t wish = given[size_t(step)];
      if (wish >= 0 && wish < p.views && !is_taken(wish)) {
        CHECK(view == wish, "step %lld took %lld", (long long)step, (long long)view);
      } else {
        const double own = score(view, taken);
        for (int64_t other = 0; other < p.views; ++other) {
          if (other == view || is_taken(other)) continue;
          const double ahead = score(other, taken) - own;
          const bool near = std::abs(ahead) < 1e-6;
          ties += near && ahead != 0.0;
          CHECK(near || ahead < 0.0, "step %lld: view %lld is ahead of %lld by %g", (long long)step,
                (long long)other, (long long)view, ahead);
          CHECK(ahead != 0.0 || view < other, "step %lld: tie of %lld and %lld", (long long)step,
                (long long)view, (long long)other);
        }
      }
      taken.push_back(view);
    }
    CHECK(std::count(rank.begin(), rank.end(), int32_t(p.views)) == p.views - steps, "not taken");
    return ties;
  }

  FarthestParams p;
  std::unique_ptr<float[]> similarity;
  std::unique_ptr<int64_t[]> given;
};

// Few different values make exact ties; many make none.
void fill(FarthestCase& c, int values, Random& random) {
  for (int64_t i = 0; i < c.p.views * c.p.views; ++i) {
    c.similarity[size_t(i)] = float(random() % uint32_t(values)) / float(values);
  }
}

COVIS_TEST(farthest_follows_its_definition) {
  Random random(7);
  int ties = 0;
  for (int i = 0; i < 300; ++i) {
    const auto draw = [&random](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    FarthestCase c(draw(1, 40), draw(-2, 45));
    fill(c, i % 2 == 0 ? 8 : 1 << 20, random);
    if (i % 3 == 0) {  // a few wishes: invalid ones, the same view twice
      for (int64_t n = draw(1, 5); n > 0; --n) c.given[draw(0, c.p.views - 1)] = draw(-2, 42);
    }
    const std::vector<int32_t> rank = c.run();
    ties += c.check(rank);
    c.p.count += draw(1, 9);
    std::vector<int32_t> longer = c.run();
    for (size_t v = 0; v < rank.size(); ++v) {
      const bool in_both = rank[v] < int32_t(c.p.views);
      CHECK(!in_both || rank[v] == longer[v], "more steps change step %d", rank[v]);
    }
  }
  CHECK(ties < 30, "%d near ties: the test shows little", ties);
}

COVIS_TEST(farthest_of_identical_views_goes_by_index) {
  FarthestCase c(9, 6);
  std::fill_n(c.similarity.get(), 81, 0.99999994f);
  c.given[2] = 7;
  CHECK((c.run() == std::vector<int32_t>{0, 1, 3, 4, 5, 9, 9, 2, 9}), "order");
}

COVIS_TEST(farthest_stands_values_that_are_not_finite) {
  Random random(8);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    for (const int64_t at : {0, 5, 143}) {
      FarthestCase c(12, 12);
      fill(c, 1000, random);
      c.similarity[size_t(at)] = bad;
      const std::vector<int32_t> rank = c.run();
      CHECK(std::set<int32_t>(rank.begin(), rank.end()).size() == 12, "a rank twice");
      CHECK(*std::max_element(rank.begin(), rank.end()) == 11, "a rank too large");
    }
  }
}

}  // namespace
}  // namespace covis::test
