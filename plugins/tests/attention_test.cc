// The kernel against the definition, on every instruction set that this machine runs.
#include <cmath>

#include "block_sparse_attention/cpu/simd.h"
#include "block_sparse_attention/cpu/tile.h"
#include "reference.h"
#include "test.h"

namespace covis::test {
namespace {

TokenLayout layout(int64_t frame, int64_t first, int64_t last, int64_t trailing, int64_t q_block,
                   int64_t k_block) {
  TokenLayout made;
  made.frame_tokens = frame, made.special_first = first, made.special_last = last;
  made.trailing_tokens = trailing, made.q_block = q_block, made.k_block = k_block;
  return made;
}

void expect_small_error(const AttentionCase& given, double tolerance) {
  for (const attention::Kernels* kernels : runnable_kernels()) {
    const double error = given.error(*kernels);
    const AttentionParams& p = given.params;
    CHECK(
        error < tolerance,
        "%s: error %g; S %lld D %lld frame %lld specials %lld %lld trailing %lld blocks %lld %lld",
        kernels->name, error, (long long)p.tokens, (long long)p.head_size,
        (long long)p.layout.frame_tokens, (long long)p.layout.special_first,
        (long long)p.layout.special_last, (long long)p.layout.trailing_tokens,
        (long long)p.layout.q_block, (long long)p.layout.k_block);
  }
}

COVIS_TEST(dense_at_every_size) {
  for (const int64_t tokens : {1, 2, 15, 16, 17, 95, 96, 97, 128, 129, 260}) {
    for (const int64_t size : {1, 5, 16, 32, 64, 96, 128, 130}) {
      expect_small_error(AttentionCase(DataType::kFloat32, 1, 1, tokens, size, {}, 1.0, false, 7),
                         5e-6);
    }
  }
}

COVIS_TEST(a_large_head) {
  expect_small_error(AttentionCase(DataType::kFloat32, 1, 1, 150, 3000, {}, 0.5, false, 3), 1e-5);
}

COVIS_TEST(random_layouts) {
  Random random(11);
  const auto draw = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int i = 0; i < 120; ++i) {
    const int64_t first = draw(0, 5), last = draw(0, 2), patches = draw(1, i % 4 == 0 ? 150 : 20);
    const int64_t frame = first + last + patches, trailing = draw(0, 3);
    const int64_t frames = draw(1, std::max<int64_t>(1, 300 / frame));
    const TokenLayout made = layout(frame, first, last, trailing, draw(1, i % 3 == 0 ? 200 : 20),
                                    draw(1, i % 5 == 0 ? 200 : 20));
    const double density = 0.25 * static_cast<double>(draw(0, 4));
    const DataType type = static_cast<DataType>(i % 8 == 0 ? draw(1, 2) : 0);
    const double tolerance = type == DataType::kFloat32   ? 5e-6
                             : type == DataType::kFloat16 ? 2e-3
                                                          : 1.6e-2;
    expect_small_error(AttentionCase(type, draw(1, 2), draw(1, 2), frames * frame + trailing,
                                     draw(1, 3) * 16 - draw(0, 1), made, density, draw(0, 1) == 1,
                                     static_cast<uint32_t>(100 * i)),
                       tolerance);
  }
}

COVIS_TEST(no_patch_at_all) {
  expect_small_error(
      AttentionCase(DataType::kFloat32, 1, 2, 3, 8, layout(4, 1, 0, 3, 1, 1), 0.0, false, 5), 5e-6);
}

COVIS_TEST(any_number_of_threads_gives_the_same_bits) {
  const AttentionCase given(DataType::kFloat32, 2, 3, 700, 64, layout(70, 5, 0, 0, 65, 30), 0.3,
                            true, 9);
  for (const attention::Kernels* kernels : runnable_kernels()) {
    const std::vector<double> one = given.run(*kernels, 1);
    for (const int threads : {2, 5, 16}) {
      CHECK(given.run(*kernels, threads) == one, "%s with %d threads", kernels->name, threads);
    }
  }
}

COVIS_TEST(exp2_is_accurate) {
  double worst = 0.0;
  for (float x = -126.0f; x <= 0.0f; x += 1.3e-4f) {
    const double given = attention::exp2_nonpositive(attention::splat(x))[0];
    worst = std::max(worst, std::abs(given / std::exp2(double(x)) - 1.0));
  }
  CHECK(worst < 2e-7, "relative error %g", worst);
  CHECK(attention::exp2_nonpositive(attention::splat(-INFINITY))[0] == 0.0f, "2^-inf");
  CHECK(attention::exp2_nonpositive(attention::splat(-1e30f))[0] == 0.0f, "2^-1e30");
  CHECK(attention::exp2_nonpositive(attention::splat(0.0f))[0] == 1.0f, "2^0");
  CHECK(std::isnan(attention::exp2_nonpositive(attention::splat(NAN))[0]), "2^NaN");
}

}  // namespace
}  // namespace covis::test
