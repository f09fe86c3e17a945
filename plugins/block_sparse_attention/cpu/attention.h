// BlockSparseAttention on the CPU. Contract: ../README.md. Independent of any runtime: raw
// pointers, a plain struct, and a callback for threads.
#pragma once

#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/parallel_for.h"
#include "common/token_layout.h"

namespace covis {

namespace attention {
struct Kernels;
}

struct AttentionParams {
  DataType type = DataType::kFloat32;
  int64_t batch = 0, heads = 0, tokens = 0, head_size = 0;
  // (batch, heads, tokens, head_size) each, contiguous; output may not overlap the inputs.
  const void* query = nullptr;
  const void* key = nullptr;
  const void* value = nullptr;
  void* output = nullptr;
  // (level_batch, level_heads, level_rows, level_columns), contiguous, values 0, 1, 2.
  const int8_t* level = nullptr;
  int64_t level_batch = 1, level_heads = 1, level_rows = 1, level_columns = 1;
  TokenLayout layout;
  float scale = 0.0f;  // 0: 1 / sqrt(head_size)
};

// Each check returns an empty string, or one line naming the attribute or input and its value.
std::string check_scale(float scale);

// The dimensions are at least 1 and p.layout fits the tokens (check_tokens). The level map's values
// are read, too; no other pointer is dereferenced.
std::string check_attention(const AttentionParams& params);

// Needs params that pass check_attention. Returns an empty string, or the reason for a failure (out
// of memory). The result does not depend on the number of threads nor on their timing. Memory
// beyond inputs and outputs: under 0.7 MiB per thread for head sizes up to 256 (2.1 MiB up to
// 1024), and under 9 MiB in all for the order of work.
std::string block_sparse_attention(const AttentionParams& params, const ParallelFor& parallel_for);

// The same with the code for a given instruction set (tile.h).
std::string block_sparse_attention(const AttentionParams& params, const ParallelFor& parallel_for,
                                   const attention::Kernels& kernels);

}  // namespace covis
