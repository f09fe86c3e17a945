// BlockSelect against its rules in float64; rows where rounding may decide are left out.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference.h"
#include "test.h"

namespace covis::test {
namespace {

struct SelectCase {
  SelectParams p;
  Tokens q, k;
  std::unique_ptr<int8_t[]> pair;

  SelectCase(DataType type, const TokenLayout& layout, int64_t frames, int64_t size, Pool pool,
             float keep_ratio, float cdf, bool one_pair, uint32_t seed)
      : q(type, 2 * tokens_of(layout, frames) * size, *std::make_unique<Random>(seed)),
        k(type, 2 * tokens_of(layout, frames) * size, *std::make_unique<Random>(seed + 1)) {
    p.type = type;
    p.batch = 1, p.heads = 2, p.tokens = tokens_of(layout, frames), p.head_size = size;
    p.query = q.bytes.get(), p.key = k.bytes.get();
    p.layout = layout, p.pool = pool, p.keep_ratio = keep_ratio, p.cdf = cdf;
    p.pair_rows = p.pair_columns = one_pair ? 1 : frames;
    Random random(seed + 2);
    pair.reset(new int8_t[size_t(p.pair_rows * p.pair_columns)]);
    for (int64_t i = 0; i < p.pair_rows * p.pair_columns; ++i) pair[size_t(i)] = random() % 3;
    p.pair = pair.get();
  }

  static int64_t tokens_of(const TokenLayout& layout, int64_t frames) {
    return frames * layout.frame_tokens + layout.trailing_tokens;
  }

  std::vector<int8_t> run(int threads) {
    const size_t count = size_t(2 * p.layout.q_regions(p.tokens) * p.layout.k_regions(p.tokens));
    const std::unique_ptr<int8_t[]> level(new int8_t[count]);
    p.level = level.get();
    const std::string error = check_select(p);
    CHECK(error.empty(), "%s", error.c_str());
    ThreadTeam team(threads);
    const std::string failed = block_select(p, team.parallel_for());
    CHECK(failed.empty(), "%s", failed.c_str());
    return {level.get(), level.get() + count};
  }

  // Pooled vectors of one head: (regions, head_size).
  std::vector<double> pooled(const std::vector<double>& values, int64_t head, int64_t block) const {
    const std::vector<int64_t> numbers = patch_numbers(p.layout, p.tokens);
    const int64_t patches = p.layout.patches(p.tokens), size = p.head_size;
    const int64_t regions = (patches + block - 1) / block;
    std::vector<double> out(size_t(regions * size), p.pool == Pool::kMean ? 0.0 : -INFINITY);
    for (int64_t t = 0; t < p.tokens; ++t) {
      if (numbers[size_t(t)] < 0) continue;
      const int64_t region = numbers[size_t(t)] / block;
      const int64_t length = std::min(block, patches - region * block);
      for (int64_t d = 0; d < size; ++d) {
        const double x = values[size_t((head * p.tokens + t) * size + d)];
        double& to = out[size_t(region * size + d)];
        to = p.pool == Pool::kMean ? to + x / double(length) : std::max(to, x);
      }
    }
    return out;
  }

