// How much the kernel computes, and in which order: counted by a table of kernels that notes each
// call and then makes it.
#include <algorithm>
#include <cmath>

#include "block_sparse_attention/cpu/tile.h"
#include "reference.h"
#include "test.h"

namespace covis::test {
namespace {

constexpr int64_t kHeadSize = 32;

// What the calls of one run were. Kernels have no argument for it; each test runs one thread.
struct Work {
  int64_t products = 0;              // panels x keys
  std::vector<int64_t> first_query;  // token, counted over all heads, of each tile in turn
};
Work work;
const attention::Kernels* counted = nullptr;

void begin(attention::QueryTile& tile, DataType type, const void* base, const int64_t* row_offset,
           float scale) {
  work.first_query.push_back(row_offset[0] / kHeadSize);
  counted->begin(tile, type, base, row_offset, scale);
}

void attend(attention::QueryTile& tile, const attention::KeyTile& keys) {
  for (int first = 0; first < tile.count; first += counted->panel) {
    bool any = !keys.masked;
    const int end = std::min(first + counted->panel, tile.count);
    for (int j = 0; j < keys.count && !any; ++j) {
      for (int q = first; q < end; ++q) any |= (keys.mask[j][q / 32] >> (q % 32) & 1u) != 0;
    }
    if (any) work.products += keys.count;
  }
  counted->attend(tile, keys);
}

// Frames of `patches` patches after `special` special tokens; `kept(i, j)` is the map.
template <class Kept>
AttentionCase frame_case(int64_t frames, int64_t patches, int64_t special, int64_t heads,
                         const Kept& kept) {
  TokenLayout layout;
  layout.frame_tokens = patches + special, layout.special_first = special;
  layout.q_block = layout.k_block = patches;
  AttentionCase made(DataType::kFloat32, 1, heads, frames * layout.frame_tokens, kHeadSize, layout,
                     0.5, false, 21);
  for (int64_t i = 0; i < frames; ++i) {
    for (int64_t j = 0; j < frames; ++j) {
      made.level[static_cast<size_t>(i * frames + j)] = kept(i, j) ? 1 + (i + j) % 2 : 0;
    }
  }
  return made;
}

bool anchor(int64_t view) { return view % 7 == 2; }
bool anchors_and_own(int64_t i, int64_t j) { return i == j || anchor(j); }
bool own(int64_t i, int64_t j) { return i == j; }

// Checks the result and returns the work of one thread.
Work work_of(const AttentionCase& given, const attention::Kernels& kernels) {
  counted = &kernels;
  work = {};
  attention::Kernels table = kernels;
  table.begin = begin, table.attend = attend;
  const std::vector<double> wanted = given.definition(), out = given.run(table, 1);
  double worst = 0.0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double error = std::abs(out[i] - wanted[i]);
    worst = error <= worst ? worst : error;  // NaN counts
  }
  CHECK(worst < 5e-6, "%s: error %g", kernels.name, worst);
  return work;
}

int64_t panels(int64_t queries, const attention::Kernels& kernels) {
  return (queries + kernels.panel - 1) / kernels.panel;
}

COVIS_TEST(own_frames_cost_what_attention_inside_each_frame_costs) {
  for (const attention::Kernels* kernels : runnable_kernels()) {
    for (const int64_t patches : {32, 64, 150}) {
      const int64_t frames = 9;
      const Work found = work_of(frame_case(frames, patches, 0, 2, own), *kernels);
      CHECK(found.products == 2 * frames * panels(patches, *kernels) * patches,
            "%s: %lld products for frames of %lld", kernels->name, (long long)found.products,
            (long long)patches);
    }
  }
}

COVIS_TEST(anchors_cost_their_share) {
  for (const attention::Kernels* kernels : runnable_kernels()) {
    for (const int64_t patches : {32, 64, 150}) {
      const int64_t frames = 16, special = 3, tokens = frames * (patches + special);
      const Work found =
          work_of(frame_case(frames, patches, special, 1, anchors_and_own), *kernels);
      int64_t expected = panels(frames * special, *kernels) * tokens;
      for (int64_t i = 0; i < frames; ++i) {
        int64_t keys = frames * special;
        for (int64_t j = 0; j < frames; ++j) keys += anchors_and_own(i, j) ? patches : 0;
        expected += panels(patches, *kernels) * keys;
      }
      CHECK(found.products == expected, "%s: %lld products, not %lld, for frames of %lld",
            kernels->name, (long long)found.products, (long long)expected, (long long)patches);
    }
  }
}

// Panels that two frames share compute the keys of both; without tiles of their own for masked keys
// every panel would compute every frame of the tile: 2.6 times the least.
COVIS_TEST(small_frames_that_share_a_panel_cost_little_more) {
  for (const attention::Kernels* kernels : runnable_kernels()) {
    const int64_t frames = 24, patches = 20;
    const Work found = work_of(frame_case(frames, patches, 2, 1, own), *kernels);
    const int64_t special = 2 * frames, tokens = frames * (patches + 2);
    const int64_t least = (frames * patches * (patches + special) + special * tokens);
    CHECK(found.products * kernels->panel < (kernels->panel > 16 ? 2.0 : 1.6) * least,
          "%s: %lld of at least %lld", kernels->name, (long long)(found.products * kernels->panel),
          (long long)least);
  }
}

COVIS_TEST(a_map_of_no_zero_is_dense) {
  const auto every = [](int64_t, int64_t) { return true; };
  AttentionCase pairs = frame_case(7, 40, 3, 2, every);
  AttentionCase one = frame_case(7, 40, 3, 2, every);
  one.params.level_rows = one.params.level_columns = 1;
  for (const attention::Kernels* kernels : runnable_kernels()) {
    const Work found = work_of(pairs, *kernels), dense = work_of(one, *kernels);
    CHECK(found.products == dense.products && found.first_query == dense.first_query, "%s",
          kernels->name);
    CHECK(pairs.run(*kernels, 1) == one.run(*kernels, 1), "%s", kernels->name);
  }
}

// A sort by exact length would go from head to head at nearly every tile.
COVIS_TEST(long_rows_first_and_the_rest_head_by_head) {
  const int64_t frames = 20, patches = 70, heads = 6, tokens = frames * patches;
  const auto uneven = [](int64_t i, int64_t j) {
    return i == 13 || i == j || (j - i + 20) % 20 < 3 + i % 3;  // 3 to 5 frames, one row all 20
  };
  const AttentionCase given = frame_case(frames, patches, 0, heads, uneven);
  const attention::Kernels& kernels = *runnable_kernels().front();
  const std::vector<int64_t> first = work_of(given, kernels).first_query;
  CHECK(first.size() == size_t(heads * frames), "%zu tiles", first.size());
  int changes = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    const bool longest = first[i] % tokens == 13 * patches;
    CHECK(longest == (i < size_t(heads)), "tile %zu begins at query %lld", i, (long long)first[i]);
    changes += i > 0 && first[i] / tokens != first[i - 1] / tokens ? 1 : 0;
  }
  CHECK(changes < 3 * heads, "%d changes of the head", changes);
}

}  // namespace
}  // namespace covis::test
