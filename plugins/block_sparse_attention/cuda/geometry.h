// Index arithmetic of the kernels: tokens, patches, pieces, query tiles. Compiled for the device
// and for the host, where tests compare it with the element rule.
//
// Words: a *patch* is a token that is neither special nor trailing, numbered frame-major. A *piece*
// is a run of at most kPiece patches inside one frame: what one TMA box loads and what one
// warpgroup owns as queries. *Specials* are all special and trailing tokens, numbered in token
// order.
#pragma once

#include "cuda/host_device.h"

namespace covis {

inline constexpr int kPiece =
    64;  // rows of a wgmma, and the finest cut that pads 1369 by 2.8 % only

enum class Cut : int32_t {
  kFrame,  // at multiples of kPiece counted from each frame's first patch
  kGrid,   // at multiples of kPiece of the running patch number, and at frame boundaries
};

struct Piece {
  int32_t frame = 0;
  int32_t row = 0;    // first patch, counted in the frame
  int32_t count = 0;  // patches; 0 = no piece
  int32_t patch = 0;  // first patch, running number
};

// The queries of one CTA: up to `width` pieces, or as many runs of specials.
struct QueryTile {
  int32_t batch = 0;
  int32_t head = 0;
  int32_t group = 0;
  int32_t slot = 0;  // tile inside the group
  bool special = false;
};

// Everything about sizes that the kernels need: plain data, passed by value. Not a TokenLayout,
// which holds the caller's attributes in 64 bits: these are the numbers that follow from the layout
// and the shapes, in 32 bits, because registers are scarce in the kernels.
struct Geometry {
  int32_t batch, heads;
  int32_t frames, patches;  // frames of the sequence; patches of one frame
  int32_t total_patches;    // frames * patches
  int32_t frame_tokens, special_first, special_per_frame, trailing;
  int32_t specials;  // frames * special_per_frame + trailing

  int32_t q_block, k_block;  // patches per region, clipped to total_patches
  FastDiv patches_div, q_block_div, k_block_div, special_div, heads_div, groups_div, slots_div;
  int64_t level_batch_stride, level_head_stride, level_row_stride;
  int32_t level_col_stride;   // 0 where the map has one column
  int32_t units_are_regions;  // key units: regions, else pieces (regions that straddle pieces)
  int32_t units;              // key units of a level row
  Cut q_cut, k_cut;

  int32_t width;                   // pieces per query tile
  int32_t groups, special_groups;  // groups of patch tiles; groups of special tiles
  int32_t slots;                   // tiles per group
  int32_t slot_pieces;             // kFrame: pieces of a tile; the first long_slots have one more
  int32_t long_slots;
};

// The piece that starts at `patch`, ending before `limit`.
COVIS_HD Piece piece_at(const Geometry& g, Cut cut, int32_t patch, int32_t limit) {
  Piece piece;
  piece.frame = static_cast<int32_t>(g.patches_div(patch));
  const int32_t frame_start = piece.frame * g.patches;
  piece.row = patch - frame_start;
  piece.patch = patch;
  const int32_t origin = cut == Cut::kFrame ? frame_start : 0;
  const int32_t next_cut = origin + ((patch - origin) / kPiece + 1) * kPiece;
  const int32_t end = min_int(min_int(next_cut, frame_start + g.patches), limit);
  piece.count = end - patch;
  return piece;
}

// A number for each key piece, unique and increasing, to index storage by piece. With kGrid some
// numbers are unused.
COVIS_HD int32_t piece_ordinal(const Geometry& g, Cut cut, const Piece& piece) {
  if (cut == Cut::kFrame) return piece.frame * ceil_div(g.patches, kPiece) + piece.row / kPiece;
  return piece.patch / kPiece + piece.frame;
}

COVIS_HD int32_t piece_ordinals(const Geometry& g, Cut cut) {
  if (cut == Cut::kFrame) return g.frames * ceil_div(g.patches, kPiece);
  return ceil_div(g.total_patches, kPiece) + g.frames;
}

// The piece with that ordinal; its count is 0 where the number is unused.
COVIS_HD Piece piece_of_ordinal(const Geometry& g, Cut cut, int32_t ordinal) {
  if (cut == Cut::kFrame) {
    const int32_t per_frame = ceil_div(g.patches, kPiece);
    const int32_t frame = ordinal / per_frame;
    const int32_t row = (ordinal - frame * per_frame) * kPiece;
    return piece_at(g, cut, frame * g.patches + row, g.total_patches);
  }
  // Frame f owns ordinals [f * patches / kPiece + f, ...): find f by bisection.
  int32_t low = 0;
  int32_t high = g.frames - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (middle * g.patches / kPiece + middle <= ordinal)
      low = middle;
    else
      high = middle - 1;
  }
  const int32_t cell = ordinal - low;
  const int32_t start = max_int(cell * kPiece, low * g.patches);
  Piece piece;
  if (start >= (low + 1) * g.patches) return piece;
  return piece_at(g, cut, start, g.total_patches);
}

