// Loads, stores, atomics, and addresses between spaces.
#include <algorithm>

#include "cta.h"
#include "decode.h"

namespace covis::emulator {
namespace {

// The address of a lane.
inline uint64_t address_of(const Warp& w, const Instruction& i, int lane, bool wide) {
  if (wide) return w.reg<uint64_t>(i.a)[lane] + static_cast<uint64_t>(i.imm);
  return static_cast<uint32_t>(w.reg<uint32_t>(i.a)[lane] + static_cast<uint32_t>(i.imm));
}

enum SpaceId { kParamSpace, kGlobalSpace, kSharedSpace, kGenericSpace, kLocalSpace };

uint8_t* local_at(Warp& w, int lane, uint64_t offset, uint32_t bytes) {
  const uint64_t size = w.kernel->local_bytes;
  if (offset + bytes > size) w.fail("local memory: offset " + std::to_string(offset));
  return w.local.data() + size * lane + offset;
}

// The memory behind an address, checked; `shared` tells its offset where it is shared memory.
inline uint8_t* memory_at(Warp& w, int lane, int space, uint64_t address, uint32_t bytes,
                          bool write, int64_t* shared) {
  *shared = -1;
  if (space == kGenericSpace) {
    if (address >= kSharedWindow) {
      space = kSharedSpace;
      address -= kSharedWindow;
    } else if (address >= kLocalWindow) {
      space = kLocalSpace;
      address -= kLocalWindow;
    } else {
      space = kGlobalSpace;
    }
  }
  if (address % bytes != 0)
    w.fail("misaligned access of " + std::to_string(bytes) + " bytes, lane " +
           std::to_string(lane));
  if (space == kParamSpace) return reinterpret_cast<uint8_t*>(address);
  if (space == kLocalSpace) return local_at(w, lane, address, bytes);
  if (space == kSharedSpace) {
    *shared = static_cast<int64_t>(address);
    return w.cta->shared_at(w, address, bytes, bytes);
  }
  return w.cta->global_at(w, address, bytes, write);
}

struct Access {  // Instruction::small of loads and stores, Instruction::flip for the rest
  static int space(const Instruction& i) { return i.flip & 7; }
  static bool wide(const Instruction& i) { return i.flip >> 3 & 1; }
  static bool is_signed(const Instruction& i) { return i.flip >> 4 & 1; }
  static int register_bytes(const Instruction& i) { return static_cast<int>(i.flip >> 8); }
};

void do_load(Warp& w, const Instruction& i) {
  const int element = i.small;
  const int count = i.list_size;
  const uint32_t* regs = &w.kernel->lists[i.list];
  const int space = Access::space(i);
  const bool wide = Access::wide(i);
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    int64_t shared;
    const uint64_t address = address_of(w, i, l, wide);
    const uint8_t* from = memory_at(w, l, space, address, element * count, false, &shared);
    if (shared >= 0) w.cta->read_shared(w, l, static_cast<uint32_t>(shared), element * count);
    for (int k = 0; k < count; ++k) {
      uint64_t value = 0;
      std::memcpy(&value, from + k * element, element);
      if (Access::is_signed(i)) {
        const int shift = 64 - 8 * element;
        value = static_cast<uint64_t>(static_cast<int64_t>(value << shift) >> shift);
      }
      if (regs[k] == kNone) continue;
      switch (Access::register_bytes(i)) {
        case 8: w.reg<uint64_t>(regs[k])[l] = value; break;
        case 2: w.reg<uint32_t>(regs[k])[l] = static_cast<uint16_t>(value); break;
        default: w.reg<uint32_t>(regs[k])[l] = static_cast<uint32_t>(value);
      }
    }
  }
}

void do_store(Warp& w, const Instruction& i) {
  const int element = i.small;
  const int count = i.list_size;
  const uint32_t* regs = &w.kernel->lists[i.list];
  const int space = Access::space(i);
  const bool wide = Access::wide(i);
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    int64_t shared;
    const uint64_t address = address_of(w, i, l, wide);
    uint8_t* to = memory_at(w, l, space, address, element * count, true, &shared);
    for (int k = 0; k < count; ++k) {
      if (element == 8)
        std::memcpy(to + k * 8, &w.reg<uint64_t>(regs[k])[l], 8);
      else
        std::memcpy(to + k * element, &w.reg<uint32_t>(regs[k])[l], element);
    }
    if (shared >= 0) w.cta->wrote_shared(w, l, static_cast<uint32_t>(shared), element * count);
  }
}

enum AtomId { kAtomAdd, kAtomMax, kAtomMin, kAtomExch, kAtomCas };

