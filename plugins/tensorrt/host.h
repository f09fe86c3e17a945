// Access to the TensorRT of this process. The plugin does not link it: it finds libnvinfer among
// the loaded libraries, so that one file works however TensorRT was loaded.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace covis::trt {

using nvinfer1::ILogger;

// False where the loaded TensorRT is of another major version than the one this library was built
// for: their registries and loggers are called differently, and a call would end the process.
bool fits_tensorrt();

// The error message where it does not fit.
std::string misfit();

// The registry of the process, or null where no TensorRT is loaded or it does not fit.
nvinfer1::IPluginRegistry* registry();

// Called by TensorRT for plugins that are serialised in a plan; null restores the process's logger.
void set_logger_finder(nvinfer1::ILoggerFinder* finder);

// One line to the logger, and errors to the recorder too: `recorder`, or else the registry's.
void report(ILogger::Severity severity, const std::string& text,
            nvinfer1::IErrorRecorder* recorder = nullptr) noexcept;

}  // namespace covis::trt
