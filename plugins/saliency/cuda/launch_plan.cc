#include "saliency/cuda/launch_plan.h"

namespace covis {

int make_launch_plan(const CovisSaliencyParams& p, bool pointers, const Message& m,
                     SaliencyLaunchPlan* plan) {
  int status = check_struct_size(p.struct_size, sizeof(CovisSaliencyParams), m);
  if (status != kCovisOk) return status;
  if (p.data_type < 0 || p.data_type > 2) {
    return m.fail(kCovisUnsupported, "data_type is %d, not 0 to 2", p.data_type);
  }
  struct {
    const char* name;
    int64_t value, limit;
  } const sizes[] = {
      {"views", p.views, 65535}, {"patches", p.patches, 1 << 24}, {"channels", p.channels, 6144}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > size.limit) {
      return m.fail(kCovisBadArgument, "%s is %lld, not in 1 .. %lld", size.name,
                    static_cast<long long>(size.value), static_cast<long long>(size.limit));
    }
  }
  plan->views = static_cast<int32_t>(p.views);
  plan->patches = static_cast<int32_t>(p.patches);
  plan->channels = static_cast<int32_t>(p.channels);
  const uint64_t vectors = uint64_t(p.views) * p.channels * sizeof(float);
  plan->partial = 0;
  plan->descriptors = (vectors * kSaliencyRuns + 255) / 256 * 256;
  plan->bytes = plan->descriptors + (vectors + 255) / 256 * 256;
  if (!pointers) return kCovisOk;
  const uintptr_t element = p.data_type == 2 ? 4 : 2;
  status = check_pointers({{"tokens", p.tokens, element},
                           {"tau", p.tau, 4},
                           {"tau_low", p.tau_low, 4},
                           {"min_neighbours", p.min_neighbours, 8},
                           {"reference", p.reference, 8},
                           {"similarity", p.similarity, 4},
                           {"level", p.level, 1}},
                          m);
  if (status != kCovisOk) return status;
  return check_workspace(p.workspace, p.workspace_bytes, plan->bytes, m);
}

}  // namespace covis
