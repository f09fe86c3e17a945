// Declarations of variables and parameters: `.align 4 .b8 name[16]`.
#pragma once

#include <cstdint>
#include <string>

namespace covis::emulator {

struct Declaration {
  std::string name;
  uint32_t align = 1, element = 1;  // bytes
  uint64_t count = 1;               // 0 = `name[]`, of dynamic shared memory
  uint64_t bytes() const { return count * element; }
  uint32_t aligned(uint32_t at) const { return (at + align - 1) / align * align; }
};

Declaration parse_declaration(const std::string& text);

}  // namespace covis::emulator
