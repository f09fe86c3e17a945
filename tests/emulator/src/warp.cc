// Which lanes of a warp run, and where.
#include "warp.h"

#include <algorithm>
#include <sstream>

#include "cta.h"

namespace covis::emulator {

std::string hex(uint64_t x) {
  std::ostringstream out;
  out << "0x" << std::hex << x;
  return out.str();
}

std::string place(const Kernel& kernel, const Instruction& i) {
  const bool known = i.line > 0 && i.line <= kernel.text->size();
  std::string text = known ? (*kernel.text)[i.line - 1] : "";
  text.erase(0, text.find_first_not_of(" \t"));
  const std::string source = i.place > 0 ? kernel.places[i.place - 1] + ", " : "";
  return source + "PTX line " + std::to_string(i.line) + ": " + text.substr(0, 110);
}

std::string place(const Warp& w, int32_t pc) {
  if (pc < 0 || pc >= static_cast<int32_t>(w.kernel->code.size())) return "end";
  return place(*w.kernel, w.kernel->code[pc]);
}

void Warp::fail(const std::string& what) const {
  throw Error(kernel->name + ", CTA " + std::to_string(cta->id[0]) + "," +
              std::to_string(cta->id[1]) + ", warp " + std::to_string(index) + ", " +
              place(*this, pc) + ": " + what);
}

void Warp::note(const std::string& what) const {
  add_finding(kernel->name + ", warp " + std::to_string(index) + ", " + place(*this, pc) + ": " +
              what);
}

void Warp::split(uint32_t taken, int32_t target) {
  others.push_back({target, taken, false});
  active &= ~taken;
  ++pc;
  choose();
}

void Warp::exit_lanes(uint32_t mask) {
  alive &= ~mask;
  active &= ~mask;
  for (auto& group : others) group.blocked = false;  // they may wait for fewer lanes now
  for (int l = 0; l < kLanes; ++l)
    if ((mask >> l & 1) && !stores[l].empty())
      note("a thread exits while a bulk store still reads shared memory");
  if (alive == 0) {
    if (pending_products > 0) note("a warp exits with products in flight");
    wait = Wait::kDone;
  } else if (active == 0) {
    choose();
  }
}

bool Warp::converge(uint32_t members) {
  members &= alive;
  if ((members & ~active) == 0) return true;
  others.push_back({pc, active, true});
  active = 0;
  advance = false;
  return false;  // run() chooses other lanes
}

void Warp::choose() {
  if (active != 0) {
    others.push_back({pc, active, false});
    active = 0;
  }
  for (size_t i = 0; i < others.size(); ++i) {
    for (size_t k = i + 1; k < others.size();) {
      if (others[k].pc == others[i].pc) {
        others[i].mask |= others[k].mask;
        others[i].blocked = false;
        others.erase(others.begin() + static_cast<std::ptrdiff_t>(k));
      } else {
        ++k;
      }
    }
  }
  int best = -1;
  int runnable = 0;
  for (size_t i = 0; i < others.size(); ++i) {
    if (others[i].blocked) continue;
    ++runnable;
    if (best < 0)
      best = static_cast<int>(i);
    else if (options().chaos ? cta->random() % runnable == 0 : others[i].pc < others[best].pc)
      best = static_cast<int>(i);
  }
  if (best < 0) {
    std::string what = "lanes wait for each other at";
    for (const auto& group : others)
      what += " [" + hex(group.mask) + " " + place(*this, group.pc) + "]";
    fail(what);
  }
  pc = others[best].pc;
  active = others[best].mask;
  others.erase(others.begin() + best);
  limit = INT32_MAX;
  for (const auto& group : others)
    if (group.pc > pc) limit = std::min(limit, group.pc);
}

void Warp::check_registers(const Instruction& ins) {
  const uint32_t* list = &kernel->touched[ins.touched];
  for (int k = 0; k < ins.reads; ++k)
    if ((in_flight[list[k]] & 255) != 0) note("reads an accumulator of a product in flight");
  for (int k = 0; k < ins.writes; ++k)
    if (in_flight[list[ins.reads + k]] != 0) note("writes a register of a product in flight");
}

bool Warp::run(int quantum) {
  const Instruction* code = kernel->code.data();
  const int32_t end = static_cast<int32_t>(kernel->code.size());
  const bool checks = options().checks;
  yielded = false;
  if (!others.empty()) choose_fairly();
  int n = 0;
  for (; n < quantum && wait == Wait::kRun && !yielded; ++n) {
    if (pc >= end) fail("ran past the end");
    const Instruction& i = code[pc];
    exec = i.guard < 0 ? active : active & (predicates[i.guard] ^ i.guard_flip);
    advance = true;
    if (i.branch != 0) {
      i.fn(*this, i);
      continue;
    }
    if (exec != 0) {
      if (checks && pending_products > 0) check_registers(i);
      i.fn(*this, i);
      if (checks && i.writes != 0) {
        const uint32_t* list = &kernel->touched[i.touched + i.reads];
        ++clock;
        for (int k = 0; k < i.writes; ++k) stamp[list[k]] = clock;
      }
    }
    if (advance) ++pc;
    if (active == 0 || pc >= limit) choose();
  }
  executed += static_cast<uint64_t>(n);
  const uint64_t most = options().max_instructions;
  if (most != 0 && executed > most) fail("runs longer than allowed");
  return n > 4 || !yielded;
}

// Lanes that only wait must not keep others of their warp from running.
void Warp::choose_fairly() {
  for (size_t i = 0; i < others.size(); ++i) {
    if (others[i].blocked) continue;
    const Group next = others[i];
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(i));
    others.push_back({pc, active, false});
    pc = next.pc;
    active = next.mask;
    limit = INT32_MAX;
    for (const auto& group : others)
      if (group.pc > pc) limit = std::min(limit, group.pc);
    return;
  }
}

void Warp::product_done(int keep) {
  while (static_cast<int>(groups.size()) > keep) {
    for (const WgmmaOp& op : groups.front()) {
      if (options().lazy_wgmma) run_product(*this, op);
      --pending_products;
      if (!options().checks) continue;
      const uint32_t* regs = &kernel->lists[op.ins->list];
      const int accumulators = static_cast<int>(op.ins->imm & 0xffff) / 2;
      for (int k = 0; k < op.ins->list_size; ++k)
        in_flight[regs[k]] =
            static_cast<uint16_t>(in_flight[regs[k]] - (k < accumulators ? 1 : 256));
    }
    groups.erase(groups.begin());
  }
}

}  // namespace covis::emulator
