// Attributes, shapes and maps from arbitrary bytes: the checks must reject invalid input and
// must not pass input that the kernels cannot process. Input that passes and is small enough is
// run, in buffers of exactly the right size.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "block_select/cpu/select.h"
#include "block_sparse_attention/cpu/attention.h"
#include "farthest_first/cpu/farthest.h"

namespace {

// Numbers from the input; zeros when it is used up.
class Source {
 public:
  Source(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <class T>
  T any() {
    T value{};
    const size_t taken = std::min(sizeof value, size_);
    std::memcpy(&value, data_, taken);
    data_ += taken, size_ -= taken;
    return value;
  }

  // Mostly small numbers, sometimes any.
  int64_t integer() {
    const uint8_t kind = any<uint8_t>();
    if (kind < 200) return kind % 40;
    if (kind < 240) return any<int16_t>();
    return any<int64_t>();
  }

  int64_t dimension() { return 1 + any<uint8_t>() % 6; }

 private:
  const uint8_t* data_;
  size_t size_;
};

constexpr int64_t kMostElements = 1 << 14;

covis::TokenLayout layout(Source& source) {
  covis::TokenLayout made;
  made.frame_tokens = source.integer();
  made.special_first = source.integer();
  made.special_last = source.integer();
  made.trailing_tokens = source.integer();
  made.q_block = source.integer();
  made.k_block = source.integer();
  return made;
}

std::unique_ptr<char[]> buffer(Source& source, int64_t bytes) {
  std::unique_ptr<char[]> made(new char[static_cast<size_t>(bytes)]);
  std::generate_n(made.get(), bytes,
                  [&source] { return static_cast<char>(source.any<uint8_t>()); });
  return made;
}

void serial(void*, int64_t count, covis::ParallelFor::Body body, void* argument) {
  for (int64_t i = 0; i < count; ++i) body(argument, i);
}

void attention(Source& source) {
  covis::AttentionParams p;
  p.type = static_cast<covis::DataType>(source.any<uint8_t>() % 3);
  p.layout = layout(source);
  p.scale = source.any<float>();
  p.batch = source.dimension(), p.heads = source.dimension();
  p.tokens = 1 + source.any<uint8_t>(), p.head_size = source.dimension() * source.dimension();
  p.level_batch = source.dimension(), p.level_heads = source.dimension();
  p.level_rows = source.integer(), p.level_columns = source.integer();
  const bool fit = source.any<uint8_t>() % 2 == 0;
  const bool layout_fits =
      covis::check_layout(p.layout).empty() && covis::check_tokens(p.layout, p.tokens).empty();
  if (fit && layout_fits) {
    p.level_batch = 1, p.level_heads = p.heads;
    p.level_rows = p.layout.q_regions(p.tokens), p.level_columns = p.layout.k_regions(p.tokens);
  }
  // The runtime's shapes have no negative dimensions, and the map is as large as they say.
  if (p.level_rows < 0 || p.level_columns < 0) return;
  if (p.level_rows > kMostElements || p.level_columns > kMostElements) return;
  const int64_t levels = p.level_batch * p.level_heads * p.level_rows * p.level_columns;
  const int64_t elements = p.batch * p.heads * p.tokens * p.head_size;
  if (levels > kMostElements || elements > kMostElements) return;
  const std::unique_ptr<char[]> level = buffer(source, levels);
  if (source.any<uint8_t>() % 4 != 0) {
    for (int64_t i = 0; i < levels; ++i) level[size_t(i)] = char(uint8_t(level[size_t(i)]) % 3);
  }
  p.level = reinterpret_cast<const int8_t*>(level.get());
  if (!covis::check_attention(p).empty()) return;
  const int64_t bytes = elements * covis::element_size(p.type);
  const std::unique_ptr<char[]> q = buffer(source, bytes), k = buffer(source, bytes),
                                v = buffer(source, bytes), out = buffer(source, bytes);
  p.query = q.get(), p.key = k.get(), p.value = v.get(), p.output = out.get();
  covis::block_sparse_attention(p, {serial, nullptr});
}

void select(Source& source) {
  covis::SelectParams p;
  p.type = static_cast<covis::DataType>(source.any<uint8_t>() % 3);
  p.layout = layout(source);
  p.batch = source.dimension(), p.heads = source.dimension();
  p.tokens = 1 + source.any<uint8_t>(), p.head_size = source.dimension();
  p.pair_rows = source.dimension(), p.pair_columns = source.dimension();
  p.keep_ratio = source.any<float>(), p.cdf = source.any<float>();
  if (source.any<uint8_t>() % 2 == 0) p.keep_ratio = 0.4f, p.cdf = 0.6f;
  p.pool = source.any<uint8_t>() % 2 == 0 ? covis::Pool::kMean : covis::Pool::kMax;
  const std::unique_ptr<char[]> pair = buffer(source, p.pair_rows * p.pair_columns);
  for (int64_t i = 0; i < p.pair_rows * p.pair_columns; ++i) {
    pair[size_t(i)] = char(uint8_t(pair[size_t(i)]) % 3);
  }
  p.pair = reinterpret_cast<const int8_t*>(pair.get());
  if (!covis::check_select(p).empty()) return;
  const int64_t levels =
      p.batch * p.heads * p.layout.q_regions(p.tokens) * p.layout.k_regions(p.tokens);
  const int64_t elements = p.batch * p.heads * p.tokens * p.head_size;
  if (elements > kMostElements || levels > 64 * kMostElements) return;
  const int64_t bytes = elements * covis::element_size(p.type);
  const std::unique_ptr<char[]> q = buffer(source, bytes), k = buffer(source, bytes);
  const std::unique_ptr<int8_t[]> level(new int8_t[static_cast<size_t>(levels)]);
  p.query = q.get(), p.key = k.get(), p.level = level.get();
  covis::block_select(p, {serial, nullptr});
}

// Arbitrary bits as similarities, NaN and Inf among them. Whatever is given, a run takes as many
// views as it says, one a step.
void farthest(Source& source) {
  covis::FarthestParams p;
  p.views = source.integer();
  if (!covis::check_farthest(p).empty() || p.views > 64) return;
  p.count = source.integer();
  const std::unique_ptr<char[]> similarity = buffer(source, p.views * p.views * 4);
  const std::unique_ptr<int64_t[]> given(new int64_t[size_t(p.views)]);
  std::generate_n(given.get(), p.views, [&source] { return source.integer() - 4; });
  const std::unique_ptr<int32_t[]> rank(new int32_t[size_t(p.views)]);
  p.similarity = reinterpret_cast<const float*>(similarity.get());
  p.given = given.get(), p.rank = rank.get();
  if (!covis::farthest_first(p).empty()) return;
  const int64_t steps = std::clamp<int64_t>(p.count, 0, p.views);
  std::sort(rank.get(), rank.get() + p.views);
  for (int64_t i = 0; i < p.views; ++i) {
    if (rank[size_t(i)] != (i < steps ? i : p.views)) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Source source(data, size);
  switch (source.any<uint8_t>() % 3) {
    case 0: attention(source); break;
    case 1: select(source); break;
    default: farthest(source);
  }
  return 0;
}
