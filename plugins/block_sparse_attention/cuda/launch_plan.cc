#include "block_sparse_attention/cuda/launch_plan.h"

#include <cmath>
#include <limits>

#include "block_sparse_attention/cuda/quantize.h"
#include "block_sparse_attention/cuda/tiles.h"
#include "cuda/layout_fields.h"

namespace covis {

namespace {

constexpr int64_t kIntMax = std::numeric_limits<int32_t>::max();

int check_fields(const CovisAttentionParams& p, const Message& m) {
  int status = check_struct_size(p.struct_size, sizeof(CovisAttentionParams), m);
  if (status != kCovisOk) return status;
  if (p.data_type != kCovisFloat16 && p.data_type != kCovisBfloat16) {
    return m.fail(kCovisUnsupported, "data_type is %d; 0 (float16) and 1 (bfloat16) are supported",
                  p.data_type);
  }
  if (p.precision != kCovisPrecisionFull && p.precision != kCovisPrecisionFp8) {
    return m.fail(kCovisBadArgument, "precision is %d, not 0 (full) or 1 (fp8)", p.precision);
  }
  if (p.kernel < kCovisKernelAuto || p.kernel > kCovisKernelHopperPolynomial) {
    return m.fail(kCovisBadArgument, "kernel is %d, not 0 to 3", p.kernel);
  }
  if (p.reserved != 0) return m.fail(kCovisBadArgument, "reserved is %u, not 0", p.reserved);
  status = check_sizes({{"batch", p.batch},
                        {"heads", p.heads},
                        {"tokens", p.tokens},
                        {"frame_tokens", p.frame_tokens},
                        {"q_block", p.q_block},
                        {"k_block", p.k_block}},
                       m);
  if (status != kCovisOk) return status;
  if (p.head_dim != 64 && p.head_dim != 128) {
    return m.fail(kCovisUnsupported, "head_dim is %lld; 64 and 128 are supported",
                  static_cast<long long>(p.head_dim));
  }
  if (!(p.scale >= 0.0f) || !std::isfinite(p.scale)) {
    return m.fail(kCovisUnsupported, "scale is %g; it must be finite and not negative",
                  static_cast<double>(p.scale));
  }
  return kCovisOk;
}

int check_level(const CovisAttentionParams& p, const Message& m) {
  const TokenLayout layout = layout_of(p);
  const int64_t rows = layout.q_regions(p.tokens);
  const int64_t cols = layout.k_regions(p.tokens);
  const bool batch_fits = p.level_batch == 1 || p.level_batch == p.batch;
  const bool heads_fit = p.level_heads == 1 || p.level_heads == p.heads;
  const bool rows_fit = p.level_rows == 1 || p.level_rows == rows;
  const bool cols_fit = p.level_cols == 1 || p.level_cols == cols;
  if (!batch_fits || !heads_fit || !rows_fit || !cols_fit) {
    return m.fail(kCovisBadArgument,
                  "level is (%lld, %lld, %lld, %lld); each size must be 1 or that of "
                  "(%lld, %lld, %lld, %lld)",
                  static_cast<long long>(p.level_batch), static_cast<long long>(p.level_heads),
                  static_cast<long long>(p.level_rows), static_cast<long long>(p.level_cols),
                  static_cast<long long>(p.batch), static_cast<long long>(p.heads),
                  static_cast<long long>(rows), static_cast<long long>(cols));
  }
  return kCovisOk;
}

// TMA and 16-byte accesses: aligned bases, strides in whole 16 bytes, all addresses below 2^40
// bytes.
int check_tensor(const char* name, const void* data, const int64_t (&stride)[3], bool pointers,
                 const CovisAttentionParams& p, const Message& m) {
  const int64_t sizes[3] = {p.batch, p.heads, p.tokens};
  for (int i = 0; i < 3; ++i) {
    const bool bad = stride[i] % 8 != 0 || stride[i] < 0 || stride[i] >= (int64_t{1} << 38);
    if (sizes[i] > 1 && (bad || (i == 2 && stride[i] < p.head_dim))) {
      return m.fail(kCovisBadArgument,
                    "%s_stride[%d] is %lld; strides are multiples of 8 elements, tokens at least "
                    "head_dim apart",
                    name, i, static_cast<long long>(stride[i]));
    }
  }
  if (!pointers) return kCovisOk;
  if (data == nullptr) return m.fail(kCovisBadArgument, "%s is a null pointer", name);
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) {
    return m.fail(kCovisBadArgument, "%s is not 16-byte aligned (%p)", name, data);
  }
  return kCovisOk;
}

int check_tensors(const CovisAttentionParams& p, bool pointers, const Message& m) {
  struct {
    const char* name;
    const void* data;
    const int64_t (&stride)[3];
  } const tensors[] = {{"q", p.q, p.q_stride},
                       {"k", p.k, p.k_stride},
                       {"v", p.v, p.v_stride},
                       {"o", p.o, p.o_stride}};
  for (const auto& tensor : tensors) {
    const int status = check_tensor(tensor.name, tensor.data, tensor.stride, pointers, p, m);
    if (status != kCovisOk) return status;
  }
  if (pointers && p.level == nullptr) return m.fail(kCovisBadArgument, "level is a null pointer");
  return kCovisOk;
}

int choose_kernel(const CovisAttentionParams& p, const Device& device, const Message& m,
                  LaunchPlan* plan) {
  if (device.capability < 80) {
    return m.fail(kCovisNoDevice, "the GPU has compute capability %d.%d; 8.0 or newer is needed",
                  device.capability / 10, device.capability % 10);
  }
  const bool is_hopper = device.capability == 90;
  const bool wants_hopper =
      p.kernel == kCovisKernelHopper || p.kernel == kCovisKernelHopperPolynomial;
  if (wants_hopper && !is_hopper) {
    return m.fail(kCovisNoDevice, "kernel %d needs compute capability 9.0; this GPU has %d.%d",
                  p.kernel, device.capability / 10, device.capability % 10);
  }
  plan->hopper = wants_hopper || (p.kernel == kCovisKernelAuto && is_hopper);
  plan->polynomial = p.kernel == kCovisKernelHopperPolynomial;
  if (plan->polynomial && p.head_dim != 64) {
    return m.fail(kCovisUnsupported, "kernel 3 is built for head_dim 64, not %lld",
                  static_cast<long long>(p.head_dim));
  }
  // FP8 is a permission: kernels without FP8 compute level 1 as level 2.
  plan->fp8 = plan->hopper && p.precision == kCovisPrecisionFp8;
  return kCovisOk;
}

uint64_t append(uint64_t* end, uint64_t bytes) {
  const uint64_t start = *end;
  *end = (start + bytes + 255) / 256 * 256;
  return start;
}

void lay_out_workspace(const CovisAttentionParams& p, LaunchPlan* plan) {
  const Geometry& g = plan->geometry;
  Workspace& w = plan->workspace;
  uint64_t end = 0;
  w.counter = append(&end, sizeof(int32_t));
  if (plan->ordered) {
    const uint64_t rows = rows_per_head(g);
    w.order = append(&end, p.batch * p.heads * rows * sizeof(uint32_t));
    w.lengths = append(&end, plan->length_heads * rows * sizeof(uint32_t));
  }
  const uint64_t special_bytes = uint64_t{2} * p.batch * p.heads * g.specials * p.head_dim;
  if (special_bytes > 0) {
    w.special_q = append(&end, special_bytes);
    w.special_k = append(&end, special_bytes);
    w.special_v = append(&end, special_bytes);
  }
  if (plan->fp8) {
    const uint64_t heads = static_cast<uint64_t>(p.batch) * p.heads;
    const uint64_t patches = g.total_patches;
    const uint64_t cells = cells_of(g);
    const uint64_t dim = p.head_dim;
    w.q8 = append(&end, heads * patches * dim);
    w.k8 = append(&end, heads * patches * dim);
    w.v8 = append(&end, heads * dim * cells * kPiece);
    w.q_scale = append(&end, heads * cells * sizeof(float));
    w.k_scale = append(&end, heads * cells * sizeof(float));
    w.v_scale = append(&end, heads * dim * sizeof(float));
    w.k_mean = append(&end, heads * dim * sizeof(float));
    w.q_dot_mean = append(&end, heads * patches * sizeof(float));
    w.measured = append(&end, heads * measured_runs(g) * 2 * dim * sizeof(float));
  }
  w.bytes = end;
}

struct Frames {
  int64_t frames, tokens;  // tokens per frame
};

// Without special tokens the element rule does not depend on the frames. Frames that suit the
// regions are chosen instead: one for all tokens, or one per region where regions are not multiples
// of pieces.
Frames effective_frames(const CovisAttentionParams& p) {
  if (p.special_first + p.special_last > 0) {
    return {layout_of(p).frames(p.tokens), p.frame_tokens};
  }
  const int64_t total = p.tokens - p.trailing_tokens;
  const bool one_level = p.level_rows == 1 && p.level_cols == 1;
  const bool region_frames = p.q_block == p.k_block && p.q_block >= kPiece &&
                             p.q_block % kPiece != 0 && total % p.q_block == 0;
  if (region_frames && !one_level) return {total / p.q_block, p.q_block};
  return total > 0 ? Frames{1, total} : Frames{0, p.frame_tokens};
}

}  // namespace