  // Checks every row that is not a near tie; returns the number of near ties.
  int check(const std::vector<int8_t>& given) const {
    const int64_t rows = p.layout.q_regions(p.tokens), columns = p.layout.k_regions(p.tokens);
    const int64_t per_frame = p.layout.frame_patches(), patches = p.layout.patches(p.tokens);
    int ties = 0;
    for (int64_t head = 0; head < 2; ++head) {
      const std::vector<double> pq = pooled(q.values, head, p.layout.q_block);
      const std::vector<double> pk = pooled(k.values, head, p.layout.k_block);
      for (int64_t i = 0; i < rows; ++i) {
        std::vector<int8_t> wanted(size_t(columns), 0), candidate(size_t(columns), 0);
        std::vector<double> score(size_t(columns), 0.0);
        std::vector<int64_t> order;
        double scale = 0.0;
        for (int64_t j = 0; j < columns; ++j) {
          for (int64_t a = i * p.layout.q_block; a < std::min((i + 1) * p.layout.q_block, patches);
               ++a) {
            for (int64_t b = j * p.layout.k_block;
                 b < std::min((j + 1) * p.layout.k_block, patches); ++b) {
              const int64_t at =
                  p.pair_rows == 1 ? 0 : a / per_frame * p.pair_columns + b / per_frame;
              candidate[size_t(j)] = std::max(candidate[size_t(j)], p.pair[at]);
            }
          }
          for (int64_t d = 0; d < p.head_size; ++d) {
            score[size_t(j)] += pq[size_t(i * p.head_size + d)] * pk[size_t(j * p.head_size + d)];
          }
          score[size_t(j)] /= std::sqrt(double(p.head_size));
          scale = std::max(scale, std::abs(score[size_t(j)]));
          if (candidate[size_t(j)] > 0) order.push_back(j);
        }
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return score[size_t(a)] > score[size_t(b)]; });
        const size_t n = order.size();
        double sum = 0.0, mass = 0.0;
        for (const int64_t j : order) sum += std::exp(score[size_t(j)] - score[size_t(order[0])]);
        const double limit = double(p.cdf) + 1e-5;
        size_t count = 0;
        bool tie = false;
        for (const int64_t j : order) {
          mass += std::exp(score[size_t(j)] - score[size_t(order[0])]) / sum;
          tie |= std::abs(mass - limit) < 3e-6 && p.cdf < 1.0f;
          count += mass <= limit ? 1 : 0;
        }
        count = std::min(std::max({count, size_t(double(p.keep_ratio) * double(n)), size_t(1)}), n);
        for (size_t r = 0; r < count; ++r) wanted[size_t(order[r])] = candidate[size_t(order[r])];
        tie |= count > 0 && count < n &&
               score[size_t(order[count - 1])] - score[size_t(order[count])] < 1e-5 * scale;
        const int8_t* row = given.data() + (head * rows + i) * columns;
        ties += tie ? 1 : 0;
        CHECK(tie || std::equal(wanted.begin(), wanted.end(), row), "head %lld row %lld",
              (long long)head, (long long)i);
      }
    }
    return ties;
  }
};

COVIS_TEST(select_follows_its_rules) {
  Random random(5);
  int rows = 0, ties = 0;
  for (uint32_t i = 0; i < 80; ++i) {
    const auto draw = [&random](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    TokenLayout layout;
    layout.special_first = draw(0, 3), layout.special_last = draw(0, 1);
    layout.frame_tokens = layout.special_first + layout.special_last + draw(1, 40);
    layout.trailing_tokens = draw(0, 2);
    layout.q_block = draw(1, 50), layout.k_block = draw(1, 30);
    SelectCase given(static_cast<DataType>(draw(0, 2)), layout, draw(1, 9), draw(1, 40),
                     draw(0, 1) == 0 ? Pool::kMean : Pool::kMax, float(draw(0, 4)) / 4,
                     float(draw(0, 10)) / 10, draw(0, 3) == 0, 10 * i);
    const std::vector<int8_t> level = given.run(1);
    CHECK(level == given.run(3), "threads change the map");
    ties += given.check(level);
    rows += int(2 * given.p.layout.q_regions(given.p.tokens));
  }
  CHECK(ties * 20 < rows, "%d of %d rows are near ties: the test shows little", ties, rows);
}

COVIS_TEST(select_stands_values_that_are_not_finite) {
  TokenLayout layout;
  layout.q_block = 8, layout.k_block = 4;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    SelectCase given(DataType::kFloat32, layout, 64, 16, Pool::kMean, 0.3f, 0.5f, true, 3);
    given.pair[0] = 2;
    const std::vector<int8_t> before = given.run(2);
    reinterpret_cast<float*>(given.q.bytes.get())[9 * 16 + 3] = bad;
    const std::vector<int8_t> after = given.run(2);
    for (size_t i = 0; i < before.size(); ++i) {
      CHECK(i / 16 == 1 || before[i] == after[i], "element %zu of another row", i);
      CHECK(after[i] == 0 || after[i] == 2, "element %zu is %d", i, after[i]);
    }
  }
}

}  // namespace
}  // namespace covis::test
