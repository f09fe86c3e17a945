// Comparisons, and which kind of arithmetic a name is.
#include "decode.h"

namespace covis::emulator {
namespace {

template <class T>
bool compare_handler(const std::string& name, Instruction& ins) {
  static const std::map<std::string, Handler> table{
      {"eq", set_predicate<T, kEq>},   {"ne", set_predicate<T, kNe>},
      {"lt", set_predicate<T, kLt>},   {"le", set_predicate<T, kLe>},
      {"gt", set_predicate<T, kGt>},   {"ge", set_predicate<T, kGe>},
      {"lo", set_predicate<T, kLt>},   {"ls", set_predicate<T, kLe>},
      {"hi", set_predicate<T, kGt>},   {"hs", set_predicate<T, kGe>},
      {"equ", set_predicate<T, kEqu>}, {"neu", set_predicate<T, kNeu>},
      {"ltu", set_predicate<T, kLtu>}, {"leu", set_predicate<T, kLeu>},
      {"gtu", set_predicate<T, kGtu>}, {"geu", set_predicate<T, kGeu>},
      {"num", set_predicate<T, kNum>}, {"nan", set_predicate<T, kNan>}};
  const auto found = table.find(name);
  if (found == table.end()) return false;
  ins.fn = found->second;
  return true;
}

bool set_comparison(const std::string& type, const std::string& name, Instruction& ins) {
  if (type == "f32") return compare_handler<float>(name, ins);
  if (type == "f64") return compare_handler<double>(name, ins);
  if (type == "s16") return compare_handler<int16_t>(name, ins);
  if (type == "u16" || type == "b16") return compare_handler<uint16_t>(name, ins);
  if (type == "s32") return compare_handler<int32_t>(name, ins);
  if (type == "u32" || type == "b32") return compare_handler<uint32_t>(name, ins);
  if (type == "s64") return compare_handler<int64_t>(name, ins);
  if (type == "u64" || type == "b64") return compare_handler<uint64_t>(name, ins);
  return false;
}

}  // namespace

void Decoder::arithmetic(const Statement& s, const std::vector<std::string>& parts,
                         Instruction& ins) {
  const auto& op = s.operands;
  const std::string& type = parts.back();
  const std::string& base = parts[0];
  if (base == "setp") {
    static const std::map<std::string, int> joins{{"and", 1}, {"or", 2}, {"xor", 3}};
    for (const auto& [name, id] : joins)
      if (has(parts, name)) ins.small = static_cast<uint8_t>(id);
    const size_t bar = op.at(0).find('|');
    ins.d = predicate(op[0].substr(0, bar), nullptr, true);
    if (bar != std::string::npos) ins.e = predicate(op[0].substr(bar + 1), nullptr, true);
    ins.a = source(op.at(1), type);
    ins.b = source(op.at(2), type);
    if (ins.small != 0) {
      bool flip = false;
      ins.c = predicate(op.at(3), &flip, false);
      ins.flip = flip ? 4 : 0;
    }
    if (!set_comparison(type, parts[1], ins)) throw Error("unknown comparison");
    return;
  }
  std::string to = type;
  std::string last = type;
  std::string shift = type;
  if (has(parts, "wide"))
    to = last = type == "u32" ? "u64" : type == "s32" ? "s64" : type == "u16" ? "u32" : "s32";
  if (base == "popc" || base == "clz" || base == "bfind") to = "u32";
  if (base == "shl" || base == "shr") shift = "u32";
  ins.d = target(op.at(0), to);
  ins.a = source(op.at(1), type);
  if (op.size() > 2) ins.b = source(op[2], shift);
  if (op.size() > 3) ins.c = source(op[3], base == "mad" || base == "fma" ? last : type);
  ins.fn = type[0] == 'f' ? float_handler(parts) : integer_handler(parts);
  if (ins.fn == nullptr) throw Error("unknown instruction");
}

}  // namespace covis::emulator
