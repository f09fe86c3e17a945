// Every error message names the attribute or input and its value.
#include <cmath>
#include <limits>

#include "farthest_first/cpu/farthest.h"
#include "reference.h"
#include "test.h"

namespace covis::test {
namespace {

void expect(const std::string& error, std::initializer_list<const char*> parts) {
  CHECK(!error.empty(), "no error");
  for (const char* part : parts) {
    CHECK(error.find(part) != std::string::npos, "'%s' is not in '%s'", part, error.c_str());
  }
}

COVIS_TEST(layout_errors_name_the_attribute) {
  const auto with = [](int64_t TokenLayout::* field, int64_t value) {
    TokenLayout layout;
    layout.frame_tokens = 10;
    layout.*field = value;
    return check_layout(layout);
  };
  expect(with(&TokenLayout::frame_tokens, 0), {"frame_tokens", "is 0"});
  expect(with(&TokenLayout::special_first, -1), {"special_first", "-1"});
  expect(with(&TokenLayout::special_last, -2), {"special_last", "-2"});
  expect(with(&TokenLayout::trailing_tokens, -3), {"trailing_tokens", "-3"});
  expect(with(&TokenLayout::q_block, 0), {"q_block", "0"});
  expect(with(&TokenLayout::k_block, -7), {"k_block", "-7"});
  expect(with(&TokenLayout::special_first, 10), {"special_first 10", "frame_tokens 10"});
  expect(with(&TokenLayout::special_last, std::numeric_limits<int64_t>::max()), {"special_last"});
  CHECK(with(&TokenLayout::special_first, 9).empty(), "one patch token is enough");
}

COVIS_TEST(token_errors_name_the_count) {
  TokenLayout layout;
  layout.frame_tokens = 10, layout.trailing_tokens = 3;
  expect(check_tokens(layout, 2), {"trailing_tokens", "3", "2"});
  expect(check_tokens(layout, 12), {"12", "frame_tokens 10"});
  CHECK(check_tokens(layout, 3).empty() && check_tokens(layout, 23).empty(), "whole frames");
}

COVIS_TEST(level_errors_name_the_axis) {
  TokenLayout layout;
  layout.q_block = 4, layout.k_block = 5;
  AttentionCase made(DataType::kFloat32, 2, 3, 20, 8, layout, 0.5, true, 1);
  const auto with = [&made](int64_t AttentionParams::* field, int64_t value) {
    AttentionParams p = made.params;
    p.*field = value;
    return check_attention(p);
  };
  CHECK(check_attention(made.params).empty(), "a right case");
  expect(with(&AttentionParams::level_batch, 3), {"level", "3 batch", "axis 0", "1 or 2"});
  expect(with(&AttentionParams::level_heads, 2), {"level", "2 heads", "axis 1", "1 or 3"});
  expect(with(&AttentionParams::level_rows, 6), {"level", "6 query regions", "axis 2", "1 or 5"});
  expect(with(&AttentionParams::level_columns, 0), {"level", "0 key regions", "axis 3", "1 or 4"});
  for (const int8_t bad : {int8_t{-1}, int8_t{3}, int8_t{-128}, int8_t{127}}) {
    made.level[117] = bad;
    expect(check_attention(made.params), {"level", std::to_string(bad).c_str(), "element 117"});
  }
}

COVIS_TEST(scale_has_to_be_a_number) {
  for (const float scale : {NAN, INFINITY, -INFINITY, -0.5f}) expect(check_scale(scale), {"scale"});
  CHECK(check_scale(0.0f).empty() && check_scale(3.0f).empty(), "fair scales");
}

COVIS_TEST(select_errors_name_the_input) {
  SelectParams p;
  const int8_t pair[4] = {2, 2, 2, 2};
  p.batch = p.heads = p.head_size = 1, p.tokens = 2;
  p.pair = pair;
  CHECK(check_select(p).empty(), "a right case");
  for (const float bad : {-0.1f, 1.5f, NAN, INFINITY}) {
    p.keep_ratio = bad;
    expect(check_select(p), {"keep_ratio", "0 to 1"});
    p.keep_ratio = 1.0f, p.cdf = bad;
    expect(check_select(p), {"cdf", "0 to 1"});
    p.cdf = 0.0f;
  }
  p.pair_rows = 2, p.pair_columns = 1;
  expect(check_select(p), {"pair", "2 x 1", "2 x 2"});
  const int8_t wrong[4] = {2, 2, 5, 2};
  p.pair = wrong, p.pair_columns = 2;
  expect(check_select(p), {"pair", "5", "element 2"});
}

COVIS_TEST(farthest_errors_name_the_input) {
  FarthestParams p;
  for (const int64_t bad : {int64_t{-1}, int64_t{0}, int64_t{1} << 31}) {
    p.views = bad;
    expect(check_farthest(p), {"similarity", std::to_string(bad).c_str(), "1 to 2147483647"});
  }
  p.views = 1;
  CHECK(check_farthest(p).empty(), "one view is enough");
}

}  // namespace
}  // namespace covis::test
