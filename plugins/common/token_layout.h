// The attributes that BlockSparseAttention and BlockSelect share: where the tokens of a sequence
// lie (frames of special and patch tokens, then trailing tokens), and the sizes of the regions. The
// one definition of these attributes in C++: names, ranges and rules. Contract:
// plugins/block_sparse_attention/README.md.
#pragma once

#include <cstdint>
#include <string>

namespace covis {

struct TokenLayout {
  int64_t frame_tokens = 1;     // tokens of a frame, special ones included
  int64_t special_first = 0;    // special tokens at the start of each frame
  int64_t special_last = 0;     // special tokens at the end of each frame
  int64_t trailing_tokens = 0;  // tokens after the last frame
  int64_t q_block = 1;          // patch tokens of a query region
  int64_t k_block = 1;          // patch tokens of a key region

  // Calls attribute(name, value, least allowed value) for each attribute of a TokenLayout, const or
  // not.
  template <class Layout, class Attribute>
  static void visit(Layout& layout, Attribute&& attribute) {
    attribute("frame_tokens", layout.frame_tokens, 1);
    attribute("special_first", layout.special_first, 0);
    attribute("special_last", layout.special_last, 0);
    attribute("trailing_tokens", layout.trailing_tokens, 0);
    attribute("q_block", layout.q_block, 1);
    attribute("k_block", layout.k_block, 1);
  }

  // Whether the special tokens leave at least one patch token of a frame. Written without a sum,
  // which could overflow.
  bool has_patches() const {
    return special_first >= 0 && special_last >= 0 && special_first < frame_tokens &&
           special_last < frame_tokens - special_first;
  }

  // Whether a sequence of so many tokens is whole frames and the trailing tokens.
  bool divides(int64_t tokens) const {
    return trailing_tokens >= 0 && trailing_tokens <= tokens &&
           (tokens - trailing_tokens) % frame_tokens == 0;
  }

  int64_t frame_patches() const { return frame_tokens - special_first - special_last; }
  int64_t frames(int64_t tokens) const { return (tokens - trailing_tokens) / frame_tokens; }
  int64_t patches(int64_t tokens) const { return frames(tokens) * frame_patches(); }
  int64_t q_regions(int64_t tokens) const { return ceil_div(patches(tokens), q_block); }
  int64_t k_regions(int64_t tokens) const { return ceil_div(patches(tokens), k_block); }

  // Sequence index of a patch, counted frame-major without special and trailing tokens.
  int64_t token_of_patch(int64_t patch) const {
    const int64_t frame = patch / frame_patches();
    return frame * frame_tokens + special_first + (patch - frame * frame_patches());
  }

  // Sequence index of the i-th special or trailing token, in sequence order.
  int64_t token_of_special(int64_t index, int64_t tokens) const {
    const int64_t per_frame = special_first + special_last;
    const int64_t in_frames = frames(tokens) * per_frame;
    if (index >= in_frames) return frames(tokens) * frame_tokens + (index - in_frames);
    const int64_t frame = index / per_frame;
    const int64_t place = index - frame * per_frame;
    return frame * frame_tokens + (place < special_first ? place : place + frame_patches());
  }

  static int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }
};

// The defaults of BlockSelect's attributes; those of BlockSparseAttention are TokenLayout{}.
inline constexpr TokenLayout kSelectDefaults{1, 0, 0, 0, 128, 64};

// Each check returns an empty string, or one line naming the attribute or input and its value.
std::string check_layout(const TokenLayout& layout);
std::string check_tokens(const TokenLayout& layout, int64_t tokens);

}  // namespace covis
