// Instructions by name, and those that steer a warp.
#include "decode.h"

#include <algorithm>

namespace covis::emulator {
namespace {

void do_branch(Warp& w, const Instruction& i) {
  const uint32_t taken = w.exec;
  if (taken == w.active)
    w.pc = i.target;
  else if (taken == 0)
    ++w.pc;
  else
    w.split(taken, i.target);
  if (!w.others.empty()) w.choose();
}

void do_exit(Warp& w, const Instruction&) {
  const uint32_t leaving = w.exec;
  ++w.pc;
  w.exit_lanes(leaving);
}

void do_trap(Warp& w, const Instruction&) { w.fail("trap"); }
void do_nothing(Warp&, const Instruction&) {}

}  // namespace

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (at == '.' && text.compare(i, 2, "::") == 0) {
      out.back() += "::";
      ++i;
    } else if (text[i] == at) {
      out.emplace_back();
    } else {
      out.back() += text[i];
    }
  }
  return out;
}

bool is_wide(const std::string& type) { return type.find("64") != std::string::npos; }

uint32_t type_bytes(const std::string& type) {
  if (type.find("64") != std::string::npos) return 8;
  if (type.find("32") != std::string::npos) return 4;
  if (type.find("16") != std::string::npos) return 2;
  return 1;
}

bool has(const std::vector<std::string>& parts, const std::string& part) {
  return std::find(parts.begin(), parts.end(), part) != parts.end();
}

void Decoder::branch(const Statement& s, Instruction& ins) {
  if (s.opcode == "trap") {
    ins.fn = do_trap;
    return;
  }
  ins.branch = 1;
  ins.fn = s.opcode.rfind("bra", 0) == 0 ? do_branch : do_exit;
}

void Decoder::decode(const Statement& s) {
  const auto parts = split(s.opcode, '.');
  const std::string& base = parts[0];
  Instruction ins;
  ins.guard = s.guard;
  ins.guard_flip = s.guard_flip;
  reads_.clear();
  writes_.clear();
  if (base == "bra" || base == "ret" || base == "exit" || base == "trap") {
    branch(s, ins);
  } else if (base == "ld" || base == "st" || base == "atom" || base == "red") {
    memory(s, parts, ins);
  } else if (base == "mov") {
    move(s, parts, ins);
  } else if (base == "selp") {
    select(s, parts.back(), ins);
  } else if (base != "setp" && parts.back() == "pred") {
    logic(s, ins);
  } else if (base == "cvta") {
    convert_address(s, parts, ins);
  } else if (base == "cvt") {
    convert(s, parts, ins);
  } else if (base == "wgmma") {
    wgmma(s, ins);
  } else if (base == "mma" || base == "ldmatrix" || base == "stmatrix") {
    matrix(s, ins);
  } else if (base == "shfl" || base == "vote" || base == "redux" || s.opcode == "bar.warp.sync") {
    exchange(s, parts, ins);
  } else if (base == "bar" || base == "barrier" || base == "mbarrier" || base == "setmaxnreg" ||
             base == "fence") {
    barrier(s, parts, ins);
  } else if (base == "cp") {
    copy(s, ins);
  } else if (base == "prefetch" || base == "membar" || base == "nanosleep") {
    ins.fn = do_nothing;  // accesses happen in program order and at once
  } else {
    arithmetic(s, parts, ins);
  }
  ins.touched = static_cast<uint32_t>(kernel_.touched.size());
  ins.reads = static_cast<uint16_t>(reads_.size());
  ins.writes = static_cast<uint16_t>(writes_.size());
  kernel_.touched.insert(kernel_.touched.end(), reads_.begin(), reads_.end());
  kernel_.touched.insert(kernel_.touched.end(), writes_.begin(), writes_.end());
  kernel_.code.push_back(ins);
}

}  // namespace covis::emulator
