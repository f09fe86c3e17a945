// Barriers, fences, and the register pool.
#include "cta.h"
#include "decode.h"

namespace covis::emulator {
namespace {

// small: 0 sync, 1 arrive. a: number, b: threads.
void do_bar(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  if (w.exec != w.active) w.fail("a barrier under a predicate that differs in the warp");
  Cta& cta = *w.cta;
  ++w.epoch;
  const int lane = __builtin_ctz(w.exec);
  const uint32_t id = w.reg<uint32_t>(i.a)[lane];
  if (id > 15) w.fail("barrier number " + std::to_string(id));
  uint32_t threads = static_cast<uint32_t>(cta.warps.size()) * 32;
  if (i.b != kNone) threads = w.reg<uint32_t>(i.b)[lane];
  if (threads == 0 || threads % 32 != 0) w.fail("barrier of " + std::to_string(threads));
  NamedBarrier& bar = cta.named[id];
  if (bar.arrived != 0 && bar.threads != threads)
    w.fail("barrier " + std::to_string(id) + " used with two thread counts");
  bar.threads = threads;
  bar.arrived += 32;
  bar.released.join(w.clocks);
  ++w.clocks.at[w.index & 31];
  if (i.small == 0) bar.waiting.push_back(w.index);
  if (bar.arrived > threads) w.fail("barrier " + std::to_string(id) + ": too many arrivals");
  if (bar.arrived == threads) {
    for (const int index : bar.waiting) {
      cta.warps[index].wait = Wait::kRun;
      cta.warps[index].clocks.join(bar.released);
    }
    bar = NamedBarrier{};
  } else if (i.small == 0) {
    w.wait = Wait::kBarrier;
    w.barrier = static_cast<int>(id);
  }
}

void do_mbarrier_init(Warp& w, const Instruction& i) {
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    const uint32_t address = shared_address(w, i.a, l, i.imm);
    w.cta->shared_at(w, address, 8, 8);
    const uint32_t count = w.reg<uint32_t>(i.b)[l];
    if (count == 0 || count > (1u << 20) - 1) w.fail("mbarrier count");
    Mbarrier& barrier = w.cta->mbarriers[address / 8];
    barrier = Mbarrier{};
    barrier.valid = true;
    barrier.expected = barrier.pending = count;
  }
}

// small: 1 = expect_tx first. b: bytes.
void do_mbarrier_arrive(Warp& w, const Instruction& i) {
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    Mbarrier& barrier = w.cta->mbarrier(w, shared_address(w, i.a, l, i.imm));
    if (i.small == 1) {
      barrier.bytes += static_cast<int32_t>(w.reg<uint32_t>(i.b)[l]);
      if (barrier.bytes >= 1 << 20) w.fail("mbarrier tx-count is out of range");
    }
    barrier.released.join(w.clocks);
    ++w.clocks.at[w.index & 31];
    if (barrier.pending == 0) w.fail("mbarrier: more arrivals than its count");
    w.cta->arrive(barrier);
  }
}

// d: predicate; b: parity.
void do_mbarrier_try_wait(Warp& w, const Instruction& i) {
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    Mbarrier& barrier = w.cta->mbarrier(w, shared_address(w, i.a, l, i.imm));
    const uint32_t parity = w.reg<uint32_t>(i.b)[l] & 1;
    if ((barrier.phase & 1) != parity) {
      bits |= 1u << l;
      w.clocks.join(barrier.complete[parity]);
    } else {
      w.yielded = true;
    }
  }
  put_predicate(w, i.d, bits);
}

void do_setmaxnreg(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  const int wanted = static_cast<int>(i.imm);
  if (wanted < 24 || wanted > 256 || wanted % 8 != 0) w.fail("setmaxnreg out of range");
  const int more = (wanted - w.registers) * kLanes;
  if (i.small == 1 && more < 0) w.fail("setmaxnreg.inc to fewer registers than owned");
  if (i.small == 0 && more > 0) w.fail("setmaxnreg.dec to more registers than owned");
  if (more > w.cta->free_registers) {  // waits for others to release theirs
    w.advance = false;
    w.yielded = true;
    return;
  }
  w.cta->free_registers -= more;
  w.registers = wanted;
}

void do_proxy_fence(Warp& w, const Instruction&) {
  const uint64_t now = ++w.cta->now;
  for (int l = 0; l < kLanes; ++l)
    if (w.exec >> l & 1) w.cta->fenced[w.index * kLanes + l] = now;
}

void do_mbarrier_fence(Warp&, const Instruction&) {}

}  // namespace

void Decoder::barrier(const Statement& s, const std::vector<std::string>& parts, Instruction& ins) {
  const auto& op = s.operands;
  const std::string& name = s.opcode;
  if (parts[0] == "bar" || (parts[0] == "barrier" && has(parts, "aligned"))) {
    ins.small = has(parts, "arrive") ? 1 : 0;
    if (!has(parts, "sync") && ins.small == 0) throw Error("unknown barrier");
    ins.a = source(op.at(0), "u32");
    if (op.size() > 1) ins.b = source(op[1], "u32");
    ins.fn = do_bar;
  } else if (name == "mbarrier.init.shared::cta.b64") {
    ins.a = shared_base(op.at(0), ins);
    ins.b = source(op.at(1), "u32");
    ins.fn = do_mbarrier_init;
  } else if (name == "mbarrier.arrive.shared::cta.b64" && op.size() == 2) {
    if (op[0] != "_") throw Error("the state of an arrival is not kept");
    ins.a = shared_base(op.at(1), ins);
    ins.fn = do_mbarrier_arrive;
  } else if (name == "mbarrier.arrive.expect_tx.shared::cta.b64" && op.size() == 3) {
    if (op[0] != "_") throw Error("the state of an arrival is not kept");
    ins.a = shared_base(op.at(1), ins);
    ins.b = source(op.at(2), "u32");
    ins.small = 1;
    ins.fn = do_mbarrier_arrive;
  } else if (name == "mbarrier.try_wait.parity.shared::cta.b64") {
    ins.d = predicate(op.at(0), nullptr, true);
    ins.a = shared_base(op.at(1), ins);
    ins.b = source(op.at(2), "u32");
    ins.fn = do_mbarrier_try_wait;
  } else if (name == "setmaxnreg.inc.sync.aligned.u32" ||
             name == "setmaxnreg.dec.sync.aligned.u32") {
    ins.small = has(parts, "inc") ? 1 : 0;
    ins.imm = std::stol(op.at(0));
    ins.fn = do_setmaxnreg;
  } else if (name == "fence.proxy.async.shared::cta" || name == "fence.proxy.async") {
    ins.fn = do_proxy_fence;
  } else if (name == "fence.mbarrier_init.release.cluster") {
    ins.fn = do_mbarrier_fence;
  } else {
    throw Error("unknown instruction");
  }
}

}  // namespace covis::emulator
