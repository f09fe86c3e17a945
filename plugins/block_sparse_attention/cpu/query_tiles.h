// How queries are divided into tiles: by arithmetic alone, so that no memory grows with the
// sequence.
#pragma once

#include <cstdint>

#include "block_sparse_attention/cpu/tile.h"
#include "common/token_layout.h"

namespace covis::attention {

// One tile: `count` consecutive patches (or tokens, or special tokens) from `first` on.
struct TileSpan {
  enum class Kind { kTokens, kPatches, kSpecial };
  Kind kind;
  int64_t first;
  int64_t count;  // 0: no tile
};

// Tiles of one (batch, head): first those of patches, then those of special tokens. Where regions
// are large no tile straddles two of them; small ones (under kStraddle queries) share a tile.
class QueryTiles {
 public:
  // dense: every token attends to every token, `layout` is not used. panel: queries that the
  // kernels compute together (Kernels::panel); tiles of a region differ by one panel at most.
  QueryTiles(const TokenLayout& layout, int64_t tokens, int64_t q_block, bool dense,
             int max_queries, int panel)
      : layout_(layout), tokens_(tokens), dense_(dense), max_queries_(max_queries), panel_(panel) {
    length_ = dense ? tokens : layout.patches(tokens);
    // A region longer than the sequence is clipped to the sequence.
    region_ = dense || q_block > length_ ? (length_ > 0 ? length_ : 1) : q_block;
    if (region_ < kStraddle && region_ <= max_queries) region_ = max_queries / region_ * region_;
    const int64_t panels = TokenLayout::ceil_div(region_, panel);
    tiles_per_region_ = TokenLayout::ceil_div(panels, max_queries / panel);
    patch_tiles_ = TokenLayout::ceil_div(length_, region_) * tiles_per_region_;
    special_ = dense ? 0 : tokens - length_;
    special_tiles_ = TokenLayout::ceil_div(special_, max_queries);
  }

  int64_t count() const { return patch_tiles_ + special_tiles_; }

  TileSpan span(int64_t tile) const {
    using Kind = TileSpan::Kind;
    if (tile >= patch_tiles_) {
      const int64_t first = (tile - patch_tiles_) * max_queries_;
      return {Kind::kSpecial, first, smaller(max_queries_, special_ - first)};
    }
    const int64_t region = tile / tiles_per_region_;
    const int64_t part = tile - region * tiles_per_region_;
    const int64_t start = region * region_;
    const int64_t length = smaller(region_, length_ - start);
    const int64_t begin = smaller(bound(part), length);
    const int64_t end = smaller(bound(part + 1), length);
    return {dense_ ? Kind::kTokens : Kind::kPatches, start + begin, end - begin};
  }

  int64_t token(TileSpan::Kind kind, int64_t index) const {
    switch (kind) {
      case TileSpan::Kind::kTokens: return index;
      case TileSpan::Kind::kPatches: return layout_.token_of_patch(index);
      default: return layout_.token_of_special(index, tokens_);
    }
  }

 private:
  static constexpr int64_t kStraddle = 64;  // smaller regions would leave tiles half empty

  static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  // Where part `part` of a region begins.
  int64_t bound(int64_t part) const {
    const int64_t panels = TokenLayout::ceil_div(region_, panel_);
    const int64_t each = panels / tiles_per_region_, more = panels % tiles_per_region_;
    return smaller(region_, (part * each + smaller(part, more)) * panel_);
  }

  TokenLayout layout_;
  int64_t tokens_;
  bool dense_;
  int64_t max_queries_, panel_;
  int64_t length_, region_, tiles_per_region_, patch_tiles_, special_, special_tiles_;
};

}  // namespace covis::attention
