// Checks of params structs that the ops of the C ABI share. Each returns a CovisStatus and, when it
// is not 0, has written one line to the message. Host code without CUDA, so that tests run it on
// machines without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "block_sparse_attention/cuda/covis_attention.h"
#include "common/token_layout.h"

namespace covis {

// The caller's buffer for one line of text; `text` may be null.
struct Message {
  char* text;
  size_t bytes;
  int fail(int status, const char* format, ...) const __attribute__((format(printf, 3, 4)));
};

// `own` is the size of the struct in this library.
int check_struct_size(uint32_t given, size_t own, const Message& m);

struct NamedSize {
  const char* name;
  int64_t value;
};
// Each size is in 1 .. 2^31 - 1.
int check_sizes(std::initializer_list<NamedSize> sizes, const Message& m);

// The special tokens leave a patch in every frame, and the tokens are at least `least_frames` whole
// frames and the trailing tokens. frame_tokens is at least 1.
int check_layout(const TokenLayout& layout, int64_t tokens, int64_t least_frames, const Message& m);

struct NamedPointer {
  const char* name;
  const void* value;
  uintptr_t alignment;
};
int check_pointers(std::initializer_list<NamedPointer> pointers, const Message& m);

int check_workspace(const void* workspace, uint64_t bytes, uint64_t needed, const Message& m);

}  // namespace covis
