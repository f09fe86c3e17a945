// TensorRT as this process has it. The plugin links nothing of it: it looks libnvinfer up among the
// libraries that are loaded already, so that one file serves every way in which TensorRT came.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace covis::trt {

using nvinfer1::ILogger;

// False where the loaded TensorRT is of another major version than the one this library was built
// for: their registries and loggers are called differently, and a call would end the process.
bool fits_tensorrt();

// What to tell where it does not fit.
std::string misfit();

// The registry of the process, or null where no TensorRT is loaded or it does not fit.
nvinfer1::IPluginRegistry* registry();

// Set by TensorRT for plugins that travel inside a plan; null goes back to the process's logger.
void set_logger_finder(nvinfer1::ILoggerFinder* finder);

// One line to the logger, and errors to the recorder too: `recorder`, or else the registry's.
void report(ILogger::Severity severity, const std::string& text,
            nvinfer1::IErrorRecorder* recorder = nullptr) noexcept;

}  // namespace covis::trt
