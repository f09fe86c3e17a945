// Floating-point arithmetic by name and type. Rounding is to the nearest even, as the host's.
#include <cmath>

#include "decode.h"

namespace covis::emulator {
namespace {

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// a * b + c towards minus infinity.
float fma_down(float a, float b, float c) {
  const float r = std::fma(a, b, c);
  const long double exact = static_cast<long double>(a) * b + c;
  return static_cast<long double>(r) > exact ? std::nextafter(r, -INFINITY) : r;
}

// Without .NaN the other operand is the result; with it NaN is.
float larger(float a, float b) { return a != a ? b : b != b ? a : b < a ? a : b; }
float smaller(float a, float b) { return a != a ? b : b != b ? a : a < b ? a : b; }
float larger_nan(float a, float b) { return a != a || b != b ? NAN : b < a ? a : b; }
float smaller_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? a : b; }

using F = float;
using D = double;

// By the name without its rounding to nearest. The approximations of the hardware (an error of two
// units in the last place, ISA 9.7.3) are computed exactly.
const std::map<std::string, Handler>& handlers() {
  static const std::map<std::string, Handler> table{
      {"add.f32", op2<F, F, F, [](F a, F b) { return a + b; }>},
      {"sub.f32", op2<F, F, F, [](F a, F b) { return a - b; }>},
      {"mul.f32", op2<F, F, F, [](F a, F b) { return a * b; }>},
      {"div.f32", op2<F, F, F, [](F a, F b) { return a / b; }>},
      {"div.approx.f32", op2<F, F, F, [](F a, F b) { return a / b; }>},
      {"div.full.f32", op2<F, F, F, [](F a, F b) { return a / b; }>},
      {"fma.f32", op3<F, F, F, F, [](F a, F b, F c) { return __builtin_fmaf(a, b, c); }>},
      {"fma.rm.f32", op3<F, F, F, F, fma_down>},
      {"neg.f32", op1<F, F, [](F a) { return -a; }>},
      {"abs.f32", op1<F, F, [](F a) { return std::fabs(a); }>},
      {"max.f32", op2<F, F, F, larger>},
      {"min.f32", op2<F, F, F, smaller>},
      {"max.NaN.f32", op2<F, F, F, larger_nan>},
      {"min.NaN.f32", op2<F, F, F, smaller_nan>},
      {"rcp.f32", op1<F, F, [](F a) { return 1.0f / a; }>},
      {"rcp.approx.f32", op1<F, F, [](F a) { return 1.0f / a; }>},
      {"sqrt.f32", op1<F, F, [](F a) { return std::sqrt(a); }>},
      {"sqrt.approx.f32", op1<F, F, [](F a) { return std::sqrt(a); }>},
      {"rsqrt.approx.f32", op1<F, F, [](F a) { return 1.0f / std::sqrt(a); }>},
      {"ex2.approx.f32", op1<F, F, [](F a) { return std::exp2(a); }>},
      {"ex2.approx.ftz.f32", op1<F, F, [](F a) { return flushed(std::exp2(flushed(a))); }>},
      {"lg2.approx.f32", op1<F, F, [](F a) { return std::log2(a); }>},
      {"add.f64", op2<D, D, D, [](D a, D b) { return a + b; }>},
      {"sub.f64", op2<D, D, D, [](D a, D b) { return a - b; }>},
      {"mul.f64", op2<D, D, D, [](D a, D b) { return a * b; }>},
      {"div.f64", op2<D, D, D, [](D a, D b) { return a / b; }>},
      {"fma.f64", op3<D, D, D, D, [](D a, D b, D c) { return std::fma(a, b, c); }>}};
  return table;
}

}  // namespace

Handler float_handler(const std::vector<std::string>& parts) {
  std::string name;
  for (const auto& part : parts)
    if (part != "rn") name += (name.empty() ? "" : ".") + part;
  const auto found = handlers().find(name);
  return found == handlers().end() ? nullptr : found->second;
}

}  // namespace covis::emulator
