// The emulator's own C ABI: PTX, options, memory, findings.
#include "fake_cuda.h"
#include "options.h"

#define EMULATOR_API extern "C" __attribute__((visibility("default")))

namespace emulator = covis::emulator;

// Loads the kernels of a PTX file, in place of loaded ones of the same names. Null, or what is
// wrong.
EMULATOR_API const char* emulator_load_ptx(const char* path) {
  static std::string error;
  try {
    auto module = emulator::load_module(path);
    emulator::Runtime& runtime = emulator::runtime();
    for (auto& [name, kernel] : module->kernels) runtime.kernels[name] = kernel.get();
    runtime.modules.push_back(std::move(module));
    return nullptr;
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
}

EMULATOR_API void emulator_allow(uint64_t address, uint64_t bytes, int writable) {
  emulator::add_allocation(address, bytes, writable != 0);
}
EMULATOR_API void emulator_forget_memory() { emulator::clear_allocations(); }

// Returns 0, or 1 where there is no such option.
EMULATOR_API int emulator_option(const char* name, uint64_t value) {
  emulator::Options& o = emulator::options();
  const std::map<std::string, bool*> switches{{"lazy_wgmma", &o.lazy_wgmma},
                                              {"lazy_copies", &o.lazy_copies},
                                              {"chaos", &o.chaos},
                                              {"checks", &o.checks},
                                              {"races", &o.races}};
  const std::map<std::string, int*> counts{
      {"fp8_bits", &o.fp8_bits}, {"threads", &o.threads}, {"multiprocessors", &o.multiprocessors}};
  const std::map<std::string, uint64_t*> numbers{{"seed", &o.seed},
                                                 {"max_instructions", &o.max_instructions}};
  if (const auto at = switches.find(name); at != switches.end())
    *at->second = value != 0;
  else if (const auto at = counts.find(name); at != counts.end())
    *at->second = static_cast<int>(value);
  else if (const auto at = numbers.find(name); at != numbers.end())
    *at->second = value;
  else
    return 1;
  return 0;
}

// Why the last launch failed; forgets it.
EMULATOR_API const char* emulator_take_error() {
  static std::string error;
  emulator::Runtime& runtime = emulator::runtime();
  error = runtime.error;
  runtime.error.clear();
  runtime.last = cudaSuccess;
  return error.c_str();
}

// What the checkers saw since the last call, a line each.
EMULATOR_API const char* emulator_take_findings() {
  static std::string all;
  all.clear();
  for (const auto& line : emulator::findings()) all += line + "\n";
  emulator::clear_findings();
  return all.c_str();
}

// launches, CTAs, warp instructions, wgmma and mma, bulk copies, bulk stores.
EMULATOR_API void emulator_counters(uint64_t* out) {
  const auto& c = emulator::counters();
  const uint64_t values[] = {c.launches, c.ctas, c.instructions, c.products, c.copies, c.stores};
  for (int i = 0; i < 6; ++i) out[i] = values[i];
}
