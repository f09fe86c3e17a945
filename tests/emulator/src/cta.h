// A CTA: warps, shared memory, barriers, copies under way, and what the checkers know.
#pragma once

#include <random>

#include "options.h"
#include "warp.h"

namespace covis::emulator {

struct Mbarrier {
  bool valid = false;
  uint32_t expected = 0, pending = 0;
  int32_t bytes = 0;
  uint32_t phase = 0;
  Clocks released, complete[2];
};

struct NamedBarrier {
  uint32_t threads = 0, arrived = 0;
  std::vector<int> waiting;
  Clocks released;
};

struct PendingCopy {
  const TensorMap* map;
  int32_t at[5];
  uint32_t target, barrier;
  int delay;
  int warp;
  Clocks clocks;
  uint32_t number;  // of the warp's copies
  const Instruction* issued;
};

struct Launch {
  const Kernel* kernel;
  uint32_t grid[3], block[3];
  uint32_t dynamic_shared;
  const uint8_t* params;  // 128-byte aligned
};

// What the checkers know of 16 bytes of shared memory.
struct Shadow {
  uint64_t written = 0;      // Cta::now of the last generic write
  uint16_t writer = 0;       // its thread
  uint16_t initialised = 0;  // bytes
};

struct Cell {  // of a byte, for races
  uint32_t write_clock = 0;
  uint8_t writer = 0xff;
  bool atomic = false;  // the last write was
  uint8_t lane = 0;
  uint32_t epoch = 0;  // Warp::epoch of the last write
};

struct Readers {  // of 4 bytes
  uint32_t clock[32] = {};
  uint32_t last = ~0u, epoch = 0, lanes = 0;  // the last warp, and who of it since its epoch began
};

struct Cta {
  const Launch* launch = nullptr;
  uint32_t id[3] = {};
  std::vector<Warp> warps;
  std::vector<uint32_t> arena;
  std::vector<uint32_t> predicates;
  std::vector<uint8_t> shared;  // from offset 0, the first KiB unused
  uint32_t shared_end = 0;
  std::vector<Mbarrier> mbarriers;  // by address / 8
  NamedBarrier named[16];
  std::vector<PendingCopy> copies;
  int free_registers = 0;
  uint64_t now = 1;  // counts generic writes and fences
  std::vector<Shadow> shadow;
  std::vector<uint64_t> fenced;  // by thread: `now` of its last proxy fence
  std::vector<Cell> cells;
  std::vector<Readers> readers;
  std::minstd_rand random;
  uint64_t products = 0, bulk_copies = 0, bulk_stores = 0;
  // the allocation that the last access fell into
  uint64_t hit_begin = 1, hit_end = 0;
  bool hit_writable = false;

  // Runs the CTA at a place of the grid to its end; throws Error.
  void run(const Launch& what, uint32_t x, uint32_t y, uint32_t z, uint64_t seed);
  void prepare(const Launch& what, uint32_t x, uint32_t y, uint32_t z, uint64_t seed);
  void prepare_warp(int i);
  uint64_t constant(const Kernel::Constant& c, const Warp& warp, int lane) const;
  void arrive(Mbarrier& barrier);
  void complete(Mbarrier& barrier);
  Mbarrier& mbarrier(Warp& warp, uint32_t address);
  void finish_copy(size_t index);
  bool settle_copies(bool force);
  void deadlock();
  // Checked pointers.
  uint8_t* shared_at(Warp& warp, uint64_t offset, uint32_t bytes, uint32_t align);
  uint8_t* global_at(Warp& warp, uint64_t address, uint32_t bytes, bool write);
  // What a checker is told. `filled` without a look at races: those of cp.async are judged when it
  // is issued, because it may write from then on, and are over when its lane has waited for it.
  void filled_shared(Warp& warp, int lane, uint32_t offset, uint32_t bytes);
  void wrote_shared(Warp& warp, int lane, uint32_t offset, uint32_t bytes, bool atomic = false);
  void issued_copy(Warp& warp, int lane, uint32_t offset, uint32_t bytes, uint32_t number);
  void check_readers(Warp& warp, int lane, uint32_t offset, uint32_t bytes, bool atomic);
  void read_shared(Warp& warp, int lane, uint32_t offset, uint32_t bytes);
  void async_read(Warp& warp, uint32_t offset, uint32_t bytes, const char* what);
  void async_wrote(const PendingCopy& copy, uint32_t bytes);
};

// Copies a box of a tensor to shared memory, or back; outside the tensor zeros are read and nothing
// is written.
void load_box(Cta& cta, const TensorMap& map, const int32_t (&at)[5], uint32_t target);
void store_box(Cta& cta, const BulkStore& store);

// Runs one wgmma of a warp: 16 rows.
void run_product(Warp& warp, const WgmmaOp& op);

// Runs a grid on `options().threads` threads; throws Error.
void run_grid(const Launch& launch);

}  // namespace covis::emulator
