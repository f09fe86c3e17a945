#include "kernels.h"

#include <dlfcn.h>

namespace covis::trt {
namespace {

constexpr const char* kLibrary = "libcovis_kernels.so";
constexpr int kAbi = 1;

template <typename Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

Kernels load() {
  Kernels k;
  // A name without a slash: the loader searches this library's RUNPATH.
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    k.error = std::string("the CUDA kernels cannot be loaded (") +
              (why == nullptr ? "no reason given" : why) + "); put " + kLibrary +
              " beside libcovis_trt.so";
    return k;
  }
  decltype(&covis_abi_version) abi = nullptr;
  if (!find(library, "covis_abi_version", &abi) || abi() != kAbi) {
    k.error = std::string(kLibrary) + " has ABI " + (abi ? std::to_string(abi()) : "none") +
              ", this plugin needs " + std::to_string(kAbi) + "; build both from one checkout";
    return k;
  }
  Kernels found;
  if (!find(library, "covis_attention_workspace", &found.attention_workspace) ||
      !find(library, "covis_attention_launch", &found.attention_launch) ||
      !find(library, "covis_select_workspace", &found.select_workspace) ||
      !find(library, "covis_select_launch", &found.select_launch)) {
    k.error = std::string(kLibrary) + " is not complete; build it from this checkout";
    return k;
  }
  return found;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels loaded = load();
  return loaded;
}

}  // namespace covis::trt