Geometry make_geometry(const CovisAttentionParams& p, int width) {
  const Frames layout = effective_frames(p);
  Geometry g{};
  g.batch = static_cast<int32_t>(p.batch);
  g.heads = static_cast<int32_t>(p.heads);
  g.frames = static_cast<int32_t>(layout.frames);
  g.frame_tokens = static_cast<int32_t>(layout.tokens);
  g.special_first = static_cast<int32_t>(p.special_first);
  g.special_per_frame = static_cast<int32_t>(p.special_first + p.special_last);
  g.patches = g.frame_tokens - g.special_per_frame;
  g.total_patches = g.frames * g.patches;
  g.trailing = static_cast<int32_t>(p.trailing_tokens);
  g.specials = g.frames * g.special_per_frame + g.trailing;

  const int32_t total = max_int(g.total_patches, 1);
  const int32_t patches = max_int(g.patches, 1);
  const bool one_row = p.level_rows == 1;
  const bool one_col = p.level_cols == 1;
  g.q_block = one_row || p.q_block > total ? total : static_cast<int32_t>(p.q_block);
  g.k_block = one_col || p.k_block > total ? total : static_cast<int32_t>(p.k_block);
  g.level_col_stride = one_col ? 0 : 1;
  g.level_row_stride = one_row ? 0 : p.level_cols;
  g.level_head_stride = p.level_heads == 1 ? 0 : p.level_rows * p.level_cols;
  g.level_batch_stride = p.level_batch == 1 ? 0 : p.level_heads * p.level_rows * p.level_cols;

  const auto whole_frames = [&](int32_t block) { return block >= total || block % patches == 0; };
  const auto whole_pieces = [&](int32_t block) { return block % kPiece == 0; };
  g.q_cut = !whole_frames(g.q_block) && whole_pieces(g.q_block) ? Cut::kGrid : Cut::kFrame;
  g.k_cut = !whole_frames(g.k_block) && whole_pieces(g.k_block) ? Cut::kGrid : Cut::kFrame;
  g.units_are_regions = whole_frames(g.k_block) || whole_pieces(g.k_block);
  g.units =
      g.units_are_regions ? ceil_div(g.total_patches, g.k_block) : piece_ordinals(g, Cut::kFrame);

  g.width = width;
  int32_t pieces = 1;
  if (g.total_patches > 0) {
    g.groups = g.q_cut == Cut::kFrame ? g.frames : ceil_div(g.total_patches, g.q_block);
    pieces = g.q_cut == Cut::kFrame ? ceil_div(patches, kPiece)
                                    : g.q_block / kPiece + ceil_div(g.q_block - 1, patches);
  }
  g.slots = ceil_div(pieces, width);
  g.slot_pieces = pieces / g.slots;
  g.long_slots = pieces % g.slots;
  g.special_groups = ceil_div(ceil_div(g.specials, kPiece), width * g.slots);

  g.patches_div = FastDiv::of(patches);
  g.q_block_div = FastDiv::of(g.q_block);
  g.k_block_div = FastDiv::of(g.k_block);
  g.special_div = FastDiv::of(max_int(g.special_per_frame, 1));
  g.heads_div = FastDiv::of(g.heads);
  g.groups_div = FastDiv::of(max_int(rows_per_head(g), 1));
  g.slots_div = FastDiv::of(g.slots);
  return g;
}

