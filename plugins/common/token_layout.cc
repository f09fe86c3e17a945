#include "common/token_layout.h"

namespace covis {

std::string check_layout(const TokenLayout& layout) {
  std::string error;
  TokenLayout::visit(layout, [&](const char* name, int64_t value, int64_t least) {
    if (!error.empty() || value >= least) return;
    error = "attribute " + std::string(name) + " is " + std::to_string(value) +
            ", must be at least " + std::to_string(least);
  });
  if (error.empty() && !layout.has_patches()) {
    error = "attributes special_first " + std::to_string(layout.special_first) +
            " and special_last " + std::to_string(layout.special_last) +
            " leave no patch token of frame_tokens " + std::to_string(layout.frame_tokens);
  }
  return error;
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
