// The ops' attributes: one list an op, from which the fields' names, their checks and their
// serialised form follow.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace covis::trt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

// Raised when a field is added, removed or given another meaning. Plans carry it.
inline constexpr int32_t kFieldsVersion = 1;
inline constexpr const char* kVersionField = "fields_version";

struct Layout {
  int32_t frame_tokens = 1, special_first = 0, special_last = 0, trailing_tokens = 0;
  int32_t q_block = 1, k_block = 1;

  template <typename Visitor>
  void visit(Visitor& field) {
    field.integer("frame_tokens", frame_tokens, 1);
    field.integer("special_first", special_first, 0);
    field.integer("special_last", special_last, 0);
    field.integer("trailing_tokens", trailing_tokens, 0);
    field.integer("q_block", q_block, 1);
    field.integer("k_block", k_block, 1);
  }

  int64_t patches() const { return int64_t{frame_tokens} - special_first - special_last; }
  // Patch tokens of a sequence of S tokens, or -1 where S is not whole frames.
  int64_t patch_tokens(int64_t tokens) const {
    const int64_t body = tokens - trailing_tokens;
    return body < 0 || body % frame_tokens != 0 ? -1 : body / frame_tokens * patches();
  }
  std::string check() const;  // what single fields cannot tell
};

struct AttentionFields {
  static constexpr const char* kName = "BlockSparseAttention";
  static constexpr std::array<const char*, 2> kPrecisions{"full", "fp8"};
  Layout layout;
  float scale = 0.0f;
  int32_t precision = 0;  // index into kPrecisions; the kernels' CovisPrecision

  template <typename Visitor>
  void visit(Visitor& field) {
    layout.visit(field);
    field.number("scale", scale);
    field.choice("precision", precision, kPrecisions);
  }
};

struct SelectFields {
  static constexpr const char* kName = "BlockSelect";
  static constexpr std::array<const char*, 2> kPools{"mean", "max"};
  Layout layout{1, 0, 0, 0, 128, 64};
  int32_t pool = 0;  // index into kPools; the kernels' CovisPool

  template <typename Visitor>
  void visit(Visitor& field) {
    layout.visit(field);
    field.choice("pool", pool, kPools);
  }
};

using Choices = std::array<const char*, 2>;

// Lists the fields: without data for getFieldNames, with it for serialisation. The collection
// points into this object and into the visited fields.
class FieldList {
 public:
  void integer(const char* name, int32_t& value, int32_t) {
    add(name, &value, PluginFieldType::kINT32, 1);
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
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_;
};

// Fills fields from a collection, and keeps the first thing wrong with it. While building, what is
// absent has its default; a plan must hold every field and the version.
class FieldReader {
 public:
  FieldReader(const PluginFieldCollection* given, bool complete);
  void integer(const char* name, int32_t& value, int32_t least);
  void number(const char* name, float& value);
  void choice(const char* name, int32_t& value, const Choices& choices);
  std::string finish();  // the error, or that a field is left over, or ""

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
  void integer(const char* name, int32_t& value, int32_t) { add(name, std::to_string(value)); }
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
