// The token layout as the C ABI carries it: single fields of the same names in the params structs.
#pragma once

#include "common/token_layout.h"

namespace covis {

template <class Params>
TokenLayout layout_of(const Params& p) {
  return {p.frame_tokens, p.special_first, p.special_last, p.trailing_tokens, p.q_block, p.k_block};
}

template <class Params>
void set_layout(const TokenLayout& layout, Params* p) {
  p->frame_tokens = layout.frame_tokens;
  p->special_first = layout.special_first;
  p->special_last = layout.special_last;
  p->trailing_tokens = layout.trailing_tokens;
  p->q_block = layout.q_block;
  p->k_block = layout.k_block;
}

}  // namespace covis
