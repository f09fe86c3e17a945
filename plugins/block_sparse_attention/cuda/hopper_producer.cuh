// The producer warps of a Hopper CTA: one lists the chunks of a query tile, two load them.
#pragma once

#include "block_sparse_attention/cuda/hopper_control.cuh"

namespace covis {

// Takes tiles and walks their key lists: one warp, which passes the chunks through a short ring to
// the two loader warps. Three separate warps each fit into the producers' few registers.
template <class Traits>
struct Lister {
  const KernelArgs& args;
  typename Traits::Control& control;
  RingPosition<2> work_ring;
  uint32_t halves = 0;  // chunks sent: the list ring counts pairs of them

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  // Takes the next tile that has queries (a group may have fewer tiles than slots) and publishes it
  // to all warps. Returns false after the last tile.
  __device__ __forceinline__ bool next_tile() {
    const Geometry& g = args.geometry;
    QueryTile tile;
    Piece mine;
    int active;
    for (;;) {
      int next = 0;
      if (lane() == 0) next = atomicAdd(args.counter, 1);
      next = __shfl_sync(0xffffffffu, next, 0);
      active = -1;
      if (next >= args.tiles) break;
      const int position = static_cast<int>(g.slots_div(next));
      const int slot = next - position * g.slots;
      const int row = args.order == nullptr ? position : static_cast<int>(args.order[position]);
      tile = tile_of_row(g, row, slot);
      mine = lane() < Traits::kConsumers ? tile_piece(g, tile, lane()) : Piece{};
      active = __popc(__ballot_sync(0xffffffffu, mine.count > 0));
      if (active > 0) break;
    }
    const int ring_slot = work_ring.slot();
    TileWork& work = control.work[ring_slot];
    ptx::barrier_wait(&control.work_empty[ring_slot], work_ring.phase() ^ 1);
    if (lane() < Traits::kConsumers) work.pieces[lane()] = mine;
    if (lane() == 0) {
      work.active = active;
      work.batch = tile.batch;
      work.head = tile.head;
      work.special = tile.special;
      work.level = level_of(g, args.level, tile.batch, tile.head);
    }
    __syncwarp();
    if (lane() == 0) ptx::barrier_arrive(&control.work_full[ring_slot]);
    work_ring.next();
    if (active < 0) return false;
    start_walk(g, args.level, tile, &control.walk);
    return true;
  }

  __device__ __forceinline__ void push(int row, int frame, int patch, int flags) {
    const int slot = static_cast<int>(halves / 2 % kListSlots);
    const uint32_t half = halves & 1;
    if (lane() == 0) {
      if (half == 0) {
        ptx::barrier_wait(&control.list_empty[slot], (halves / (2 * kListSlots) & 1) ^ 1);
      }
      control.list[slot][half] = make_int4(row, frame, patch, flags);
      if (half != 0) ptx::barrier_arrive(&control.list_full[slot]);
    }
    ++halves;
  }

  __device__ __forceinline__ void list() {
    const Geometry& g = args.geometry;
    [[maybe_unused]] bool low = false;  // the stage being filled is
    walk_keys(g, control.walk, Traits::kFp8, [&](const Chunk& chunk) {
      int flags = chunk.count;
      if constexpr (Traits::kFp8) {
        if (chunk.low) {
          const int first = chunk.patch - chunk.row;
          flags = kNoteLow | first << kNoteFirstShift | (first + chunk.count);
        } else if (low && halves % 2 != 0) {
          push(g.total_patches + kPiece, 0, 0, kNoteLow);  // outside the tensor: loads zeros
        }
        low = chunk.low;
      }
      push(chunk.row, chunk.frame, chunk.patch,
           flags | (chunk.partial ? kNotePartial : 0) | (chunk.special ? kNoteSpecial : 0));
    });
    if constexpr (Traits::kFp8) {
      if (low && halves % 2 != 0) push(g.total_patches + kPiece, 0, 0, kNoteLow);
    }
    // A missing second half is a box outside the tensor, which loads zeros, with a count of 0.
    if (halves % 2 != 0) {
      const bool special = g.specials > 0;  // specials come last
      push(special ? g.specials : g.patches, 0, 0, special ? kNoteSpecial : 0);
    }
    push(0, 0, 0, kNoteEnd);
    push(0, 0, 0, kNoteEnd);
  }

  __device__ __forceinline__ void run() {
    while (next_tile()) list();
  }
};

// Loads the chunks of the list: one thread loads keys (and queries), a thread of another warp loads
// values, each as far ahead as its own ring allows.
template <class Traits, bool kKeys>
struct Loader {
  static constexpr uint32_t kHalfBytes = kPiece * Traits::kHeadDim * 2;

  const HopperArgs& args;
  typename Traits::Shared& shared;
  RingPosition<kListSlots> list_ring;
  RingPosition<Traits::kStages> ring;
  RingPosition<2> work_ring;  // of tiles: the queries have one slot, their parity is its lowest bit

