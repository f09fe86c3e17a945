#include "cuda/checks.h"

#include <cstdarg>
#include <cstdio>
#include <limits>

namespace covis {
namespace {

using Long = long long;  // what %lld prints

}  // namespace

int Message::fail(int status, const char* format, ...) const {
  if (text != nullptr && bytes > 0) {
    va_list args;
    va_start(args, format);
    std::vsnprintf(text, bytes, format, args);
    va_end(args);
  }
  return status;
}

int check_struct_size(uint32_t given, size_t own, const Message& m) {
  if (given == own) return kCovisOk;
  return m.fail(kCovisBadArgument, "struct_size is %u, this library has %zu; rebuild the caller",
                given, own);
}

int check_sizes(std::initializer_list<NamedSize> sizes, const Message& m) {
  for (const NamedSize& size : sizes) {
    if (size.value < 1 || size.value > std::numeric_limits<int32_t>::max()) {
      return m.fail(kCovisBadArgument, "%s is %lld, not in 1 .. 2^31 - 1", size.name,
                    static_cast<Long>(size.value));
    }
  }
  return kCovisOk;
}

int check_layout(const TokenLayout& layout, int64_t tokens, int64_t least_frames,
                 const Message& m) {
  if (!layout.has_patches()) {
    return m.fail(kCovisBadArgument,
                  "special_first %lld and special_last %lld leave no patch of frame_tokens %lld",
                  static_cast<Long>(layout.special_first), static_cast<Long>(layout.special_last),
                  static_cast<Long>(layout.frame_tokens));
  }
  if (!layout.divides(tokens) || layout.frames(tokens) < least_frames) {
    return m.fail(kCovisBadArgument,
                  "tokens %lld are not frames of frame_tokens %lld and trailing_tokens %lld",
                  static_cast<Long>(tokens), static_cast<Long>(layout.frame_tokens),
                  static_cast<Long>(layout.trailing_tokens));
  }
  return kCovisOk;
}

int check_pointers(std::initializer_list<NamedPointer> pointers, const Message& m) {
  for (const NamedPointer& pointer : pointers) {
    if (pointer.value == nullptr) {
      return m.fail(kCovisBadArgument, "%s is a null pointer", pointer.name);
    }
    if (reinterpret_cast<uintptr_t>(pointer.value) % pointer.alignment != 0) {
      return m.fail(kCovisBadArgument, "%s is not aligned to %d bytes (%p)", pointer.name,
                    static_cast<int>(pointer.alignment), pointer.value);
    }
  }
  return kCovisOk;
}

int check_workspace(const void* workspace, uint64_t bytes, uint64_t needed, const Message& m) {
  if (bytes < needed) {
    return m.fail(kCovisWorkspace, "workspace has %llu bytes, %llu are needed",
                  static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(needed));
  }
  if (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return m.fail(kCovisWorkspace, "workspace %p is null or not 256-byte aligned", workspace);
  }
  return kCovisOk;
}

}  // namespace covis
