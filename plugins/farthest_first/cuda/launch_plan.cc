#include "farthest_first/cuda/launch_plan.h"

namespace covis {

int check_farthest(const CovisFarthestParams& p, bool pointers, const Message& m) {
  const int status = check_struct_size(p.struct_size, sizeof(CovisFarthestParams), m);
  if (status != kCovisOk) return status;
  if (p.reserved != 0) return m.fail(kCovisBadArgument, "reserved is %u, not 0", p.reserved);
  if (p.views < 1) {
    return m.fail(kCovisBadArgument, "views is %lld, not in 1 .. %lld",
                  static_cast<long long>(p.views), static_cast<long long>(kFarthestMaxViews));
  }
  if (p.views > kFarthestMaxViews) {
    return m.fail(kCovisUnsupported, "views is %lld; up to %lld are supported",
                  static_cast<long long>(p.views), static_cast<long long>(kFarthestMaxViews));
  }
  if (!pointers) return kCovisOk;
  return check_pointers({{"similarity", p.similarity, 4},
                         {"given", p.given, 8},
                         {"count", p.count, 8},
                         {"rank", p.rank, 4}},
                        m);
}

}  // namespace covis
