// Boxes of tensors to shared memory and back.
#include "tensor_map.h"

#include <algorithm>

#include "cta.h"

namespace covis::emulator {

uint32_t box_bytes(const TensorMap& map) {
  uint32_t bytes = map.element;
  for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
  return bytes;
}

namespace {

uint32_t swizzled(const TensorMap& map, uint32_t address) {
  static constexpr uint32_t kChunks[] = {0, 1, 3, 7};
  return address ^ (address >> 7 & kChunks[map.swizzle]) << 4;
}

// Calls use(shared address, global address or 0) for each 16 bytes of a box; the innermost
// dimension is whole chunks (checked when the map is encoded).
template <class Use>
void walk_box(const TensorMap& map, const int32_t (&at)[5], uint32_t shared, Use&& use) {
  const uint32_t inner = map.box[0] * map.element;
  const int per_chunk = 16 / map.element;
  uint32_t rows = 1;
  for (int i = 1; i < map.rank; ++i) rows *= map.box[i];
  for (uint32_t row = 0; row < rows; ++row) {
    uint64_t base = map.base;
    bool inside = true;
    uint32_t rest = row;
    for (int i = 1; i < map.rank; ++i) {
      const int64_t place = int64_t{at[i]} + rest % map.box[i];
      rest /= map.box[i];
      inside &= place >= 0 && place < map.size[i];
      base += static_cast<uint64_t>(place) * map.stride[i];
    }
    for (uint32_t c = 0; c < inner / 16; ++c) {
      const int64_t first = int64_t{at[0]} + c * per_chunk;
      int valid = 0;  // elements of the chunk inside the tensor; they are its first ones
      if (inside && first >= 0)
        valid = static_cast<int>(std::clamp<int64_t>(int64_t{map.size[0]} - first, 0, per_chunk));
      use(swizzled(map, shared + row * inner + c * 16),
          base + static_cast<uint64_t>(first) * map.element, valid * map.element);
    }
  }
}

}  // namespace

void load_box(Cta& cta, const TensorMap& map, const int32_t (&at)[5], uint32_t target) {
  walk_box(map, at, target, [&](uint32_t shared, uint64_t global, int bytes) {
    uint8_t* to = cta.shared.data() + shared;
    if (bytes > 0) {
      if (!allocated(global, static_cast<uint64_t>(bytes), false))
        throw Error(cta.launch->kernel->name + ": bulk copy reads outside all allocations");
      std::memcpy(to, reinterpret_cast<const void*>(global), static_cast<size_t>(bytes));
    }
    std::memset(to + bytes, 0, static_cast<size_t>(16 - bytes));
  });
}

void store_box(Cta& cta, const BulkStore& store) {
  walk_box(*store.map, store.at, store.source, [&](uint32_t shared, uint64_t global, int bytes) {
    if (bytes == 0) return;
    if (!allocated(global, static_cast<uint64_t>(bytes), true))
      throw Error(cta.launch->kernel->name + ": bulk store outside all allocations");
    std::memcpy(reinterpret_cast<void*>(global), cta.shared.data() + shared,
                static_cast<size_t>(bytes));
  });
  ++cta.bulk_stores;
}

}  // namespace covis::emulator
