// The kernels' tile walk on the host, for tests without a GPU: the same plan, the same key lists in
// the same order, the same masks and the same online softmax; only the matrix units are replaced by
// loops. Compiled into a small shared library that the Python tests load.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "block_sparse_attention/cuda/host/low.h"
#include "block_sparse_attention/cuda/launch_plan.h"
#include "block_sparse_attention/cuda/tiles.h"
#include "block_sparse_attention/cuda/walk.h"

namespace {

using covis::Chunk;
using covis::Geometry;
using covis::Piece;
using covis::QueryTile;

using covis::host::from_e4m3;
using covis::host::Low;
using covis::host::Rows;

int32_t key_token(const Geometry& g, const Chunk& chunk, int32_t index) {
  if (chunk.special) return covis::special_token(g, chunk.row + index);
  if (chunk.low) return covis::patch_token(g, chunk.patch + index);
  return chunk.frame * g.frame_tokens + g.special_first + chunk.row + index;
}

// The state of a query row, as in softmax.cuh and hopper_low.cuh.
struct Row {
  float top = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;
  std::vector<float> acc;

  // Updates the maximum to `high`; returns the shift of the exponents.
  float rescale(float high, float scale_log2) {
    const float shift = high == -std::numeric_limits<float>::infinity() ? 0.0f : high * scale_log2;
    const float decay = std::exp2(top * scale_log2 - shift);
    top = high;
    sum *= decay;
    for (float& value : acc) value *= decay;
    return shift;
  }
};

// A low chunk in FP8, in the units of hopper_low.cuh.
void attend_low(const Geometry& g, const Low& low, int64_t head, int64_t query, const Chunk& chunk,
                float scale_log2, Row* state) {
  const int dim = static_cast<int>(state->acc.size());
  const int64_t patches = g.total_patches;
  const int64_t cells = covis::cells_of(g);
  const float factor = std::max(low.q_scale[head * cells + query / covis::kPiece] *
                                    low.k_scale[head * cells + chunk.row / covis::kPiece],
                                1e-37f);
  float scores[covis::kPiece];
  float high = state->top;
  for (int i = 0; i < chunk.count; ++i) {
    scores[i] = 0.0f;
    for (int d = 0; d < dim; ++d) {
      scores[i] += from_e4m3(low.q8[(head * patches + query) * dim + d]) *
                   from_e4m3(low.k8[(head * patches + chunk.patch + i) * dim + d]);
    }
    high = std::max(high, scores[i] * factor);
  }
  const float shift = state->rescale(high, scale_log2);
  for (int i = 0; i < chunk.count; ++i) {
    const float weight = std::exp2(scores[i] * (factor * scale_log2) - shift + 8.0f);
    state->sum += weight;
    const float rounded = from_e4m3(covis::to_e4m3(weight));
    const int64_t key = chunk.patch + i;
    const int64_t column = key / 16 * 16 + covis::value_slot(static_cast<int>(key % 16));
    for (int d = 0; d < dim; ++d) {
      state->acc[d] +=
          rounded * from_e4m3(low.v8[(head * dim + d) * cells * covis::kPiece + column]);
    }
  }
}

void leave_low(const Geometry& g, const Low& low, int64_t head, int64_t query, Row* state) {
  const size_t dim = state->acc.size();
  state->top += low.q_dot_mean[head * g.total_patches + query];
  state->sum /= covis::kWeightScale;
  for (size_t d = 0; d < dim; ++d) {
    state->acc[d] *= low.v_scale[head * dim + d] / covis::kWeightScale;
  }
}

// One query row over the chunks of its tile: the online softmax of softmax.cuh, one chunk per step.
// Low chunks are computed in FP8 where `low` is given, else exactly.
void attend(const Geometry& g, const CovisAttentionParams& p, const QueryTile& tile,
            const Piece& piece, int row, float scale, const std::vector<Chunk>& chunks,
            const Low* low, float* out) {
  const int dim = static_cast<int>(p.head_dim);
  const Rows q{static_cast<const float*>(p.q), p.q_stride};
  const Rows k{static_cast<const float*>(p.k), p.k_stride};
  const Rows v{static_cast<const float*>(p.v), p.v_stride};
  const int64_t token = tile.special ? covis::special_token(g, piece.patch + row)
                                     : static_cast<int64_t>(piece.frame) * g.frame_tokens +
                                           g.special_first + piece.row + row;
  const float* query = q.at(tile.batch, tile.head, token);
  const int8_t* level = covis::level_of(g, p.level, tile.batch, tile.head);
  const float infinity = std::numeric_limits<float>::infinity();
  const float scale_log2 = scale * 1.44269504088896340736f;
  const int64_t head_row = static_cast<int64_t>(tile.batch) * g.heads + tile.head;
  Row state;
  state.acc.assign(dim, 0.0f);
  bool in_low = false;
  for (const Chunk& chunk : chunks) {
    if (low != nullptr && chunk.low) {
      attend_low(g, *low, head_row, piece.patch + row, chunk, scale_log2, &state);
      in_low = true;
      continue;
    }
    if (in_low) leave_low(g, *low, head_row, piece.patch + row, &state);
    in_low = false;
    float scores[covis::kPiece];
    float high = state.top;
    for (int i = 0; i < chunk.count; ++i) {
      scores[i] = -infinity;
      if (chunk.partial && !covis::pair_computed(g, level, piece.patch + row, chunk.patch + i)) {
        continue;
      }
      const float* key = k.at(tile.batch, tile.head, key_token(g, chunk, i));
      scores[i] = 0.0f;
      for (int d = 0; d < dim; ++d) scores[i] += query[d] * key[d];
      high = std::max(high, scores[i]);
    }
    const float shift = state.rescale(high, scale_log2);
    for (int i = 0; i < chunk.count; ++i) {
      const float weight = std::exp2(scores[i] * scale_log2 - shift);
      if (scores[i] == -infinity) continue;
      const float* value = v.at(tile.batch, tile.head, key_token(g, chunk, i));
      state.sum += weight;
      for (int d = 0; d < dim; ++d) state.acc[d] += weight * value[d];
    }
  }
  if (in_low) leave_low(g, *low, head_row, piece.patch + row, &state);
  float* target =
      out + tile.batch * p.o_stride[0] + tile.head * p.o_stride[1] + token * p.o_stride[2];
  const bool dead = state.top == -infinity && state.sum == 0.0f;
  for (int d = 0; d < dim; ++d) target[d] = dead ? 0.0f : state.acc[d] / state.sum;
}

}  // namespace

