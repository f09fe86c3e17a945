#include "tensorrt/kernels.h"

#include <dlfcn.h>

#include <vector>

namespace covis::trt {
namespace {

constexpr const char* kLibrary = "libcovis_kernels.so";
constexpr int kAbi = 1;

template <typename Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// The folder of this library, then the build tree's ../cuda. Full paths, and no search by the
// loader: its path may lead to a library that others can write. A RUNPATH would be ignored where a
// tool intercepts dlopen.
std::vector<std::string> places() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&kernels), &self) == 0 || self.dli_fname == nullptr) {
    return {};
  }
  const std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {};  // a search has found this library, nobody knows where
  const std::string folder = path.substr(0, slash + 1);
  return {folder, folder + "../cuda/"};
}

Kernels load() {
  Kernels k;
  void* library = nullptr;
  for (const std::string& place : places()) {
    if (library == nullptr) library = dlopen((place + kLibrary).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    const char* const why = dlerror();
    k.error = std::string(kLibrary) + " must lie beside libcovis_trt.so and cannot be loaded: " +
              (why == nullptr ? "no reason given" : why);
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
      !find(library, "covis_select_launch", &found.select_launch) ||
      !find(library, "covis_farthest_workspace", &found.farthest_workspace) ||
      !find(library, "covis_farthest_launch", &found.farthest_launch)) {
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
