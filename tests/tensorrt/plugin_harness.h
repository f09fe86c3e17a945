// What the plugin's test program drives the library with: its exported functions, fields of
// createPlugin, descriptions of tensors.
#pragma once

#include <NvInfer.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/test.h"

namespace plugin_harness {

using namespace nvinfer1;

inline const char* library_path = nullptr;

// Keeps what the plugin reports, warnings and worse.
class Log final : public ILogger, public ILoggerFinder {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kWARNING) lines_ += std::string(text) + "\n";
  }
  ILogger* findLogger() override { return this; }
  std::string take() { return std::exchange(lines_, ""); }

 private:
  std::string lines_;
};

inline Log& reports() {
  static auto* const one = new Log;
  return *one;
}

template <typename Function>
Function* exported(const char* name) {
  static void* const library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
  void* const found = library == nullptr ? nullptr : dlsym(library, name);
  CHECK(found != nullptr, "%s", dlerror());
  return reinterpret_cast<Function*>(found);
}

inline IPluginCreatorV3One& creator(const std::string& op) {
  int32_t count = 0;
  auto* const* const all =
      exported<IPluginCreatorInterface* const*(int32_t&)>("getCreators")(count);
  for (int32_t i = 0; i < count; ++i) {
    auto& one = static_cast<IPluginCreatorV3One&>(*all[i]);
    if (one.getPluginName() == op) return one;
  }
  std::printf("no creator of %s\n", op.c_str());
  std::abort();
}

// Fields of a call to createPlugin, holding their own data.
class Fields {
 public:
  Fields& integer(const char* name, int32_t value) {
    return add(name, PluginFieldType::kINT32, &value, sizeof(value), 1);
  }
  Fields& number(const char* name, float value) {
    return add(name, PluginFieldType::kFLOAT32, &value, sizeof(value), 1);
  }
  Fields& text(const char* name, const std::string& value) {
    const auto length = static_cast<int32_t>(value.size());
    return add(name, PluginFieldType::kCHAR, value.data(), value.size(), length);
  }
  Fields& add(const char* name, PluginFieldType type, const void* data, size_t bytes,
              int32_t length) {
    // One byte off, as a plan may have it; exactly as long as said, for AddressSanitizer.
    data_.emplace_back(new char[bytes + 1]);
    std::memcpy(data_.back().get() + 1, data, bytes);
    fields_.emplace_back(name, data_.back().get() + 1, type, length);
    return *this;
  }
  std::unique_ptr<IPluginV3> create(const char* op,
                                    TensorRTPhase phase = TensorRTPhase::kBUILD) const {
    const PluginFieldCollection all{static_cast<int32_t>(fields_.size()), fields_.data()};
    return create(op, &all, phase);
  }
  static std::unique_ptr<IPluginV3> create(const char* op, const PluginFieldCollection* all,
                                           TensorRTPhase phase) {
    return std::unique_ptr<IPluginV3>(creator(op).createPlugin("test", all, phase));
  }

 private:
  std::vector<std::shared_ptr<char[]>> data_;
  std::vector<PluginField> fields_;
};

template <typename Capability>
Capability& as(IPluginV3& plugin, PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}
inline IPluginV3OneBuildV2& build(IPluginV3& plugin) {
  return as<IPluginV3OneBuildV2>(plugin, PluginCapabilityType::kBUILD);
}
inline IPluginV3OneRuntime& runtime(IPluginV3& plugin) {
  return as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

inline Dims dims(std::initializer_list<int64_t> sizes) {
  Dims made{static_cast<int32_t>(sizes.size()), {}};
  std::copy(sizes.begin(), sizes.end(), made.d);
  return made;
}

inline PluginTensorDesc desc(DataType type, const Dims& size) {
  return PluginTensorDesc{size, type, TensorFormat::kLINEAR, 0.0f};
}
inline DynamicPluginTensorDesc dynamic(DataType type, const Dims& least, const Dims& most) {
  return DynamicPluginTensorDesc{desc(type, most), least, most, most};
}
inline DynamicPluginTensorDesc dynamic(DataType type, const Dims& size = dims({1, 1, 1, 64})) {
  return dynamic(type, size, size);
}

// 5 special tokens, then 24 patches a frame, one token behind the last frame.
inline Fields frames() {
  Fields fields;
  fields.integer("frame_tokens", 29).integer("special_first", 5).integer("trailing_tokens", 1);
  return fields;
}

}  // namespace plugin_harness
