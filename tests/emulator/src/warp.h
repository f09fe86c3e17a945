// A warp: its lanes, registers, and the asynchronous work that it has issued.
#pragma once

#include <climits>
#include <cstring>

#include "program.h"
#include "tensor_map.h"

namespace covis::emulator {

struct Cta;

struct Group {  // lanes of a warp at one place
  int32_t pc;
  uint32_t mask;
  bool blocked;  // waits at a .sync for other lanes
};

struct WgmmaOp {
  const Instruction* ins;
  uint64_t a_desc, b_desc;
  bool scale_d;
};

struct AsyncCopy {  // cp.async: 16 bytes at most
  uint64_t source;
  uint32_t target, bytes, zeros;
  uint32_t number;  // of the warp's copies
};

struct BulkStore {
  const TensorMap* map;
  int32_t at[5];
  uint32_t source;
  int group;
};

// A vector clock over the warps of a CTA (at most 32), and behind them the copies that each issued.
struct Clocks {
  uint32_t at[64] = {};
  void join(const Clocks& other) {
    for (int i = 0; i < 64; ++i) at[i] = at[i] > other.at[i] ? at[i] : other.at[i];
  }
};

enum class Wait : uint8_t { kRun, kBarrier, kDone };

struct Warp {
  Cta* cta = nullptr;
  const Kernel* kernel = nullptr;
  int index = 0;
  uint32_t alive = 0;  // lanes that have not exited
  int32_t pc = 0;
  uint32_t active = 0, exec = 0;
  int32_t limit = INT32_MAX;  // the next place of other lanes
  std::vector<Group> others;
  uint32_t* arena = nullptr;
  uint32_t* predicates = nullptr;
  Wait wait = Wait::kRun;
  bool yielded = false;  // a try_wait failed
  bool advance = true;   // the handler did its work; else it is tried again later
  int barrier = -1;
  uint64_t executed = 0;
  int registers = 0;  // of each thread: setmaxnreg
  std::vector<uint8_t> local;
  // wgmma
  std::vector<std::vector<WgmmaOp>> groups;  // committed, oldest first
  std::vector<WgmmaOp> open;                 // not committed
  std::vector<uint32_t> stamp;               // when each register vector was last written
  // By register vector: products in flight that use it, + 256 for each that reads it as operand.
  std::vector<uint16_t> in_flight;
  uint32_t clock = 1, fence_clock = 0;
  int pending_products = 0;
  uint64_t product_hash = 0;  // of the sequence of wgmma: equal in the warps of a warpgroup
  // cp.async, of each lane
  std::vector<std::vector<AsyncCopy>> copy_groups[kLanes];
  std::vector<AsyncCopy> open_copies[kLanes];
  // bulk stores, of each lane
  std::vector<BulkStore> stores[kLanes];
  int open_group[kLanes] = {};
  Clocks clocks;
  uint32_t copies = 0;
  uint32_t epoch = 1;  // raised by all that orders the memory accesses of a warp's lanes

  template <class T>
  T* reg(uint32_t vector) const {
    return reinterpret_cast<T*>(arena + size_t{vector} * kLanes);
  }
  [[noreturn]] void fail(const std::string& what) const;
  void note(const std::string& what) const;  // a finding that does not stop the run
  // Runs up to `quantum` instructions; false = nothing but waiting was done.
  bool run(int quantum);
  void choose();
  void choose_fairly();
  void split(uint32_t taken, int32_t target);
  void exit_lanes(uint32_t mask);
  bool converge(uint32_t members);
  void product_done(int keep);
  void check_registers(const Instruction& ins);
};

// The line of PTX at a place of the code, for messages.
std::string place(const Kernel& kernel, const Instruction& instruction);
std::string place(const Warp& warp, int32_t pc);

// "0x..." of a mask or an address, for messages.
std::string hex(uint64_t x);

}  // namespace covis::emulator
