// Exchange between the lanes of a warp.
#include "decode.h"

namespace covis::emulator {
namespace {

// small: 0 idx, 1 up, 2 down, 3 bfly; e: a predicate.
void do_shfl(Warp& w, const Instruction& i) {
  const uint32_t members = w.reg<uint32_t>(i.list)[__builtin_ctz(w.exec)];
  if (!w.converge(members)) return;
  uint32_t from[kLanes];
  std::memcpy(from, w.reg<uint32_t>(i.a), sizeof(from));
  const auto* b = w.reg<uint32_t>(i.b);
  const auto* c = w.reg<uint32_t>(i.c);
  auto* d = i.d == kNone ? nullptr : w.reg<uint32_t>(i.d);
  uint32_t valid = 0;
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    if (!(members >> l & 1)) w.fail("shfl by a lane outside its member mask");
    const int clamp = c[l] & 31;
    const int segment = c[l] >> 8 & 31;
    const int offset = b[l] & 31;
    const int high = (l & segment) | (clamp & ~segment);
    const int low = l & segment;
    int other = l;
    bool inside = false;
    switch (i.small) {
      case 0:
        other = low | (offset & ~segment);
        inside = other <= high;
        break;
      case 1:
        other = l - offset;
        inside = other >= high;
        break;
      case 2:
        other = l + offset;
        inside = other <= high;
        break;
      default: other = l ^ offset; inside = other <= high;
    }
    if (!inside) other = l;
    if (!(w.exec >> other & 1)) w.fail("shfl reads a lane that does not take part");
    valid |= static_cast<uint32_t>(inside) << l;
    if (d != nullptr) d[l] = from[other];
  }
  put_predicate(w, i.e, valid);
}

// small: 0 ballot, 1 any, 2 all, 3 uni
void do_vote(Warp& w, const Instruction& i) {
  const uint32_t members = w.reg<uint32_t>(i.b)[__builtin_ctz(w.exec)];
  if (!w.converge(members)) return;
  const uint32_t p = (w.predicates[i.a] ^ (i.flip & 1 ? ~0u : 0u)) & w.exec & members;
  if (i.small == 0) {
    each<uint32_t>(w, w.reg<uint32_t>(i.d), [&](int) { return p; });
    return;
  }
  const uint32_t all = w.exec & members;
  const bool yes = i.small == 1 ? p != 0 : i.small == 2 ? p == all : p == 0 || p == all;
  put_predicate(w, i.d, yes ? ~0u : 0u);
}

void do_redux_add(Warp& w, const Instruction& i) {
  const uint32_t members = w.reg<uint32_t>(i.b)[__builtin_ctz(w.exec)];
  if (!w.converge(members)) return;
  uint32_t sum = 0;
  for (int l = 0; l < kLanes; ++l)
    if (w.exec & members & 1u << l) sum += w.reg<uint32_t>(i.a)[l];
  each<uint32_t>(w, w.reg<uint32_t>(i.d), [&](int) { return sum; });
}

// The only warp-wide exchange that orders memory accesses.
void do_warp_sync(Warp& w, const Instruction& i) {
  const uint32_t members = w.reg<uint32_t>(i.a)[__builtin_ctz(w.exec)];
  if (w.converge(members) && (w.alive & ~members) == 0) ++w.epoch;
}

}  // namespace

void Decoder::exchange(const Statement& s, const std::vector<std::string>& parts,
                       Instruction& ins) {
  const auto& op = s.operands;
  const std::string& name = s.opcode;
  if (name == "bar.warp.sync") {
    ins.a = source(op.at(0), "b32");
    ins.fn = do_warp_sync;
  } else if (parts[0] == "shfl") {
    static const std::map<std::string, int> modes{{"idx", 0}, {"up", 1}, {"down", 2}, {"bfly", 3}};
    ins.small = static_cast<uint8_t>(modes.at(parts[2]));
    const size_t bar = op.at(0).find('|');
    ins.d = target(op[0].substr(0, bar), "b32");
    if (bar != std::string::npos) ins.e = predicate(op[0].substr(bar + 1), nullptr, true);
    ins.a = source(op.at(1), "b32");
    ins.b = source(op.at(2), "b32");
    ins.c = source(op.at(3), "b32");
    ins.list = source(op.at(4), "b32");
    ins.fn = do_shfl;
  } else if (parts[0] == "vote") {
    static const std::map<std::string, int> modes{
        {"ballot", 0}, {"any", 1}, {"all", 2}, {"uni", 3}};
    ins.small = static_cast<uint8_t>(modes.at(parts[2]));
    ins.d = ins.small == 0 ? target(op.at(0), "b32") : predicate(op.at(0), nullptr, true);
    bool flip = false;
    ins.a = predicate(op.at(1), &flip, false);
    ins.flip = flip;
    ins.b = source(op.at(2), "b32");
    ins.fn = do_vote;
  } else if (name == "redux.sync.add.u32" || name == "redux.sync.add.s32") {
    ins.d = target(op.at(0), "b32");
    ins.a = source(op.at(1), "b32");
    ins.b = source(op.at(2), "b32");
    ins.fn = do_redux_add;
  } else {
    throw Error("unknown instruction");
  }
}

}  // namespace covis::emulator
