// A place in PTX text: words, comments, statements.
#pragma once

#include <algorithm>
#include <string>

#include "program.h"

namespace covis::emulator {

struct Cursor {
  const std::string& text;
  size_t at = 0;
  uint32_t line = 1;

  [[noreturn]] void fail(const std::string& what) const {
    throw Error("line " + std::to_string(line) + ": " + what);
  }
  bool done() {
    skip();
    return at >= text.size();
  }
  void skip() {
    for (; at < text.size(); ++at) {
      if (text[at] == '\n') ++line;
      if (text.compare(at, 2, "//") == 0) {
        while (at < text.size() && text[at] != '\n') ++at;
        --at;
        continue;
      }
      if (!isspace(static_cast<unsigned char>(text[at]))) return;
    }
  }
  char peek() {
    skip();
    return at < text.size() ? text[at] : '\0';
  }
  static bool name_char(char c) {
    return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.' ||
           c == ':';
  }
  std::string word() {
    skip();
    const size_t from = at;
    while (at < text.size() && name_char(text[at])) {
      if (text[at] == ':' && text.compare(at, 2, "::") != 0) break;  // a label's colon
      at += text[at] == ':' ? 2 : 1;
    }
    return text.substr(from, at - from);
  }
  std::string rest_of_line() {
    const size_t from = at;
    at = std::min(text.find('\n', at), text.size());
    return text.substr(from, at - from);
  }
  // `{ ... }` of a section, which holds no other braces.
  void skip_braces() {
    for (; at < text.size() && text[at] != '}'; ++at) line += text[at] == '\n';
    if (at == text.size()) fail("the text ends early");
    ++at;
  }
  // Up to `end` outside braces; consumes it.
  std::string until(char end) {
    std::string out;
    int depth = 0;
    for (; at < text.size(); ++at) {
      const char c = text[at];
      if (text.compare(at, 2, "//") == 0) {
        while (at < text.size() && text[at] != '\n') ++at;
        --at;
        continue;
      }
      if (c == '\n') ++line;
      if (c == '{' || c == '[' || c == '(') ++depth;
      if (c == '}' || c == ']' || c == ')') --depth;
      if (c == end && depth <= 0) {
        ++at;
        return out;
      }
      out += isspace(static_cast<unsigned char>(c)) ? ' ' : c;
    }
    fail("the text ends early");
  }
};

}  // namespace covis::emulator
