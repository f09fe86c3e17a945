// One statement of PTX -> one decoded instruction.
#pragma once

#include <functional>
#include <map>

#include "lanes.h"

namespace covis::emulator {

struct Statement {
  std::string opcode;
  std::vector<std::string> operands;
  int32_t guard = -1;
  uint32_t guard_flip = 0;
};

class Decoder {
 public:
  Decoder(Kernel& kernel, const std::map<std::string, Symbol>& symbols)
      : kernel_(kernel), symbols_(symbols) {}
  std::function<uint32_t(const std::string&, std::string*)> lookup;

  void decode(const Statement& s);

 private:
  struct Address {
    uint32_t base;  // a vector
    bool wide;
    int64_t offset;
  };
  // Operands: a vector, read (and written where `write`).
  uint32_t source(const std::string& text, const std::string& type);
  uint32_t target(const std::string& text, const std::string& type);
  uint32_t predicate(const std::string& text, bool* flip, bool write);
  uint32_t constant(uint64_t bits, bool wide, Kernel::Constant::Kind kind, int axis = 0);
  std::vector<std::string> list(const std::string& text) const;
  Address address(const std::string& text);
  void put_list(Instruction& ins, const std::vector<std::string>& items, const std::string& type,
                bool write);
  void put_vectors(Instruction& ins, const std::vector<uint32_t>& vectors);
  uint32_t shared_base(const std::string& text, Instruction& ins);  // its offset goes to ins.imm
  std::vector<uint32_t> registers(const std::string& text);         // {a, b, ...}
  void touch(uint32_t vector, bool wide, bool write);

  void memory(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void convert(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void move(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void arithmetic(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void convert_address(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void logic(const Statement& s, Instruction& ins);
  void select(const Statement& s, const std::string& type, Instruction& ins);
  void wgmma(const Statement& s, Instruction& ins);
  void branch(const Statement& s, Instruction& ins);
  void exchange(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void barrier(const Statement& s, const std::vector<std::string>& parts, Instruction& ins);
  void copy(const Statement& s, Instruction& ins);
  void matrix(const Statement& s, Instruction& ins);

  Kernel& kernel_;
  const std::map<std::string, Symbol>& symbols_;
  std::map<std::string, uint32_t> constants_;
  std::vector<uint32_t> reads_, writes_;
};

// Names: "ld.shared.v2.f32" in its parts, and what a type says.
std::vector<std::string> split(const std::string& text, char at);
bool has(const std::vector<std::string>& parts, const std::string& part);
bool is_wide(const std::string& type);  // of 64 bits
uint32_t type_bytes(const std::string& type);

// The handlers of arithmetic by name; null where there is none.
Handler integer_handler(const std::vector<std::string>& parts);
Handler float_handler(const std::vector<std::string>& parts);

}  // namespace covis::emulator