// Patches of a query group: a frame, or a query region where regions cut frames.
COVIS_HD void group_patches(const Geometry& g, int32_t group, int32_t* begin, int32_t* end) {
  const int32_t size = g.q_cut == Cut::kFrame ? g.patches : g.q_block;
  *begin = group * size;
  *end = min_int(*begin + size, g.total_patches);
}

// Piece `index` of a patch tile. With kFrame the pieces of a frame are spread evenly over its
// tiles: 22 pieces on tiles of 3 are 6 x 3 + 2 x 2, not 7 x 3 + 1.
COVIS_HD Piece query_piece(const Geometry& g, const QueryTile& tile, int32_t index) {
  int32_t begin;
  int32_t end;
  group_patches(g, tile.group, &begin, &end);
  Piece none;
  if (g.q_cut == Cut::kFrame) {
    const int32_t first = tile.slot * g.slot_pieces + min_int(tile.slot, g.long_slots);
    if (index >= g.slot_pieces + (tile.slot < g.long_slots)) return none;
    return piece_at(g, g.q_cut, begin + (first + index) * kPiece, end);
  }
  int32_t skip = tile.slot * g.width + index;
  for (int32_t patch = begin; patch < end;) {
    const Piece piece = piece_at(g, g.q_cut, patch, end);
    if (skip-- == 0) return piece;
    patch += piece.count;
  }
  return none;
}

// Run `index` of a special tile: specials [patch, patch + count).
COVIS_HD Piece special_piece(const Geometry& g, const QueryTile& tile, int32_t index) {
  Piece piece;
  piece.patch = ((tile.group * g.slots + tile.slot) * g.width + index) * kPiece;
  piece.row = piece.patch;
  piece.count = max_int(0, min_int(kPiece, g.specials - piece.patch));
  return piece;
}

COVIS_HD Piece tile_piece(const Geometry& g, const QueryTile& tile, int32_t index) {
  return tile.special ? special_piece(g, tile, index) : query_piece(g, tile, index);
}

// Token of special number `index`.
COVIS_HD int32_t special_token(const Geometry& g, int32_t index) {
  const int32_t in_frames = g.frames * g.special_per_frame;
  if (index >= in_frames) return g.frames * g.frame_tokens + (index - in_frames);
  const int32_t frame = static_cast<int32_t>(g.special_div(index));
  const int32_t slot = index - frame * g.special_per_frame;
  return frame * g.frame_tokens + (slot < g.special_first ? slot : g.patches + slot);
}

// Token of a running patch number.
COVIS_HD int32_t patch_token(const Geometry& g, int32_t patch) {
  const int32_t frame = static_cast<int32_t>(g.patches_div(patch));
  return frame * g.frame_tokens + g.special_first + (patch - frame * g.patches);
}

COVIS_HD int32_t rows_per_head(const Geometry& g) { return g.groups + g.special_groups; }

// Row number (of the work order) -> batch, head, group.
COVIS_HD QueryTile tile_of_row(const Geometry& g, int32_t row, int32_t slot) {
  QueryTile tile;
  const int32_t head_row = static_cast<int32_t>(g.groups_div(row));
  tile.group = row - head_row * rows_per_head(g);
  tile.batch = static_cast<int32_t>(g.heads_div(head_row));
  tile.head = head_row - tile.batch * g.heads;
  tile.slot = slot;
  // Special rows come first: they are the longest, so even the unsorted order starts with them.
  tile.special = tile.group < g.special_groups;
  if (!tile.special) tile.group -= g.special_groups;
  return tile;
}

COVIS_HD const int8_t* level_of(const Geometry& g, const int8_t* level, int32_t batch,
                                int32_t head) {
  return level + batch * g.level_batch_stride + head * g.level_head_stride;
}

// The element rule for a pair of patches.
COVIS_HD bool pair_computed(const Geometry& g, const int8_t* level, int32_t q_patch,
                            int32_t k_patch) {
  const int64_t row = g.q_block_div(q_patch);
  const int32_t col = static_cast<int32_t>(g.k_block_div(k_patch));
  return level[row * g.level_row_stride + col * g.level_col_stride] > 0;
}

}  // namespace covis
