#include "host.h"

#include <dlfcn.h>

#include <atomic>

namespace covis::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

// A function of the libnvinfer that is loaded (never loads one). The handle is kept for good: the
// registry must outlive the creators in it.
template <typename Function>
Function* find(const char* name) {
  static void* const library = [] {
    const std::string major = std::to_string(NV_TENSORRT_MAJOR);
    for (const char* stem : {"libnvinfer.so.", "libnvinfer_lean.so.", "libnvinfer_dispatch.so."}) {
      void* handle = dlopen((stem + major).c_str(), RTLD_LAZY | RTLD_NOLOAD);
      if (handle != nullptr) return handle;
    }
    return static_cast<void*>(RTLD_DEFAULT);  // linked into the program itself
  }();
  return reinterpret_cast<Function*>(dlsym(library, name));
}

ILogger* logger() {
  nvinfer1::ILoggerFinder* finder = logger_finder.load();
  if (finder != nullptr) return finder->findLogger();
  static auto* const process_logger = find<ILogger*() noexcept>("getLogger");
  return process_logger == nullptr ? nullptr : process_logger();
}

}  // namespace

nvinfer1::IPluginRegistry* registry() {
  auto* const get = find<nvinfer1::IPluginRegistry*() noexcept>("getPluginRegistry");
  return get == nullptr ? nullptr : get();
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder.store(finder); }

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
  } catch (...) {  // nothing left to tell it to
  }
}

}  // namespace covis::trt
