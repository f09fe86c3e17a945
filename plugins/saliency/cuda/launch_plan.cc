#include "saliency/cuda/launch_plan.h"

namespace covis {
namespace {

struct Range {
  const char* name;
  int64_t value, limit;
};

int check_ranges(std::initializer_list<Range> ranges, const Message& m) {
  for (const Range& range : ranges) {
    if (range.value < 1 || range.value > range.limit) {
      return m.fail(kCovisBadArgument, "%s is %lld, not in 1 .. %lld", range.name,
                    static_cast<long long>(range.value), static_cast<long long>(range.limit));
    }
  }
  return kCovisOk;
}

}  // namespace

int make_launch_plan(const CovisSimilarityParams& p, bool pointers, const Message& m,
                     SimilarityPlan* plan) {
  int status = check_struct_size(p.struct_size, sizeof(CovisSimilarityParams), m);
  if (status != kCovisOk) return status;
  if (p.data_type < 0 || p.data_type > 2) {
    return m.fail(kCovisUnsupported, "data_type is %d, not 0 to 2", p.data_type);
  }
  status = check_ranges(
      {{"views", p.views, 65535}, {"patches", p.patches, 1 << 24}, {"channels", p.channels, 6144}},
      m);
  if (status != kCovisOk) return status;
  plan->views = static_cast<int32_t>(p.views);
  plan->patches = static_cast<int32_t>(p.patches);
  plan->channels = static_cast<int32_t>(p.channels);
  const uint64_t vectors = uint64_t(p.views) * p.channels * sizeof(float);
  plan->partial = 0;
  plan->descriptors = (vectors * kSaliencyRuns + 255) / 256 * 256;
  plan->bytes = plan->descriptors + (vectors + 255) / 256 * 256;
  if (!pointers) return kCovisOk;
  const uintptr_t element = p.data_type == 2 ? 4 : 2;
  status = check_pointers({{"tokens", p.tokens, element}, {"similarity", p.similarity, 4}}, m);
  if (status != kCovisOk) return status;
  return check_workspace(p.workspace, p.workspace_bytes, plan->bytes, m);
}

int check_pair_levels(const CovisPairLevelsParams& p, bool pointers, const Message& m) {
  int status = check_struct_size(p.struct_size, sizeof(CovisPairLevelsParams), m);
  if (status != kCovisOk) return status;
  if (p.reserved != 0) return m.fail(kCovisBadArgument, "reserved is %u, not 0", p.reserved);
  status = check_ranges({{"views", p.views, 65535}, {"maps", p.maps, 65535}}, m);
  if (status != kCovisOk || !pointers) return status;
  return check_pointers({{"similarity", p.similarity, 4},
                         {"anchor_rank", p.anchor_rank, 4},
                         {"tau", p.tau, 4},
                         {"tau_low", p.tau_low, 4},
                         {"anchors", p.anchors, 8},
                         {"min_neighbours", p.min_neighbours, 8},
                         {"own_frame", p.own_frame, 1},
                         {"reference", p.reference, 8},
                         {"to_reference", p.to_reference, 1},
                         {"from_reference", p.from_reference, 1},
                         {"level", p.level, 1}},
                        m);
}

}  // namespace covis
