// Operands: names, constants and addresses -> register vectors.
#include <algorithm>

#include "decode.h"

namespace covis::emulator {

void Decoder::touch(uint32_t vector, bool wide, bool write) {
  auto& list = write ? writes_ : reads_;
  list.push_back(vector);
  if (wide) list.push_back(vector + 1);
}

uint32_t Decoder::constant(uint64_t bits, bool wide, Kernel::Constant::Kind kind, int axis) {
  const std::string key = std::to_string(bits) + " " + std::to_string(wide) + " " +
                          std::to_string(kind) + " " + std::to_string(axis);
  const auto found = constants_.find(key);
  if (found != constants_.end()) return found->second;
  const uint32_t at = kernel_.vectors;
  kernel_.vectors += wide ? 2 : 1;
  kernel_.constants.push_back({at, wide, bits, kind, axis});
  constants_[key] = at;
  return at;
}

uint32_t Decoder::source(const std::string& text, const std::string& type) {
  const bool wide = is_wide(type);
  std::string declared;
  const uint32_t at = lookup(text, &declared);
  if (at != kNone) {
    if (declared == ".pred") throw Error("a predicate where a register is wanted");
    // A 32-bit register for a 64-bit operand would read its neighbour.
    if (wide != is_wide(declared)) throw Error("operand " + text + " of another width");
    touch(at, wide, false);
    return at;
  }
  using C = Kernel::Constant;
  if (text[0] == '%') {
    const int axis = text.size() > 2 && text[text.size() - 2] == '.' ? text.back() - 'x' : 0;
    const std::string name = text.substr(0, text.find('.'));
    if (name == "%tid") return constant(0, wide, C::kTid, axis);
    if (name == "%ctaid") return constant(0, wide, C::kCtaid, axis);
    if (name == "%ntid") return constant(0, wide, C::kNtid, axis);
    if (name == "%nctaid") return constant(0, wide, C::kNctaid, axis);
    if (name == "%laneid") return constant(0, wide, C::kLane);
    throw Error("unknown register " + text);
  }
  if (isdigit(static_cast<unsigned char>(text[0])) || text[0] == '-') {
    if (text.compare(0, 2, "0f") == 0 || text.compare(0, 2, "0F") == 0)
      return constant(std::stoul(text.substr(2), nullptr, 16), wide, C::kValue);
    if (text.compare(0, 2, "0d") == 0 || text.compare(0, 2, "0D") == 0)
      return constant(std::stoull(text.substr(2), nullptr, 16), wide, C::kValue);
    if (type[0] == 'f') throw Error("a decimal float");
    const bool negative = text[0] == '-';
    const uint64_t magnitude = std::stoull(negative ? text.substr(1) : text, nullptr, 0);
    uint64_t bits = negative ? ~magnitude + 1 : magnitude;
    const uint32_t bytes = type_bytes(type);
    if (bytes < 8) bits &= (uint64_t{1} << 8 * bytes) - 1;
    return constant(bits, wide, C::kValue);
  }
  // symbol, symbol+offset
  const size_t plus = text.find('+');
  const std::string name = text.substr(0, plus);
  const int64_t offset = plus == std::string::npos ? 0 : std::stoll(text.substr(plus + 1));
  const auto found = symbols_.find(name);
  if (found == symbols_.end()) throw Error("unknown symbol " + name);
  const Symbol& symbol = found->second;
  uint64_t value = symbol.address;
  if (symbol.space == Symbol::kShared && value == ~uint64_t{0}) {
    kernel_.dynamic_align = std::max<uint32_t>(kernel_.dynamic_align, symbol.size);
    value = kernel_.dynamic_base();
  }
  if (symbol.space == Symbol::kParam) return constant(value + offset, true, C::kParamAddress);
  return constant(value + offset, wide, C::kValue);
}

uint32_t Decoder::target(const std::string& text, const std::string& type) {
  if (text == "_") return kNone;
  std::string declared;
  const uint32_t at = lookup(text, &declared);
  if (at == kNone) throw Error("unknown register " + text);
  if (is_wide(type) != is_wide(declared)) throw Error("target " + text + " of another width");
  touch(at, is_wide(type), true);
  return at;
}

uint32_t Decoder::predicate(const std::string& text, bool* flip, bool write) {
  if (text == "_") return kNone;
  std::string name = text;
  if (flip != nullptr) *flip = false;
  if (name[0] == '!') {
    *flip = true;
    name = name.substr(1);
  }
  std::string declared;
  uint32_t at = lookup(name, &declared);
  if (at == kNone && !write && (name == "0" || name == "1" || name == "-1")) {
    // A constant: a predicate of its own that nothing writes, and that starts as 0.
    at = kernel_.predicates++;
    if (name != "0") *flip = !*flip;
    return at;
  }
  if (at == kNone || declared != ".pred") throw Error("unknown predicate " + name);
  return at;
}

std::vector<std::string> Decoder::list(const std::string& text) const {
  if (text.empty() || text[0] != '{') return {text};
  return split(text.substr(1, text.size() - 2), ',');
}

void Decoder::put_list(Instruction& ins, const std::vector<std::string>& items,
                       const std::string& type, bool write) {
  std::vector<uint32_t> found;
  for (const auto& item : items) {
    if (item == "_") {
      found.push_back(kNone);
      continue;
    }
    std::string declared;
    const uint32_t at = lookup(item, &declared);
    if (at == kNone) {
      if (write) throw Error("unknown register " + item);
      found.push_back(source(item, type));
    } else {
      touch(at, is_wide(declared), write);
      found.push_back(at);
    }
  }
  put_vectors(ins, found);
}

void Decoder::put_vectors(Instruction& ins, const std::vector<uint32_t>& vectors) {
  ins.list = static_cast<uint32_t>(kernel_.lists.size());
  ins.list_size = static_cast<uint16_t>(vectors.size());
  kernel_.lists.insert(kernel_.lists.end(), vectors.begin(), vectors.end());
}

std::vector<uint32_t> Decoder::registers(const std::string& text) {
  std::vector<uint32_t> out;
  for (const auto& item : list(text)) {
    std::string declared;
    out.push_back(lookup(item, &declared));
    if (out.back() == kNone) throw Error("unknown register " + item);
  }
  return out;
}

uint32_t Decoder::shared_base(const std::string& text, Instruction& ins) {
  const Address at = address(text);
  if (at.wide) throw Error("a generic address");
  ins.imm = at.offset;
  return at.base;
}

Decoder::Address Decoder::address(const std::string& text) {
  if (text.size() < 3 || text[0] != '[') throw Error("not an address: " + text);
  const std::string inside = text.substr(1, text.size() - 2);
  const size_t plus = inside.find('+');
  const std::string base = inside.substr(0, plus);
  Address out{};
  out.offset = plus == std::string::npos ? 0 : std::stoll(inside.substr(plus + 1));
  std::string declared;
  const uint32_t at = lookup(base, &declared);
  if (at != kNone) {
    out.wide = is_wide(declared);
    out.base = at;
    touch(at, out.wide, false);
    return out;
  }
  const auto found = symbols_.find(base);
  if (found == symbols_.end()) throw Error("unknown symbol " + base);
  out.wide = found->second.space == Symbol::kParam || found->second.space == Symbol::kGlobal;
  out.base = source(base, out.wide ? "u64" : "u32");
  return out;
}

}  // namespace covis::emulator