extern "C" {

// Plans for an invented device, for the tests of checks and messages.
int covis_host_launch_plan(const CovisAttentionParams* params, int capability, int pointers,
                           uint64_t* workspace_bytes, int64_t* tiles, int* hopper, char* message,
                           size_t message_bytes) {
  covis::LaunchPlan plan;
  const int status = covis::make_launch_plan(*params, covis::Device{capability, 132}, pointers != 0,
                                             covis::Message{message, message_bytes}, &plan);
  *workspace_bytes = plan.workspace.bytes;
  *tiles = plan.tiles;
  *hopper = plan.hopper ? 1 : 0;
  return status;
}

// The attention of float32 tensors by the walk of a kernel with tiles of `width` pieces. `written`
// (B, H, S) counts how often each output row was written: it must be once. `fp8` 1 walks the lists
// of the FP8 kernels and computes exactly, 2 computes level 1 in FP8 as well.
int covis_host_attention(const CovisAttentionParams* params, int width, int fp8, int32_t* written) {
  const Geometry g = covis::make_geometry(*params, width);
  std::vector<Low> low;
  if (fp8 == 2) low.emplace_back(g, *params);
  const float scale = params->scale == 0.0f ? 1.0f / std::sqrt(static_cast<float>(params->head_dim))
                                            : params->scale;
  const int32_t rows = g.batch * g.heads * covis::rows_per_head(g);
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t slot = 0; slot < g.slots; ++slot) {
      const QueryTile tile = covis::tile_of_row(g, row, slot);
      if (covis::tile_piece(g, tile, 0).count == 0) continue;
      std::vector<Chunk> chunks;
      covis::WalkScratch scratch;
      covis::start_walk(g, params->level, tile, &scratch);
      covis::walk_keys(g, scratch, fp8 != 0, [&](const Chunk& chunk) { chunks.push_back(chunk); });
      for (int index = 0; index < width; ++index) {
        const Piece piece = covis::tile_piece(g, tile, index);
        for (int r = 0; r < piece.count; ++r) {
          attend(g, *params, tile, piece, r, scale, chunks, low.empty() ? nullptr : low.data(),
                 static_cast<float*>(params->o));
          const int64_t token = tile.special ? covis::special_token(g, piece.patch + r)
                                             : static_cast<int64_t>(piece.frame) * g.frame_tokens +
                                                   g.special_first + piece.row + r;
          ++written[(static_cast<int64_t>(tile.batch) * g.heads + tile.head) * params->tokens +
                    token];
        }
      }
    }
  }
  return 0;
}

