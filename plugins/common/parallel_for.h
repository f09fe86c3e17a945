// The interface by which a kernel uses the threads of its host (ONNX Runtime, a test). A plain
// struct of two pointers, so that kernels do not depend on a runtime.
#pragma once

#include <cstdint>

namespace covis {

struct ParallelFor {
  // Calls body(argument, i) once for each i in [0, count), on any thread, in any order, and returns
  // when all calls have returned.
  using Body = void (*)(void* argument, int64_t index);
  void (*run)(void* host, int64_t count, Body body, void* argument);
  void* host;
};

}  // namespace covis
