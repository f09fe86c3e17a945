// CTAs and grids: who runs when, barriers, and when copies arrive.
#include "cta.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace covis::emulator {

namespace {

uint32_t threads_of(const Launch& launch) {
  return launch.block[0] * launch.block[1] * launch.block[2];
}

}  // namespace

void Cta::prepare(const Launch& what, uint32_t x, uint32_t y, uint32_t z, uint64_t seed) {
  launch = &what;
  id[0] = x;
  id[1] = y;
  id[2] = z;
  const Kernel& kernel = *what.kernel;
  random.seed(static_cast<uint32_t>(seed * 2654435761u + x * 40503u + y * 97u + 1));
  const int count = static_cast<int>((threads_of(what) + 31) / 32);
  if (count > 32) throw Error("more than 1024 threads");
  shared_end = kernel.dynamic_base() + what.dynamic_shared;
  if (shared_end > 228 * 1024) throw Error(kernel.name + ": too much shared memory");
  shared.resize(shared_end);
  // Nothing may rely on what shared memory held before: NaN in every type.
  std::fill(shared.begin(), shared.end(), 0xff);
  mbarriers.assign(shared_end / 8 + 1, Mbarrier{});
  for (auto& bar : named) bar = NamedBarrier{};
  copies.clear();
  const bool checks = options().checks;
  shadow.assign(checks ? shared_end / 16 + 1 : 0, Shadow{});
  fenced.assign(count * kLanes, 0);
  cells.assign(options().races ? shared_end : 0, Cell{});
  readers.assign(options().races ? shared_end / 4 + 1 : 0, Readers{});
  now = 1;
  hit_begin = 1;
  hit_end = 0;
  const size_t size = size_t{kernel.vectors} * kLanes;
  if (arena.size() < size * count) arena.assign(size * count, 0);
  predicates.assign(size_t{kernel.predicates} * count, 0);
  warps.clear();
  warps.resize(count);
  free_registers = 0;
  for (int i = 0; i < count; ++i) prepare_warp(i);
}

void Cta::prepare_warp(int i) {
  const Kernel& kernel = *launch->kernel;
  const size_t size = size_t{kernel.vectors} * kLanes;
  const int threads = static_cast<int>(warps.size()) * kLanes;
  const bool checks = options().checks;
  Warp& w = warps[i];
  w.cta = this;
  w.kernel = &kernel;
  w.index = i;
  const uint32_t live = std::min<uint32_t>(32, threads_of(*launch) - 32 * i);
  w.alive = w.active = live == 32 ? ~0u : (1u << live) - 1;
  w.arena = arena.data() + size * i;
  w.predicates = predicates.data() + size_t{kernel.predicates} * i;
  w.registers = std::min(255, 65536 / threads / 8 * 8);
  w.stamp.assign(checks ? kernel.vectors : 0, 0);
  w.in_flight.assign(checks ? kernel.vectors : 0, 0);
  w.local.assign(size_t{kernel.local_bytes} * kLanes, 0xff);
  w.clocks.at[i] = 1;
  // Registers hold nothing useful at the start either.
  std::fill(w.arena, w.arena + size, 0x7fdeadbe);
  for (const auto& c : kernel.constants) {
    for (int l = 0; l < kLanes; ++l) {
      const uint64_t value = constant(c, w, l);
      if (c.wide)
        w.reg<uint64_t>(c.vector)[l] = value;
      else
        w.reg<uint32_t>(c.vector)[l] = static_cast<uint32_t>(value);
    }
  }
}

uint64_t Cta::constant(const Kernel::Constant& c, const Warp& warp, int lane) const {
  using C = Kernel::Constant;
  const uint32_t* block = launch->block;
  const uint32_t t = static_cast<uint32_t>(kLanes * warp.index + lane);
  const uint32_t tid[3] = {t % block[0], t / block[0] % block[1], t / (block[0] * block[1])};
  switch (c.kind) {
    case C::kParamAddress: return reinterpret_cast<uint64_t>(launch->params) + c.bits;
    case C::kTid: return tid[c.axis];
    case C::kCtaid: return id[c.axis];
    case C::kNtid: return block[c.axis];
    case C::kNctaid: return launch->grid[c.axis];
    case C::kLane: return static_cast<uint32_t>(lane);
    default: return c.bits;
  }
}

