#include "tensorrt/host.h"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <mutex>

namespace covis::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

// The libnvinfer that this process has already loaded (this code never loads one). The handle is
// never closed: the registry must outlive the creators in it.
struct Library {
  void* handle = RTLD_DEFAULT;  // TensorRT may be linked into the program itself
  int32_t major = 0;            // 0: there is none
};

int is_nvinfer(dl_phdr_info* info, size_t, void* found) {
  const std::string path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  const std::string name = path.substr(path.rfind('/') + 1);
  for (const char* stem : {"libnvinfer.so.", "libnvinfer_lean.so.", "libnvinfer_dispatch.so."}) {
    if (name.rfind(stem, 0) != 0) continue;
    *static_cast<std::string*>(found) = path;
    return 1;
  }
  return 0;
}

Library look() {
  Library made;
  std::string path;
  if (dl_iterate_phdr(is_nvinfer, &path) != 0) {
    void* const handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (handle != nullptr) made.handle = handle;
  }
  using Version = int32_t() noexcept;
  auto* const version = reinterpret_cast<Version*>(dlsym(made.handle, "getInferLibVersion"));
  if (version != nullptr) made.major = version() / 10000;  // 10.15.1 is 101501
  return made;
}

// Searched again at each call until it is found, because TensorRT may be loaded after this library.
Library library() {
  static std::mutex guard;
  static Library loaded;
  const std::lock_guard<std::mutex> lock(guard);
  if (loaded.major == 0) loaded = look();
  return loaded;
}

template <typename Function>
Function* find(const char* name) {
  return reinterpret_cast<Function*>(dlsym(library().handle, name));
}

ILogger* logger() {
  if (!fits_tensorrt()) return nullptr;
  nvinfer1::ILoggerFinder* finder = logger_finder.load();
  if (finder != nullptr) return finder->findLogger();
  auto* const process_logger = find<ILogger*() noexcept>("getLogger");
  return process_logger == nullptr ? nullptr : process_logger();
}

}  // namespace

bool fits_tensorrt() {
  const int32_t major = library().major;
  return major == 0 || major == COVIS_TENSORRT_MAJOR;
}

nvinfer1::IPluginRegistry* registry() {
  if (!fits_tensorrt()) return nullptr;
  auto* const get = find<nvinfer1::IPluginRegistry*() noexcept>("getPluginRegistry");
  return get == nullptr ? nullptr : get();
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder.store(finder); }

std::string misfit() {
  return "covis: this plugin was built for TensorRT " + std::to_string(COVIS_TENSORRT_MAJOR) +
         ", TensorRT " + std::to_string(library().major) +
         " is loaded; build it anew with TENSORRT_ROOT of that TensorRT";
}

void report(ILogger::Severity severity, const std::string& text,
            nvinfer1::IErrorRecorder* recorder) noexcept {
  try {
    ILogger* const to = logger();
    if (to != nullptr) to->log(severity, text.c_str());
    if (severity > ILogger::Severity::kERROR) return;
    if (recorder == nullptr && registry() != nullptr) recorder = registry()->getErrorRecorder();
    if (recorder != nullptr) {
      // Longer ones are the recorder's to cut, and some refuse them instead.
      const std::string line = text.substr(0, nvinfer1::IErrorRecorder::kMAX_DESC_LENGTH);
      recorder->reportError(nvinfer1::ErrorCode::kINVALID_ARGUMENT, line.c_str());
    }
  } catch (...) {  // nowhere left to report it
  }
}

}  // namespace covis::trt