template <class T>
void do_atom(Warp& w, const Instruction& i) {
  const int space = Access::space(i);
  const bool wide = Access::wide(i);
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    int64_t shared;
    auto* at = reinterpret_cast<T*>(
        memory_at(w, l, space, address_of(w, i, l, wide), sizeof(T), true, &shared));
    const T value = w.reg<T>(i.b)[l];
    T old = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    for (;;) {
      T next = old;
      switch (i.small) {
        case kAtomAdd: next = old + value; break;
        case kAtomMax: next = std::max(old, value); break;
        case kAtomMin: next = std::min(old, value); break;
        case kAtomExch: next = value; break;
        case kAtomCas: next = old == value ? w.reg<T>(i.c)[l] : old; break;
      }
      if (__atomic_compare_exchange_n(at, &old, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        break;
    }
    if (shared >= 0) {
      w.cta->wrote_shared(w, l, static_cast<uint32_t>(shared), sizeof(T), true);
    }
    if (i.d != kNone) w.reg<T>(i.d)[l] = old;
  }
}

// d = a + imm: cvta. small: 0 nothing, 1 checks that the address is shared.
void do_cvta(Warp& w, const Instruction& i) {
  const auto* a = w.reg<uint64_t>(i.a);
  auto* d = w.reg<uint64_t>(i.d);
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    d[l] = a[l] + static_cast<uint64_t>(i.imm);
    if (i.small == 1 && d[l] >= w.cta->shared_end) w.fail("not a shared address");
  }
}

}  // namespace

void Decoder::memory(const Statement& s, const std::vector<std::string>& parts, Instruction& ins) {
  const bool load = parts[0] == "ld";
  const bool atom = parts[0] == "atom" || parts[0] == "red";
  const std::string& type = parts.back();
  int space = kGenericSpace;
  if (has(parts, "param")) space = kParamSpace;
  if (has(parts, "global")) space = kGlobalSpace;
  if (has(parts, "shared") || has(parts, "shared::cta")) space = kSharedSpace;
  if (has(parts, "local")) space = kLocalSpace;
  for (const auto& part : parts)
    if (part == "async" || part == "const") throw Error("unknown instruction");
  const size_t where = load ? 1 : atom ? (parts[0] == "atom" ? 1 : 0) : 0;
  const Address at = address(s.operands.at(where));
  ins.a = at.base;
  ins.imm = at.offset;
  ins.flip = static_cast<uint32_t>(space) | (at.wide ? 8u : 0u) | (type[0] == 's' ? 16u : 0u);
  if (atom) {
    static const std::map<std::string, int> kinds{{"add", kAtomAdd},
                                                  {"max", kAtomMax},
                                                  {"min", kAtomMin},
                                                  {"exch", kAtomExch},
                                                  {"cas", kAtomCas}};
    for (const auto& [name, id] : kinds)
      if (has(parts, name)) ins.small = static_cast<uint8_t>(id);
    if (parts[0] == "atom") ins.d = target(s.operands[0], type);
    ins.b = source(s.operands.at(where + 1), type);
    if (ins.small == kAtomCas) ins.c = source(s.operands.at(where + 2), type);
    if (type == "u32" || type == "b32")
      ins.fn = do_atom<uint32_t>;
    else if (type == "s32")
      ins.fn = do_atom<int32_t>;
    else if (type == "u64" || type == "b64")
      ins.fn = do_atom<uint64_t>;
    else
      throw Error("unknown atom");
    return;
  }
  const auto items = list(s.operands.at(load ? 0 : 1));
  ins.small = static_cast<uint8_t>(type_bytes(type));
  put_list(ins, items, type, load);
  std::string declared = type;
  for (const auto& item : items) lookup(item, &declared);
  ins.flip |= type_bytes(declared) << 8;
  ins.fn = load ? do_load : do_store;
}

void Decoder::convert_address(const Statement& s, const std::vector<std::string>& parts,
                              Instruction& ins) {
  const auto& op = s.operands;
  ins.d = target(op.at(0), "u64");
  ins.a = source(op.at(1), "u64");
  const bool to = parts[1] == "to";
  const std::string& space = parts[to ? 2 : 1];
  if (space == "shared") {
    ins.imm = static_cast<int64_t>(to ? -kSharedWindow : kSharedWindow);
    ins.small = to;
  } else if (space == "local") {
    ins.imm = static_cast<int64_t>(to ? -kLocalWindow : kLocalWindow);
  } else if (space != "global" && space != "param" && space != "const") {
    throw Error("unknown space");
  }
  ins.fn = do_cvta;
}

}  // namespace covis::emulator
