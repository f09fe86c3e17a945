#include "tensorrt/fields.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace covis::trt {
namespace {

const char* type_name(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT16: return "kFLOAT16";
    case PluginFieldType::kFLOAT32: return "kFLOAT32";
    case PluginFieldType::kFLOAT64: return "kFLOAT64";
    case PluginFieldType::kINT8: return "kINT8";
    case PluginFieldType::kINT16: return "kINT16";
    case PluginFieldType::kINT32: return "kINT32";
    case PluginFieldType::kINT64: return "kINT64";
    case PluginFieldType::kCHAR: return "kCHAR";
    default: return "another type";
  }
}

// Data in plans is not guaranteed to be aligned.
template <typename T>
T load(const PluginField& field) {
  T value;
  std::memcpy(&value, field.data, sizeof(T));
  return value;
}

std::string quoted(const std::string& text) {
  std::string shown = text.substr(0, 40);
  for (char& c : shown) c = c >= ' ' && c <= '~' ? c : '?';
  return '"' + shown + '"';
}

std::string value_of(const char* name, const std::string& value) {
  return std::string(name) + " is " + value;
}

}  // namespace

std::string check_special_tokens(const TokenLayout& layout) {
  if (layout.has_patches()) return "";
  return "special_first " + std::to_string(layout.special_first) + " and special_last " +
         std::to_string(layout.special_last) + " leave no patch of frame_tokens " +
         std::to_string(layout.frame_tokens);
}

void FieldList::without_data() {
  for (PluginField& field : fields_) {
    field.data = nullptr;
    field.length = field.type == PluginFieldType::kCHAR ? 0 : 1;
  }
}

const PluginFieldCollection* FieldList::collection() {
  collection_ = PluginFieldCollection{static_cast<int32_t>(fields_.size()), fields_.data()};
  return &collection_;
}

FieldReader::FieldReader(const PluginFieldCollection* given, bool complete) : complete_(complete) {
  if (given == nullptr || given->nbFields < 0 ||
      (given->nbFields > 0 && given->fields == nullptr)) {
    fail("the collection of fields is null");
    return;
  }
  for (int32_t i = 0; i < given->nbFields; ++i) {
    const PluginField& field = given->fields[i];
    if (field.name == nullptr) {
      fail("field " + std::to_string(i) + " has no name");
    } else {
      left_.push_back(&field);
    }
  }
  if (complete_) {
    int64_t version = 0;
    integer(kVersionField, version, 1);
    if (error_.empty() && version != kFieldsVersion) {
      fail("the plan was made by another version of this plugin (fields " +
           std::to_string(version) + ", this one has " + std::to_string(kFieldsVersion) +
           "); build the engine again");
    }
  }
}

void FieldReader::fail(const std::string& text) {
  if (error_.empty()) error_ = text;
}

const PluginField* FieldReader::take(const char* name) {
  const PluginField* found = nullptr;
  std::vector<const PluginField*> others;
  for (const PluginField* field : left_) {
    if (std::string(field->name) != name) {
      others.push_back(field);
    } else if (found != nullptr) {
      fail(std::string("field ") + name + " is given twice");
    } else {
      found = field;
    }
  }
  left_ = others;
  if (found == nullptr) {
    if (complete_) fail(std::string("field ") + name + " is missing; build the engine again");
    return nullptr;
  }
  if (found->length < 0 || (found->length > 0 && found->data == nullptr)) {
    fail(std::string("field ") + name + " has no data");
    return nullptr;
  }
  return found;
}

void FieldReader::integer(const char* name, int64_t& value, int64_t least) {
  const PluginField* const field = take(name);
  if (field == nullptr) return;
  const bool wide = field->type == PluginFieldType::kINT64;
  if ((!wide && field->type != PluginFieldType::kINT32) || field->length != 1) {
    return fail(std::string("field ") + name + " is " + std::to_string(field->length) + " of " +
                type_name(field->type) + ", must be one kINT32 or kINT64");
  }
  const int64_t given = wide ? load<int64_t>(*field) : load<int32_t>(*field);
  if (given < least || given > std::numeric_limits<int32_t>::max()) {
    return fail(value_of(name, std::to_string(given)) + ", must be " + std::to_string(least) +
                " to 2147483647");
  }
  value = given;
}

void FieldReader::number(const char* name, float& value) {
  const PluginField* const field = take(name);
  if (field == nullptr) return;
  if (field->type != PluginFieldType::kFLOAT32 || field->length != 1) {
    return fail(std::string("field ") + name + " is " + std::to_string(field->length) + " of " +
                type_name(field->type) + ", must be one kFLOAT32");
  }
  value = load<float>(*field);
  if (!(value >= 0.0f) || !std::isfinite(value)) {
    fail(value_of(name, std::to_string(value)) + ", must be finite and 0 or more");
  }
}

void FieldReader::choice(const char* name, int32_t& value, const Choices& choices) {
  const PluginField* const field = take(name);
  if (field == nullptr) return;
  if (field->type != PluginFieldType::kCHAR) {
    return fail(std::string("field ") + name + " is " + type_name(field->type) + ", must be kCHAR");
  }
  std::string text(static_cast<const char*>(field->data), field->length);
  while (!text.empty() && text.back() == '\0') text.pop_back();  // some callers count the zero
  for (size_t i = 0; i < choices.size(); ++i) {
    if (text == choices[i]) {
      value = static_cast<int32_t>(i);
      return;
    }
  }
  fail(value_of(name, quoted(text)) + ", must be \"" + choices[0] + "\" or \"" + choices[1] + '"');
}

std::string FieldReader::finish() {
  if (error_.empty() && !left_.empty()) {
    fail("field " + quoted(left_.front()->name) + " is not known");
  }
  return error_;
}

}  // namespace covis::trt
