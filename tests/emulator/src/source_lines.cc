#include "source_lines.h"

#include <cstdio>
#include <sstream>

namespace covis::emulator {

SourceLines::SourceLines(const std::string& text) {
  for (size_t at = text.find(".file"); at != std::string::npos; at = text.find(".file", at + 1)) {
    const size_t begin = text.find('"', at);
    const size_t end = text.find('"', begin + 1);
    if (end == std::string::npos || text.find('\n', at) < begin) continue;
    const std::string path = text.substr(begin + 1, end - begin - 1);
    files_[std::atoi(text.c_str() + at + 5)] = path.substr(path.rfind('/') + 1);
  }
}

std::string SourceLines::place(const std::string& directive) {
  constexpr int kDepth = 4;  // of inlined calls that are named
  Position at;
  std::sscanf(directive.c_str(), "%d %d %d", &at.file, &at.line, &at.column);
  const size_t inlined = directive.find("inlined_at");
  callers_.erase(at);
  if (inlined != std::string::npos) {
    Position caller;
    std::sscanf(directive.c_str() + inlined, "inlined_at %d %d %d", &caller.file, &caller.line,
                &caller.column);
    callers_[at] = caller;
  }
  std::string out = name(at);
  for (int depth = 1; depth < kDepth; ++depth) {
    const auto caller = callers_.find(at);
    if (caller == callers_.end()) break;
    at = caller->second;
    out += " < " + name(at);
  }
  return out;
}

std::string SourceLines::name(const Position& at) const {
  const auto file = files_.find(at.file);
  return (file == files_.end() ? "?" : file->second) + ":" + std::to_string(at.line);
}

}  // namespace covis::emulator
