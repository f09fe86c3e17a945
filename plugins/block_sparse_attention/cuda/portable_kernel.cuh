// BlockSparseAttention on sm_80 and newer, with mma.sync: one CTA of four warps per query piece, 16
// rows per warp; cp.async loads the chunks of the key list, one ahead. Tokens are addressed one by
// one, so specials need not be gathered.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "block_sparse_attention/cuda/mask.cuh"
#include "block_sparse_attention/cuda/portable_args.h"
#include "block_sparse_attention/cuda/portable_ptx.cuh"
#include "block_sparse_attention/cuda/softmax.cuh"
#include "block_sparse_attention/cuda/tiles.h"
#include "block_sparse_attention/cuda/walk.h"

namespace covis {

template <class Element, int kHeadDim>
struct Portable {
  static constexpr int kVectors = kHeadDim / 8;    // 16-byte vectors per row
  static constexpr int kTile = kPiece * kHeadDim;  // elements of a key or value tile
  static constexpr int kScores = kPiece / 2;       // a thread's scores: 2 rows x 16
  static constexpr int kOutputs = kHeadDim / 2;    // a thread's outputs

  struct Shared {
    Element q[kTile];
    Element k[2][kTile];
    Element v[2][kTile];
    WalkScratch walk[4];  // one per warp: all four walk the same list
  };

  struct Scores {
    float value[kScores];
    __device__ __forceinline__ float& operator()(int i) { return value[i]; }
  };

  const PortableArgs& args;
  Shared& shared;
  QueryTile tile;
  Piece piece;
  int thread;
  float outputs[kOutputs];
  Softmax<0> softmax;

  // Rows of 16-byte vectors; the vector number is XORed with the row, which avoids bank conflicts
  // of ldmatrix.
  __device__ __forceinline__ static Element* at(Element* base, int row, int vector) {
    return base + row * kHeadDim + ((vector ^ (row % 8)) * 8);
  }

  __device__ __forceinline__ const Element* row_of(const void* data, const int64_t (&stride)[3],
                                                   int64_t token) const {
    return static_cast<const Element*>(data) + tile.batch * stride[0] + tile.head * stride[1] +
           token * stride[2];
  }

  __device__ __forceinline__ int64_t key_token(const Chunk& chunk, int row) const {
    const Geometry& g = args.kernel.geometry;
    if (chunk.special) return special_token(g, chunk.row + row);
    return static_cast<int64_t>(chunk.frame) * g.frame_tokens + g.special_first + chunk.row + row;
  }

  __device__ __forceinline__ void load_queries() {
    for (int index = thread; index < kPiece * kVectors; index += 128) {
      const int row = index / kVectors;
      const int vector = index % kVectors;
      const bool valid = row < piece.count;
      const int64_t token = query_token(args.kernel.geometry, tile.special, piece, valid ? row : 0);
      ptx::copy_async(at(shared.q, row, vector), row_of(args.q, args.q_stride, token) + vector * 8,
                      valid);
    }
    ptx::copy_commit();
  }

  __device__ __forceinline__ void load_chunk(const Chunk& chunk, int stage) {
#pragma unroll 2
    for (int index = thread; index < kPiece * kVectors; index += 128) {
      const int row = index / kVectors;
      const int vector = index % kVectors;
      const bool valid = row < chunk.count;
      const int64_t token = key_token(chunk, valid ? row : 0);
      ptx::copy_async(at(shared.k[stage], row, vector),
                      row_of(args.k, args.k_stride, token) + vector * 8, valid);
      ptx::copy_async(at(shared.v[stage], row, vector),
                      row_of(args.v, args.v_stride, token) + vector * 8, valid);
    }
    ptx::copy_commit();
  }

  __device__ __forceinline__ void mask(Scores& scores, const Chunk& chunk) {
    const Geometry& g = args.kernel.geometry;
    uint32_t skipped = 0;
    if (chunk.partial) {
      const int8_t* level = level_of(g, args.kernel.level, tile.batch, tile.head);
      skipped = skipped_by_rule(g, level, piece, chunk.patch, chunk.count, thread);
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const bool behind = score_column(thread, i) >= chunk.count;
      if (behind || (skipped >> i & 1) != 0) scores(i) = -INFINITY;
    }
  }

