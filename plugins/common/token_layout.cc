#include "common/token_layout.h"

#include <limits>

namespace covis {

namespace {

std::string at_least(const char* name, int64_t value, int64_t least) {
  if (value >= least) return {};
  return "attribute " + std::string(name) + " is " + std::to_string(value) + ", must be at least " +
         std::to_string(least);
}

}  // namespace

std::string check_layout(const TokenLayout& layout) {
  for (const std::string& error :
       {at_least("frame_tokens", layout.frame_tokens, 1),
        at_least("special_first", layout.special_first, 0),
        at_least("special_last", layout.special_last, 0),
        at_least("trailing_tokens", layout.trailing_tokens, 0),
        at_least("q_block", layout.q_block, 1), at_least("k_block", layout.k_block, 1)}) {
    if (!error.empty()) return error;
  }
  // Written without a sum, which could overflow.
  if (layout.special_first >= layout.frame_tokens ||
      layout.special_last >= layout.frame_tokens - layout.special_first) {
    return "attributes special_first " + std::to_string(layout.special_first) +
           " and special_last " + std::to_string(layout.special_last) +
           " leave no patch token of frame_tokens " + std::to_string(layout.frame_tokens);
  }
  return {};
}

std::string check_tokens(const TokenLayout& layout, int64_t tokens) {
  if (tokens < layout.trailing_tokens) {
    return "attribute trailing_tokens is " + std::to_string(layout.trailing_tokens) +
           ", more than the sequence's " + std::to_string(tokens) + " tokens";
  }
  if ((tokens - layout.trailing_tokens) % layout.frame_tokens != 0) {
    return "the sequence's " + std::to_string(tokens) + " tokens less trailing_tokens " +
           std::to_string(layout.trailing_tokens) + " are no multiple of frame_tokens " +
           std::to_string(layout.frame_tokens);
  }
  return {};
}

}  // namespace covis
