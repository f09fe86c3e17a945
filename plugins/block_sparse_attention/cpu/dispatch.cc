// Which object of tile.cc this processor runs.
#include <cstdlib>
#include <cstring>

#include "block_sparse_attention/cpu/tile.h"

namespace covis::attention {

namespace {

const Kernels& choose() {
#ifdef COVIS_X86
  const char* wanted = std::getenv("COVIS_ISA");
  const auto allowed = [wanted](const char* name) {
    return wanted == nullptr || std::strcmp(wanted, name) == 0;
  };
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4 && allowed("v4")) return kKernelsV4;
  if (v3 && (allowed("v3") || allowed("v4"))) return kKernelsV3;
#endif
  return kKernelsPortable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* instruction_set() {
  const Kernels* chosen = &kernels();
#ifdef COVIS_X86
  if (chosen == &kKernelsV4) return "x86-64-v4";
  if (chosen == &kKernelsV3) return "x86-64-v3";
#endif
  return chosen == &kKernelsPortable ? "portable" : "unknown";
}

}  // namespace covis::attention
