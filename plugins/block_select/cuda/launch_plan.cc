#include "block_select/cuda/launch_plan.h"

#include "block_sparse_attention/cuda/tiles.h"
#include "cuda/host_device.h"
#include "cuda/layout_fields.h"

namespace covis {
namespace {

using Long = long long;  // what %lld prints

int check_fields(const CovisSelectParams& p, const Message& m) {
  int status = check_struct_size(p.struct_size, sizeof(CovisSelectParams), m);
  if (status != kCovisOk) return status;
  if (p.data_type < kCovisSelectFloat16 || p.data_type > kCovisSelectFloat32) {
    return m.fail(kCovisUnsupported, "data_type is %d, not 0 to 2", p.data_type);
  }
  if (p.pool != kCovisPoolMean && p.pool != kCovisPoolMax) {
    return m.fail(kCovisBadArgument, "pool is %d, not 0 (mean) or 1 (max)", p.pool);
  }
  if (p.reserved != 0) return m.fail(kCovisBadArgument, "reserved is %u, not 0", p.reserved);
  status = check_sizes({{"batch", p.batch},
                        {"heads", p.heads},
                        {"tokens", p.tokens},
                        {"head_dim", p.head_dim},
                        {"frame_tokens", p.frame_tokens},
                        {"q_block", p.q_block},
                        {"k_block", p.k_block}},
                       m);
  if (status != kCovisOk) return status;
  if (p.head_dim > 1024) {
    return m.fail(kCovisUnsupported, "head_dim is %lld; up to 1024 is supported",
                  static_cast<Long>(p.head_dim));
  }
  status = check_layout(layout_of(p), p.tokens, 1, m);
  if (status != kCovisOk) return status;
  const int64_t frames = layout_of(p).frames(p.tokens);
  if (p.pair_frames != 1 && p.pair_frames != frames) {
    return m.fail(kCovisBadArgument, "pair_frames is %lld, not 1 or %lld",
                  static_cast<Long>(p.pair_frames), static_cast<Long>(frames));
  }
  return kCovisOk;
}

}  // namespace

int make_launch_plan(const CovisSelectParams& p, bool pointers, const Message& m,
                     SelectLaunchPlan* plan) {
  int status = check_fields(p, m);
  if (status == kCovisOk && pointers) {
    const uintptr_t element = p.data_type == kCovisSelectFloat32 ? 4 : 2;
    status = check_pointers({{"q", p.q, element},
                             {"k", p.k, element},
                             {"pair", p.pair, 1},
                             {"keep_ratio", p.keep_ratio, 4},
                             {"cdf", p.cdf, 4},
                             {"level", p.level, 1}},
                            m);
  }
  if (status != kCovisOk) return status;
  SelectGeometry& g = plan->geometry;
  const TokenLayout layout = layout_of(p);
  g.batch = static_cast<int32_t>(p.batch);
  g.heads = static_cast<int32_t>(p.heads);
  g.head_dim = static_cast<int32_t>(p.head_dim);
  g.frame_tokens = static_cast<int32_t>(p.frame_tokens);
  g.special_first = static_cast<int32_t>(p.special_first);
  g.patches = static_cast<int32_t>(layout.frame_patches());
  g.total_patches = static_cast<int32_t>(layout.patches(p.tokens));
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
  return check_workspace(p.workspace, p.workspace_bytes, plan->bytes, m);
}

}  // namespace covis
