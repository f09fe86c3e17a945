// Cases with buffers of exactly the right size (so that AddressSanitizer sees every step outside),
// and the ops by their definitions in float64.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "block_select/cpu/select.h"
#include "block_sparse_attention/cpu/attention.h"

namespace covis::test {

using Random = std::mt19937;

// Tokens in one of the types, and what they are in float64.
struct Tokens {
  Tokens(DataType type, int64_t count, Random& random);
  std::unique_ptr<char[]> bytes;
  std::vector<double> values;
};

struct AttentionCase {
  AttentionCase(DataType type, int64_t batch, int64_t heads, int64_t tokens, int64_t head_size,
                const TokenLayout& layout, double density, bool per_head, uint32_t seed);
  // Largest |difference| between the kernel's output and the definition.
  double error(const attention::Kernels& kernels) const;
  std::vector<double> definition() const;
  std::vector<double> run(const attention::Kernels& kernels, int threads) const;

  AttentionParams params;  // all but `output`
  Tokens q, k, v;
  std::unique_ptr<int8_t[]> level;
};

// The patch number of each token, -1 for special and trailing ones.
std::vector<int64_t> patch_numbers(const TokenLayout& layout, int64_t tokens);

double read(DataType type, const void* from, int64_t index);

// A ParallelFor of its own threads, which start all at once.
class ThreadTeam {
 public:
  explicit ThreadTeam(int threads) : threads_(threads) {}
  ParallelFor parallel_for() { return {run, this}; }

 private:
  static void run(void* host, int64_t count, ParallelFor::Body body, void* argument);
  int threads_;
};

// The kernel tables that this machine can run.
std::vector<const attention::Kernels*> runnable_kernels();

}  // namespace covis::test
