// What holds for all launches: options, counters, memory that may be touched, findings.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace covis::emulator {

// How asynchronous work is timed, and what is checked beyond results.
struct Options {
  bool lazy_wgmma = true;   // products are computed when they are waited for, else when issued
  bool lazy_copies = true;  // copies complete some time later, in any order; else at once
  bool chaos = false;       // warps, lanes and quanta in random order
  bool checks = true;       // registers in flight, missing fences, proxies, uninitialised memory
  bool races = false;       // happens-before between warps, in shared memory
  int fp8_bits = 0;         // mantissa bits that an FP8 sum keeps; 0 = float32
  uint64_t seed = 1;
  int threads = 2;  // of the host
  int multiprocessors = 132;
  uint64_t max_instructions = 0;  // a warp; 0 = no limit
};
Options& options();

struct Counters {
  std::atomic<uint64_t> launches{0}, ctas{0}, instructions{0}, products{0}, copies{0}, stores{0};
};
Counters& counters();

// Global memory that kernels may touch.
struct Allocation {
  uint64_t begin, end;
  bool writable;
};
const std::vector<Allocation>& allocations();  // by address
void add_allocation(uint64_t address, uint64_t bytes, bool writable);
void clear_allocations();
// Whether [address, address + bytes) lies inside one allocation that may be read, or written.
bool allocated(uint64_t address, uint64_t bytes, bool write);

// Findings that did not stop a run, one line each, each once.
void add_finding(const std::string& line);
std::vector<std::string> findings();
void clear_findings();

}  // namespace covis::emulator
