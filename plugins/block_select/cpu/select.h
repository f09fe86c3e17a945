// BlockSelect on the CPU: which key regions each query region keeps. Contract: ../README.md.
#pragma once

#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/parallel_for.h"
#include "common/token_layout.h"

namespace covis {

enum class Pool : int32_t { kMean, kMax };

struct SelectParams {
  DataType type = DataType::kFloat32;
  int64_t batch = 0, heads = 0, tokens = 0, head_size = 0;
  const void* query = nullptr;   // (batch, heads, tokens, head_size), contiguous
  const void* key = nullptr;     // the same
  const int8_t* pair = nullptr;  // (pair_rows, pair_columns), frames or 1
  int64_t pair_rows = 1, pair_columns = 1;
  float keep_ratio = 1.0f;
  float cdf = 0.0f;
  TokenLayout layout;
  Pool pool = Pool::kMean;
  int8_t* level = nullptr;  // output: (batch, heads, q_regions, k_regions)
};

// An empty string, or one line naming the attribute or input and its value.
std::string check_select(const SelectParams& params);

// Needs params that pass check_select. Returns an empty string, or the reason for a failure (out of
// memory). The result does not depend on the number of threads. Memory beyond inputs and output:
// the pooled tokens of one head, or of as many as fit 16 MiB, and 12 bytes per key region for each
// thread.
std::string block_select(const SelectParams& params, const ParallelFor& parallel_for);

}  // namespace covis