// The FP8 copies of float32 tensors, in the workspace's layout.
void covis_host_quantize(const CovisAttentionParams* params, uint8_t* q8, uint8_t* k8, uint8_t* v8,
                         float* q_scale, float* k_scale, float* v_scale, float* k_mean) {
  const Low low(covis::make_geometry(*params, 3), *params);
  std::copy(low.q8.begin(), low.q8.end(), q8);
  std::copy(low.k8.begin(), low.k8.end(), k8);
  std::copy(low.v8.begin(), low.v8.end(), v8);
  std::copy(low.q_scale.begin(), low.q_scale.end(), q_scale);
  std::copy(low.k_scale.begin(), low.k_scale.end(), k_scale);
  std::copy(low.v_scale.begin(), low.v_scale.end(), v_scale);
  std::copy(low.k_mean.begin(), low.k_mean.end(), k_mean);
}

int covis_host_e4m3(float x) { return covis::to_e4m3(x); }
int covis_host_value_slot(int key) { return covis::value_slot(key); }
int covis_host_value_key(int slot) { return covis::value_key(slot); }

// The cost of a map according to the walk: chunks and keys computed for all tiles of all heads, and
// the numbers of chunks that are short or partial, or low. For the tests of padding and of the
// lists.
void covis_host_cost(const CovisAttentionParams* params, int width, int fp8, int64_t* counts) {
  const Geometry g = covis::make_geometry(*params, width);
  std::memset(counts, 0, 7 * sizeof(int64_t));
  const int32_t rows = g.batch * g.heads * covis::rows_per_head(g);
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t slot = 0; slot < g.slots; ++slot) {
      const QueryTile tile = covis::tile_of_row(g, row, slot);
      int64_t pieces = 0;
      int64_t queries = 0;
      for (int index = 0; index < width; ++index) {
        const Piece piece = covis::tile_piece(g, tile, index);
        pieces += piece.count > 0;
        queries += piece.count;
      }
      if (pieces == 0) continue;
      bool masked = false;
      bool ordered = true;
      covis::WalkScratch scratch;
      covis::start_walk(g, params->level, tile, &scratch);
      bool wide = false;
      covis::walk_keys(g, scratch, fp8 != 0, [&](const Chunk& c) {
        if (c.low) {
          counts[5] += pieces;
          counts[6] += pieces * (c.count < covis::kPiece);
          if (wide) ordered = false;  // low chunks come before all others
          return;
        }
        wide = true;
        counts[0] += pieces;             // 64 x 64 blocks computed
        counts[1] += queries * c.count;  // pairs in them, without the rule's masks
        counts[2] += pieces * (c.partial || c.count < covis::kPiece);
        // Whole chunks never follow masked ones, except specials.
        const bool is_masked = c.partial || c.count < covis::kPiece;
        if (!c.special && masked && !is_masked) ordered = false;
        masked |= !c.special && is_masked;
      });
      counts[3] += 1;
      counts[4] += !ordered;
    }
  }
}

uint32_t covis_host_divide(uint32_t n, uint32_t divisor) { return covis::FastDiv::of(divisor)(n); }

int covis_host_shared_bytes(int head_dim, int fp8) {
  return covis::hopper_shared_bytes(covis::hopper_row(head_dim, false), fp8 != 0);
}

}  // extern "C"
