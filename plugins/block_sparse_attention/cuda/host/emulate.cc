// The kernels' tile walk on the host, for tests without a GPU: the same plan, the same key lists in
// the same order, the same masks and the same online softmax; only the matrix units are replaced by
// loops. Built into a small shared library that the Python tests load.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "plan.h"
#include "tiles.h"
#include "walk.h"

namespace {

using covis::Chunk;
using covis::Geometry;
using covis::Piece;
using covis::QueryTile;

struct Rows {  // strided float32 tensor (B, H, S, D) with D contiguous
  const float* data;
  const int64_t* stride;
  const float* at(int batch, int head, int64_t token) const {
    return data + batch * stride[0] + head * stride[1] + token * stride[2];
  }
};

int32_t key_token(const Geometry& g, const Chunk& chunk, int32_t index) {
  if (chunk.special) return covis::special_token(g, chunk.row + index);
  return chunk.frame * g.frame_tokens + g.special_first + chunk.row + index;
}

// One query row over the chunks of its tile: the online softmax of softmax.cuh, a chunk a step.
void attend(const Geometry& g, const CovisAttentionParams& p, const QueryTile& tile,
            const Piece& piece, int row, float scale, const std::vector<Chunk>& chunks,
            float* out) {
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
  float top = -infinity;
  float sum = 0.0f;
  std::vector<float> acc(dim, 0.0f);
  for (const Chunk& chunk : chunks) {
    float scores[covis::kPiece];
    float high = top;
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
    const float shift = high == -infinity ? 0.0f : high * scale_log2;
    const float decay = std::exp2(top * scale_log2 - shift);
    top = high;
    sum *= decay;
    for (float& value : acc) value *= decay;
    for (int i = 0; i < chunk.count; ++i) {
      const float weight = std::exp2(scores[i] * scale_log2 - shift);
      if (scores[i] == -infinity) continue;
      const float* value = v.at(tile.batch, tile.head, key_token(g, chunk, i));
      sum += weight;
      for (int d = 0; d < dim; ++d) acc[d] += weight * value[d];
    }
  }
  float* target =
      out + tile.batch * p.o_stride[0] + tile.head * p.o_stride[1] + token * p.o_stride[2];
  const bool dead = top == -infinity && sum == 0.0f;
  for (int d = 0; d < dim; ++d) target[d] = dead ? 0.0f : acc[d] / sum;
}

}  // namespace

extern "C" {

// Plans for an invented device, for the tests of checks and messages.
int covis_host_plan(const CovisAttentionParams* params, int capability, int pointers,
                    uint64_t* workspace_bytes, int64_t* tiles, int* hopper, char* message,
                    size_t message_bytes) {
  covis::Plan plan;
  const int status = covis::make_plan(*params, covis::Device{capability, 132}, pointers != 0,
                                      covis::Message{message, message_bytes}, &plan);
  *workspace_bytes = plan.workspace.bytes;
  *tiles = plan.tiles;
  *hopper = plan.hopper ? 1 : 0;
  return status;
}

// The attention of float32 tensors by the walk of a kernel with tiles of `width` pieces. `written`
// (B, H, S) counts how often each output row was written: it must be once.
int covis_host_attention(const CovisAttentionParams* params, int width, int fp8, int32_t* written) {
  const Geometry g = covis::make_geometry(*params, width);
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
          attend(g, *params, tile, piece, r, scale, chunks, static_cast<float*>(params->o));
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

// What a map costs by the walk: chunks and keys computed for all tiles of all heads, and how many
// chunks were short or partial. For the tests of padding and of the two lists.
void covis_host_cost(const CovisAttentionParams* params, int width, int64_t* counts) {
  const Geometry g = covis::make_geometry(*params, width);
  std::memset(counts, 0, 5 * sizeof(int64_t));
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
      covis::walk_keys(g, scratch, false, [&](const Chunk& c) {
        counts[0] += pieces;             // 64 x 64 blocks computed
        counts[1] += queries * c.count;  // pairs in them, masks of the rule apart
        counts[2] += pieces * (c.partial || c.count < covis::kPiece);
        // Whole chunks never follow masked ones, specials apart.
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

int covis_host_shared_bytes(int head_dim) {
  return covis::hopper_shared_bytes(covis::hopper_row(head_dim, false));
}

}  // extern "C"
