// Where in the source an instruction comes from: the .file and .loc directives of -lineinfo.
#pragma once

#include <map>
#include <string>

namespace covis::emulator {

class SourceLines {
 public:
  // Reads all `.file 1 "path"` of a module, which stand at its end.
  explicit SourceLines(const std::string& text);

  // `2 18 20, function_name $L__info_string0, inlined_at 1 27 5` -> "b.cuh:18 < a.cuh:27".
  std::string place(const std::string& directive);

 private:
  struct Position {
    int file = 0, line = 0, column = 0;
    auto operator<=>(const Position&) const = default;
  };
  std::string name(const Position& at) const;

  std::map<int, std::string> files_;
  // Who called the inlined function that a position lies in, as the last .loc of it said: the
  // compiler writes the outer ones first.
  std::map<Position, Position> callers_;
};

}  // namespace covis::emulator
