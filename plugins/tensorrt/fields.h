// The ops' attributes: one list an op, from which the fields' names, their checks and their
// serialised form follow.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "common/token_layout.h"

namespace covis::trt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

// Raised when a field is added, removed or changes its meaning. Serialised with each plan.
inline constexpr int32_t kFieldsVersion = 1;
inline constexpr const char* kVersionField = "fields_version";

template <typename Visitor>
void visit_layout(TokenLayout& layout, Visitor& field) {
  TokenLayout::visit(layout, [&](const char* name, int64_t& value, int64_t least) {
    field.integer(name, value, least);
  });
}

// The check that needs several fields.
std::string check_special_tokens(const TokenLayout& layout);

struct AttentionFields {
  static constexpr const char* kName = "BlockSparseAttention";
  static constexpr std::array<const char*, 2> kPrecisions{"full", "fp8"};
  TokenLayout layout;
  float scale = 0.0f;
  int32_t precision = 0;  // index into kPrecisions; the kernels' CovisPrecision

  template <typename Visitor>
  void visit(Visitor& field) {
    visit_layout(layout, field);
    field.number("scale", scale);
    field.choice("precision", precision, kPrecisions);
  }
  std::string check() const { return check_special_tokens(layout); }
};

struct SelectFields {
  static constexpr const char* kName = "BlockSelect";
  static constexpr std::array<const char*, 2> kPools{"mean", "max"};
  TokenLayout layout = kSelectDefaults;
  int32_t pool = 0;  // index into kPools; the kernels' CovisPool

  template <typename Visitor>
  void visit(Visitor& field) {
    visit_layout(layout, field);
    field.choice("pool", pool, kPools);
  }
  std::string check() const { return check_special_tokens(layout); }
};

// The op has no attributes.
struct FarthestFields {
  static constexpr const char* kName = "FarthestFirst";

  template <typename Visitor>
  void visit(Visitor&) {}
  std::string check() const { return ""; }
};

using Choices = std::array<const char*, 2>;

// Lists the fields: without data for getFieldNames, with it for serialisation. The collection
// points into this object and into the visited fields.
class FieldList {
 public:
  void integer(const char* name, int64_t value, int64_t) {
    integers_.push_back(static_cast<int32_t>(value));
    add(name, &integers_.back(), PluginFieldType::kINT32, 1);
  }
  void number(const char* name, float& value) { add(name, &value, PluginFieldType::kFLOAT32, 1); }
  void choice(const char* name, int32_t& value, const Choices& choices) {
    const std::string text = choices[value];
    add(name, choices[value], PluginFieldType::kCHAR, static_cast<int32_t>(text.size()));
  }
  void without_data();
  const PluginFieldCollection* collection();

 private:
  void add(const char* name, const void* data, PluginFieldType type, int32_t length) {
    fields_.emplace_back(name, data, type, length);
  }
  std::deque<int32_t> integers_;  // the layout's, which are wider; a deque keeps their addresses
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_;
};

// Fills fields from a collection, and keeps the first error. While building, absent fields keep
// their defaults; a plan must contain every field and the version.
class FieldReader {
 public:
  FieldReader(const PluginFieldCollection* given, bool complete);
  void integer(const char* name, int64_t& value, int64_t least);
  void number(const char* name, float& value);
  void choice(const char* name, int32_t& value, const Choices& choices);
  std::string finish();  // the first error, or an error for unknown fields, or ""

 private:
  const PluginField* take(const char* name);
  void fail(const std::string& text);
  std::vector<const PluginField*> left_;
  bool complete_;
  std::string error_;
};

// One line of all fields: for the timing cache and the engine inspector.
class FieldText {
 public:
  void integer(const char* name, int64_t value, int64_t) { add(name, std::to_string(value)); }
  void number(const char* name, float& value) { add(name, std::to_string(value)); }
  void choice(const char* name, int32_t& value, const Choices& choices) {
    add(name, choices[value]);
  }
  std::string text;

 private:
  void add(const char* name, const std::string& value) {
    text += (text.empty() ? "" : " ") + std::string(name) + "=" + value;
  }
};

}  // namespace covis::trt