  __device__ __forceinline__ void load_queries(const TileWork& work) {
    auto& control = shared.control;
    ptx::barrier_wait(&control.q_empty, (work_ring.count & 1) ^ 1);
    const int active = work.active;
    const bool low = Traits::kFp8 && work.special == 0;
    ptx::barrier_expect(&control.q_full, active * (kHalfBytes + (low ? Traits::kLowChunk : 0)));
    const CUtensorMap* map = work.special != 0 ? &args.maps.special_q : &args.maps.q;
#pragma unroll 1
    for (int c = 0; c < active; ++c) {
      const Piece p = work.pieces[c];
#pragma unroll
      for (int box = 0; box < Traits::kBoxes; ++box) {
        ptx::load_box(map, &control.q_full, &shared.q[c][box * Traits::kBoxElements],
                      box * Traits::kColumns, p.row, p.frame, work.head, work.batch);
      }
      if constexpr (Traits::kFp8) {
        if (low) {
          ptx::load_box(&args.maps.low_q, &control.q_full, shared.low_q[c], 0, p.patch, 0,
                        work.head, work.batch);
        }
      }
    }
  }

  // K's scale of a low chunk; a missing chunk has no scale.
  __device__ __forceinline__ float low_scale(const int4& entry, int head, int batch) {
    const Geometry& g = args.kernel.geometry;
    if ((entry.w & kNoteCount) == 0) return 1.0f;
    const int64_t head_row = static_cast<int64_t>(batch) * g.heads + head;
    return args.low.k[head_row * ceil_div(g.total_patches, kPiece) + entry.x / kPiece];
  }

  __device__ __forceinline__ void load_low(const int4 (&entry)[2], uint64_t* full, void* tile,
                                           int head, int batch) {
    ptx::barrier_expect(full, 2 * Traits::kLowChunk);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      void* target = static_cast<uint8_t*>(tile) + half * Traits::kLowChunk;
      if constexpr (kKeys)
        ptx::load_box(&args.maps.low_k, full, target, 0, entry[half].x, 0, head, batch);
      else
        ptx::load_box(&args.maps.low_v, full, target, entry[half].x, 0, 0, head, batch);
    }
  }

  __device__ __forceinline__ void load_stage(const int4 (&entry)[2], int head, int batch) {
    auto& control = shared.control;
    const int slot = ring.slot();
    uint64_t* full = kKeys ? &control.k_full[slot] : &control.v_full[slot];
    const bool low = Traits::kFp8 && (entry[0].w & kNoteLow) != 0;
    [[maybe_unused]] float2 scale;
    if constexpr (Traits::kFp8 && kKeys) {  // before the wait, which hides the read
      if (low) {
        scale = make_float2(low_scale(entry[0], head, batch), low_scale(entry[1], head, batch));
      }
    }
    ptx::barrier_wait(kKeys ? &control.k_empty[slot] : &control.v_empty[slot], ring.phase() ^ 1);
    if constexpr (kKeys) {
      control.note[slot] =
          make_int4(entry[0].z, entry[0].w & ~kNoteSpecial, entry[1].z, entry[1].w & ~kNoteSpecial);
      if ((entry[0].w & kNoteEnd) != 0) {
        ptx::barrier_arrive(full);
        ring.next();
        return;
      }
    }
    auto* tile = kKeys ? shared.k[slot] : shared.v[slot];
    if constexpr (Traits::kFp8) {
      if (low) {
        if constexpr (kKeys) control.low_scale[slot] = scale;
        load_low(entry, full, tile, head, batch);
        ring.next();
        return;
      }
    }
    ptx::barrier_expect(full, 2 * kHalfBytes);
    const HopperMaps& maps = args.maps;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool special = (entry[half].w & kNoteSpecial) != 0;
      const CUtensorMap* map =
          kKeys ? (special ? &maps.special_k : &maps.k) : (special ? &maps.special_v : &maps.v);
#pragma unroll
      for (int box = 0; box < Traits::kBoxes; ++box) {
        ptx::load_box(map, full, tile + (2 * box + half) * Traits::kBoxElements,
                      box * Traits::kColumns, entry[half].x, entry[half].y, head, batch);
      }
    }
    ring.next();
  }

  __device__ __forceinline__ void run() {
    auto& control = shared.control;
    for (;;) {
      const int work_slot = work_ring.slot();
      ptx::barrier_wait(&control.work_full[work_slot], work_ring.phase());
      const TileWork& work = control.work[work_slot];
      if (work.active < 0) return;
      const int head = work.head;
      const int batch = work.batch;
      if constexpr (kKeys) load_queries(work);
      ptx::barrier_arrive(&control.work_empty[work_slot]);
      work_ring.next();
      for (bool more = true; more;) {
        const int slot = list_ring.slot();
        ptx::barrier_wait(&control.list_full[slot], list_ring.phase());
        const int4 entry[2] = {control.list[slot][0], control.list[slot][1]};
        ptx::barrier_arrive(&control.list_empty[slot]);
        list_ring.next();
        more = (entry[0].w & kNoteEnd) == 0;
        if (more || kKeys) load_stage(entry, head, batch);
      }
    }
  }
};

}  // namespace covis
