// What the generated classes do where nothing is implemented: note the name, return nothing.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <type_traits>

namespace nvinfer1::recorded {

inline std::set<std::string>& unimplemented() {
  static std::set<std::string> names;
  return names;
}

template <typename Result>
Result nothing(const char* name) {
  unimplemented().insert(name);
  if constexpr (std::is_reference_v<Result>) {
    std::fprintf(stderr, "%s has nothing to return\n", name);
    std::abort();
  } else if constexpr (!std::is_void_v<Result>) {
    return Result{};
  }
}

}  // namespace nvinfer1::recorded