void Cta::run(const Launch& what, uint32_t x, uint32_t y, uint32_t z, uint64_t seed) {
  prepare(what, x, y, z, seed);
  const Kernel& kernel = *what.kernel;
  const int count = static_cast<int>(warps.size());
  const bool chaos = options().chaos;
  int idle = 0;
  for (;;) {
    bool running = false;
    bool progress = false;
    for (int k = 0; k < count; ++k) {
      Warp& w = warps[chaos ? random() % count : static_cast<uint32_t>(k)];
      if (w.wait != Wait::kRun) continue;
      const int quantum = chaos ? 1 + static_cast<int>(random() % 400) : 4000;
      progress |= w.run(quantum);
    }
    for (const Warp& w : warps) running |= w.wait != Wait::kDone;
    if (!running) break;
    progress |= settle_copies(false);
    if (progress) {
      idle = 0;
    } else if (!settle_copies(true) && ++idle > (chaos ? 64 * count : 4)) {
      deadlock();
    }
  }
  if (!copies.empty()) add_finding(kernel.name + ": the CTA ends with copies in flight");
  for (const Warp& w : warps)
    if (w.product_hash != warps[w.index / 4 * 4].product_hash)
      add_finding(kernel.name + ": the warps of a warpgroup issued different products");
  uint64_t executed = 0;
  for (const Warp& w : warps) executed += w.executed;
  counters().instructions += executed;
  counters().products += products;
  counters().copies += bulk_copies;
  counters().stores += bulk_stores;
  products = bulk_copies = bulk_stores = 0;
  ++counters().ctas;
}

void Cta::deadlock() {
  std::string what = launch->kernel->name + ", CTA " + std::to_string(id[0]) + ": deadlock.";
  for (const Warp& w : warps) {
    if (w.wait == Wait::kDone) continue;
    what += "\n  warp " + std::to_string(w.index) + ": ";
    if (w.wait == Wait::kBarrier)
      what += "barrier " + std::to_string(w.barrier) + " (" +
              std::to_string(named[w.barrier].arrived) + " of " +
              std::to_string(named[w.barrier].threads) + "), ";
    what += place(w, w.pc);
    for (const auto& group : w.others)
      what += " [" + hex(group.mask) + " " + place(w, group.pc) + "]";
  }
  throw Error(what);
}

// Barriers in memory.

Mbarrier& Cta::mbarrier(Warp& warp, uint32_t address) {
  if (address % 8 != 0 || address + 8 > shared_end) warp.fail("mbarrier at " + hex(address));
  Mbarrier& barrier = mbarriers[address / 8];
  if (!barrier.valid) warp.fail("mbarrier at " + hex(address) + " was not initialised");
  return barrier;
}

void Cta::complete(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.complete[barrier.phase & 1] = barrier.released;
  ++barrier.phase;
  barrier.pending = barrier.expected;
}

void Cta::arrive(Mbarrier& barrier) {
  --barrier.pending;
  complete(barrier);
}

// Copies.

bool Cta::settle_copies(bool force) {
  bool any = false;
  for (size_t i = 0; i < copies.size();) {
    if (--copies[i].delay <= 0 || (force && !any)) {
      finish_copy(i);
      any = true;
    } else {
      ++i;
    }
  }
  return any;
}

void Cta::finish_copy(size_t index) {
  const PendingCopy copy = copies[index];
  copies.erase(copies.begin() + static_cast<std::ptrdiff_t>(index));
  load_box(*this, *copy.map, copy.at, copy.target);
  const uint32_t bytes = box_bytes(*copy.map);
  async_wrote(copy, bytes);
  Mbarrier& barrier = mbarriers[copy.barrier / 8];
  Clocks released = copy.clocks;
  released.at[32 + copy.warp] = std::max(released.at[32 + copy.warp], copy.number);
  barrier.released.join(released);
  barrier.bytes -= static_cast<int32_t>(bytes);
  if (barrier.bytes <= -(1 << 20)) throw Error("mbarrier tx-count is out of range");
  complete(barrier);
  ++bulk_copies;
}

// Grids.

void run_grid(const Launch& launch) {
  ++counters().launches;
  const uint64_t total = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::string failure;
  std::mutex mutex;
  const auto work = [&] {
    thread_local Cta cta;
    for (;;) {
      const uint64_t i = next++;
      if (i >= total || stop) return;
      try {
        cta.run(launch, static_cast<uint32_t>(i % launch.grid[0]),
                static_cast<uint32_t>(i / launch.grid[0] % launch.grid[1]),
                static_cast<uint32_t>(i / launch.grid[0] / launch.grid[1]), options().seed);
      } catch (const std::exception& error) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (failure.empty()) failure = error.what();
        stop = true;
      }
    }
  };
  const int threads =
      static_cast<int>(std::min<uint64_t>(total, static_cast<uint64_t>(options().threads)));
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (auto& t : pool) t.join();
  if (!failure.empty()) throw Error(failure);
}

}  // namespace covis::emulator