int make_launch_plan(const CovisAttentionParams& p, const Device& device, bool pointers,
                     const Message& m, LaunchPlan* plan) {
  int status = check_fields(p, m);
  if (status == kCovisOk) status = check_layout(layout_of(p), p.tokens, 0, m);
  if (status == kCovisOk) status = check_level(p, m);
  if (status == kCovisOk) status = check_tensors(p, pointers, m);
  if (status == kCovisOk) status = choose_kernel(p, device, m, plan);
  if (status != kCovisOk) return status;

  const int head_dim = static_cast<int>(p.head_dim);
  const int width =
      plan->hopper ? hopper_row(head_dim, plan->polynomial).consumers : kPortableConsumers;
  plan->geometry = make_geometry(p, width);
  const Geometry& g = plan->geometry;
  plan->fp8 = plan->fp8 && g.total_patches > 0;
  plan->scale = p.scale == 0.0f ? 1.0f / std::sqrt(static_cast<float>(head_dim)) : p.scale;
  plan->tiles = p.batch * p.heads * rows_per_head(g) * static_cast<int64_t>(g.slots);
  const int64_t low_blocks = p.batch * p.heads * cells_of(g);  // of the quantising kernel
  if (plan->tiles > kIntMax / 2 || low_blocks > kIntMax ||
      p.batch * p.heads > 65535 * int64_t{64}) {
    return m.fail(kCovisUnsupported, "batch %lld x heads %lld x tokens %lld make %lld query tiles",
                  static_cast<long long>(p.batch), static_cast<long long>(p.heads),
                  static_cast<long long>(p.tokens), static_cast<long long>(plan->tiles));
  }
  // Rows of equal length need no order. They are equal if one level applies to all pairs and there
  // are no special rows.
  plan->ordered =
      rows_per_head(g) > 1 &&
      (p.level_rows * p.level_cols * p.level_heads * p.level_batch > 1 || g.special_groups > 0);
  plan->length_heads = static_cast<int32_t>(p.level_batch * p.level_heads);
  lay_out_workspace(p, plan);
  if (!pointers) return kCovisOk;
  return check_workspace(p.workspace, p.workspace_bytes, plan->workspace.bytes, m);
}

}  // namespace covis
