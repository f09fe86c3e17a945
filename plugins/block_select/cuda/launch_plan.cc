#include "block_select/cuda/launch_plan.h"

#include <limits>

#include "block_sparse_attention/cuda/tiles.h"

namespace covis {
namespace {

using Long = long long;  // what %lld prints
constexpr int64_t kIntMax = std::numeric_limits<int32_t>::max();

int check_fields(const CovisSelectParams& p, const Message& m) {
  if (p.struct_size != sizeof(CovisSelectParams)) {
    return m.fail(kCovisBadArgument, "struct_size is %u, this library has %zu; rebuild the caller",
                  p.struct_size, sizeof(CovisSelectParams));
  }
  if (p.data_type < kCovisSelectFloat16 || p.data_type > kCovisSelectFloat32) {
    return m.fail(kCovisUnsupported, "data_type is %d, not 0 to 2", p.data_type);
  }
  if (p.pool != kCovisPoolMean && p.pool != kCovisPoolMax) {
    return m.fail(kCovisBadArgument, "pool is %d, not 0 (mean) or 1 (max)", p.pool);
  }
  if (p.reserved != 0) return m.fail(kCovisBadArgument, "reserved is %u, not 0", p.reserved);
  struct {
    const char* name;
    int64_t value;
  } const sizes[] = {{"batch", p.batch},
                     {"heads", p.heads},
                     {"tokens", p.tokens},
                     {"head_dim", p.head_dim},
                     {"frame_tokens", p.frame_tokens},
                     {"q_block", p.q_block},
                     {"k_block", p.k_block}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > kIntMax) {
      return m.fail(kCovisBadArgument, "%s is %lld, not in 1 .. 2^31 - 1", size.name,
                    static_cast<Long>(size.value));
    }
  }
  if (p.head_dim > 1024) {
    return m.fail(kCovisUnsupported, "head_dim is %lld; up to 1024 is supported",
                  static_cast<Long>(p.head_dim));
  }
  if (p.special_first < 0 || p.special_last < 0 || p.special_first >= p.frame_tokens ||
      p.special_last >= p.frame_tokens - p.special_first) {
    return m.fail(kCovisBadArgument,
                  "special_first %lld and special_last %lld leave no patch of frame_tokens %lld",
                  static_cast<Long>(p.special_first), static_cast<Long>(p.special_last),
                  static_cast<Long>(p.frame_tokens));
  }
  if (p.trailing_tokens < 0 || p.trailing_tokens >= p.tokens ||
      (p.tokens - p.trailing_tokens) % p.frame_tokens != 0) {
    return m.fail(kCovisBadArgument,
                  "tokens %lld are not frames of frame_tokens %lld and trailing_tokens %lld",
                  static_cast<Long>(p.tokens), static_cast<Long>(p.frame_tokens),
                  static_cast<Long>(p.trailing_tokens));
  }
  const int64_t frames = (p.tokens - p.trailing_tokens) / p.frame_tokens;
  if (p.pair_frames != 1 && p.pair_frames != frames) {
    return m.fail(kCovisBadArgument, "pair_frames is %lld, not 1 or %lld",
                  static_cast<Long>(p.pair_frames), static_cast<Long>(frames));
  }
  return kCovisOk;
}

int check_pointers(const CovisSelectParams& p, const Message& m) {
  const uintptr_t element = p.data_type == kCovisSelectFloat32 ? 4 : 2;
  struct {
    const char* name;
    const void* value;
    uintptr_t alignment;
  } const pointers[] = {{"q", p.q, element}, {"k", p.k, element},
                        {"pair", p.pair, 1}, {"keep_ratio", p.keep_ratio, 4},
                        {"cdf", p.cdf, 4},   {"level", p.level, 1}};
  for (const auto& pointer : pointers) {
    if (pointer.value == nullptr) {
      return m.fail(kCovisBadArgument, "%s is a null pointer", pointer.name);
    }
    if (reinterpret_cast<uintptr_t>(pointer.value) % pointer.alignment != 0) {
      return m.fail(kCovisBadArgument, "%s is not aligned to %d bytes (%p)", pointer.name,
                    static_cast<int>(pointer.alignment), pointer.value);
    }
  }
  return kCovisOk;
}

}  // namespace

int make_launch_plan(const CovisSelectParams& p, bool pointers, const Message& m,
                     SelectLaunchPlan* plan) {
  int status = check_fields(p, m);
  if (status == kCovisOk && pointers) status = check_pointers(p, m);
  if (status != kCovisOk) return status;
  SelectGeometry& g = plan->geometry;
  const int64_t frames = (p.tokens - p.trailing_tokens) / p.frame_tokens;
  g.batch = static_cast<int32_t>(p.batch);
  g.heads = static_cast<int32_t>(p.heads);
  g.head_dim = static_cast<int32_t>(p.head_dim);
  g.frame_tokens = static_cast<int32_t>(p.frame_tokens);
  g.special_first = static_cast<int32_t>(p.special_first);
  g.patches = static_cast<int32_t>(p.frame_tokens - p.special_first - p.special_last);
  g.total_patches = static_cast<int32_t>(frames * g.patches);
  g.q_block = static_cast<int32_t>(p.q_block < g.total_patches ? p.q_block : g.total_patches);
  g.k_block = static_cast<int32_t>(p.k_block < g.total_patches ? p.k_block : g.total_patches);
  g.rows = ceil_div(g.total_patches, g.q_block);
  g.cols = ceil_div(g.total_patches, g.k_block);
  g.pair_frames = static_cast<int32_t>(p.pair_frames);

  plan->rows_per_cta = kSelectMaxRows;
  while (plan->rows_per_cta > 1 &&
         select_shared_bytes(plan->rows_per_cta, g.cols, g.head_dim) > kSharedLimit) {
    --plan->rows_per_cta;
  }
  if (select_shared_bytes(1, g.cols, g.head_dim) > kSharedLimit) {
    return m.fail(kCovisUnsupported, "%d key blocks a row do not fit shared memory", g.cols);
  }
  if (p.batch * p.heads > 65535) {
    return m.fail(kCovisUnsupported, "batch %lld x heads %lld is over 65535",
                  static_cast<Long>(p.batch), static_cast<Long>(p.heads));
  }
  const uint64_t vectors = uint64_t(p.batch * p.heads) * g.head_dim * sizeof(float);
  plan->pooled_q = 0;
  plan->pooled_k = (vectors * g.rows + 255) / 256 * 256;
  plan->bytes = plan->pooled_k + (vectors * g.cols + 255) / 256 * 256;
  if (!pointers) return kCovisOk;
  if (p.workspace_bytes < plan->bytes) {
    return m.fail(kCovisWorkspace, "workspace has %llu bytes, %llu are needed",
                  static_cast<unsigned long long>(p.workspace_bytes),
                  static_cast<unsigned long long>(plan->bytes));
  }
  if (p.workspace == nullptr || reinterpret_cast<uintptr_t>(p.workspace) % 256 != 0) {
    return m.fail(kCovisWorkspace, "workspace %p is null or not 256-byte aligned", p.workspace);
  }
  return kCovisOk;
}

}  // namespace covis
