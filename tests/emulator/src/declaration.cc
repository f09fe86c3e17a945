#include "declaration.h"

#include <algorithm>
#include <sstream>

#include "decode.h"

namespace covis::emulator {

Declaration parse_declaration(const std::string& text) {
  Declaration out;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (word == ".param" || word == ".ptr") continue;
    if (word == ".align") {
      words >> out.align;
    } else if (word[0] == '.') {
      out.element = type_bytes(word);
      out.align = std::max(out.align, out.element);
    } else {
      out.name = word;
    }
  }
  const size_t bracket = out.name.find('[');
  if (bracket != std::string::npos) {
    const bool sized = out.name[bracket + 1] != ']';
    out.count = sized ? std::stoull(out.name.substr(bracket + 1)) : 0;
    out.name.erase(bracket);
  }
  return out;
}

}  // namespace covis::emulator