  __device__ __forceinline__ void attend(const Chunk& chunk, int stage) {
    const int lane = thread % 32;
    Scores scores;
#pragma unroll
    for (int i = 0; i < kScores; ++i) scores(i) = 0.0f;
#pragma unroll 1
    for (int k = 0; k < kHeadDim / 16; ++k) {
      // Q is read again for each chunk: in registers, it would make D = 128 spill to local memory.
      uint32_t a[4];
      const int q_row = 16 * (thread / 32) + 8 * (lane / 8 % 2) + lane % 8;
      ptx::load_matrices(a, at(shared.q, q_row, 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < kPiece / 16; ++n) {
        uint32_t b[4];
        const int row = 16 * n + 8 * (lane / 16) + lane % 8;
        ptx::load_matrices(b, at(shared.k[stage], row, 2 * k + lane / 8 % 2));
        ptx::multiply<Element>(&scores.value[8 * n], a, b[0], b[1]);
        ptx::multiply<Element>(&scores.value[8 * n + 4], a, b[2], b[3]);
      }
    }
    if (chunk.partial || chunk.count < kPiece) mask(scores, chunk);
    float decay[2];
    softmax.template step<kScores>(scores, args.kernel.scale_log2, decay);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) outputs[i] *= decay[i / 2 % 2];
#pragma unroll
    for (int k = 0; k < kPiece / 16; ++k) {
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = ptx::pack<Element>(scores(8 * k + 2 * i), scores(8 * k + 2 * i + 1));
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 16; ++n) {
        uint32_t b[4];
        const int row = 16 * k + 8 * (lane / 8 % 2) + lane % 8;
        ptx::load_matrices_transposed(b, at(shared.v[stage], row, 2 * n + lane / 16));
        ptx::multiply<Element>(&outputs[8 * n], a, b[0], b[1]);
        ptx::multiply<Element>(&outputs[8 * n + 4], a, b[2], b[3]);
      }
    }
  }

  __device__ __forceinline__ void write() {
    float inverse[2];
    softmax.finish(inverse);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = score_row(thread, 2 * r);
      if (row >= piece.count) continue;
      const int64_t token = query_token(args.kernel.geometry, tile.special, piece, row);
      Element* out = const_cast<Element*>(row_of(args.kernel.o, args.kernel.o_stride, token));
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const int i = 4 * n + 2 * r;
        const uint32_t pair =
            ptx::pack<Element>(outputs[i] * inverse[r], outputs[i + 1] * inverse[r]);
        *reinterpret_cast<uint32_t*>(out + 8 * n + 2 * (thread % 4)) = pair;
      }
    }
  }

  __device__ __forceinline__ void run() {
    const Geometry& g = args.kernel.geometry;
    load_queries();
    softmax.reset();
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) outputs[i] = 0.0f;
    WalkScratch& walk = shared.walk[thread / 32];
    start_walk(g, args.kernel.level, tile, &walk);
    Chunk held{};
    int count = 0;
    walk_keys(g, walk, false, [&](const Chunk& chunk) {
      load_chunk(chunk, count % 2);
      if (count > 0) {
        ptx::copy_wait<1>();
        __syncthreads();
        attend(held, (count - 1) % 2);
        __syncthreads();
      }
      held = chunk;
      ++count;
    });
    if (count > 0) {
      ptx::copy_wait<0>();
      __syncthreads();
      attend(held, (count - 1) % 2);
    }
    write();
  }
};

template <class Element, int kHeadDim>
__global__ void __launch_bounds__(128, 2)
    portable_attention(const __grid_constant__ PortableArgs args) {
  extern __shared__ __align__(128) uint8_t raw[];
  const KernelArgs& kernel = args.kernel;
  const Geometry& g = kernel.geometry;
  const int position = static_cast<int>(g.slots_div(blockIdx.x));
  const int slot = static_cast<int>(blockIdx.x) - position * g.slots;
  const int row = kernel.order == nullptr ? position : static_cast<int>(kernel.order[position]);
  const QueryTile tile = tile_of_row(g, row, slot);
  const Piece piece = tile_piece(g, tile, 0);
  if (piece.count == 0) return;
  using Body = Portable<Element, kHeadDim>;
  Body body{args, *reinterpret_cast<typename Body::Shared*>(raw), tile, piece,
            static_cast<int>(threadIdx.x)};
  body.run();
}

}  // namespace covis
