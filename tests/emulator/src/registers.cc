// Moves, selections, and logic of predicates.
#include "decode.h"

namespace covis::emulator {
namespace {

// d (64 or 32 bits) = {list}; small: bytes of an element.
void do_pack(Warp& w, const Instruction& i) {
  const uint32_t* regs = &w.kernel->lists[i.list];
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    uint64_t value = 0;
    for (int k = 0; k < i.list_size; ++k)
      value |= static_cast<uint64_t>(w.reg<uint32_t>(regs[k])[l] &
                                     (i.small == 4 ? ~0u : (1u << 8 * i.small) - 1))
               << 8 * i.small * k;
    if (i.small * i.list_size == 8)
      w.reg<uint64_t>(i.d)[l] = value;
    else
      w.reg<uint32_t>(i.d)[l] = static_cast<uint32_t>(value);
  }
}

void do_unpack(Warp& w, const Instruction& i) {
  const uint32_t* regs = &w.kernel->lists[i.list];
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    const uint64_t value =
        i.small * i.list_size == 8 ? w.reg<uint64_t>(i.a)[l] : uint64_t{w.reg<uint32_t>(i.a)[l]};
    for (int k = 0; k < i.list_size; ++k) {
      if (regs[k] == kNone) continue;
      w.reg<uint32_t>(regs[k])[l] = static_cast<uint32_t>(value >> 8 * i.small * k) &
                                    (i.small == 4 ? ~0u : (1u << 8 * i.small) - 1);
    }
  }
}

// Predicate logic; small: 0 and, 1 or, 2 xor, 3 not, 4 mov.
void do_predicates(Warp& w, const Instruction& i) {
  const uint32_t a = w.predicates[i.a] ^ (i.flip & 1 ? ~0u : 0u);
  const uint32_t b = i.b == kNone ? 0 : w.predicates[i.b] ^ (i.flip >> 1 & 1 ? ~0u : 0u);
  switch (i.small) {
    case 0: put_predicate(w, i.d, a & b); break;
    case 1: put_predicate(w, i.d, a | b); break;
    case 2: put_predicate(w, i.d, a ^ b); break;
    case 3: put_predicate(w, i.d, ~a); break;
    default: put_predicate(w, i.d, a);
  }
}

template <class T>
void do_select(Warp& w, const Instruction& i) {
  const uint32_t c = w.predicates[i.c] ^ (i.flip >> 2 & 1 ? ~0u : 0u);
  const auto* a = w.reg<Stored<T>>(i.a);
  const auto* b = w.reg<Stored<T>>(i.b);
  each<T>(w, w.reg<Stored<T>>(i.d),
          [&](int l) { return c >> l & 1 ? get<T>(a, l) : get<T>(b, l); });
}

}  // namespace

void Decoder::move(const Statement& s, const std::vector<std::string>& parts, Instruction& ins) {
  const std::string& type = parts.back();
  const auto& to = s.operands.at(0);
  const auto& from = s.operands.at(1);
  if (type == "pred") {
    bool flip = false;
    ins.d = predicate(to, nullptr, true);
    ins.a = predicate(from, &flip, false);
    ins.flip = flip;
    ins.small = 4;
    ins.fn = do_predicates;
    return;
  }
  if (to[0] == '{') {
    put_list(ins, list(to), "", true);
    ins.a = source(from, type);
    ins.small = static_cast<uint8_t>(type_bytes(type) / ins.list_size);
    ins.fn = do_unpack;
    return;
  }
  if (from[0] == '{') {
    const auto items = list(from);
    const uint32_t bytes = type_bytes(type) / static_cast<uint32_t>(items.size());
    put_list(ins, items, bytes == 4 ? "b32" : bytes == 2 ? "b16" : "b8", false);
    ins.d = target(to, type);
    ins.small = static_cast<uint8_t>(bytes);
    ins.fn = do_pack;
    return;
  }
  ins.a = source(from, type);
  ins.d = target(to, type);
  if (is_wide(type))
    ins.fn = op1<uint64_t, uint64_t, [](uint64_t x) { return x; }>;
  else
    ins.fn = op1<uint32_t, uint32_t, [](uint32_t x) { return x; }>;
}

void Decoder::logic(const Statement& s, Instruction& ins) {
  static const std::map<std::string, int> kinds{{"and", 0}, {"or", 1}, {"xor", 2}, {"not", 3}};
  const auto& op = s.operands;
  bool first = false;
  bool second = false;
  ins.small = static_cast<uint8_t>(kinds.at(s.opcode.substr(0, s.opcode.find('.'))));
  ins.d = predicate(op.at(0), nullptr, true);
  ins.a = predicate(op.at(1), &first, false);
  if (ins.small != 3) ins.b = predicate(op.at(2), &second, false);
  ins.flip = static_cast<uint32_t>(first) | static_cast<uint32_t>(second) << 1;
  ins.fn = do_predicates;
}

void Decoder::select(const Statement& s, const std::string& type, Instruction& ins) {
  const auto& op = s.operands;
  ins.d = target(op.at(0), type);
  ins.a = source(op.at(1), type);
  ins.b = source(op.at(2), type);
  bool flip = false;
  ins.c = predicate(op.at(3), &flip, false);
  ins.flip = flip ? 4 : 0;
  ins.fn = is_wide(type) ? do_select<uint64_t> : do_select<uint32_t>;
}

}  // namespace covis::emulator
