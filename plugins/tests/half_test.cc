// Conversions of the 2-byte types, exhaustively one way and around every rounding boundary the
// other.
#include "common/half.h"

#include <cmath>

#include "block_sparse_attention/cpu/tile.h"
#include "reference.h"
#include "test.h"

namespace covis::test {
namespace {

// The value of float16 bits by its definition.
double float16_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

COVIS_TEST(float16_widens_exactly) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double wanted = float16_value(static_cast<uint16_t>(bits));
    const float given = float16_to_float(static_cast<uint16_t>(bits));
    CHECK(std::isnan(wanted) ? std::isnan(given) : given == wanted, "bits %x", bits);
  }
}

COVIS_TEST(kernels_widen_as_the_scalar_code) {
  std::vector<uint16_t> bits(65536);
  for (uint32_t i = 0; i < 65536; ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> wide(65536);
  for (const attention::Kernels* kernels : runnable_kernels()) {
    for (const DataType type : {DataType::kFloat16, DataType::kBFloat16}) {
      kernels->widen(type, bits.data(), wide.data(), 65535);  // not a multiple of the lanes
      for (uint32_t i = 0; i < 65535; ++i) {
        const double wanted = read(type, bits.data(), i);
        CHECK(std::isnan(wanted) ? std::isnan(wide[i]) : wide[i] == wanted, "%s bits %x",
              kernels->name, i);
      }
    }
  }
}

COVIS_TEST(float16_rounds_to_nearest_even) {
  for (uint32_t bits = 0; bits < 0x7bffu; ++bits) {
    const double low = float16_value(static_cast<uint16_t>(bits));
    const double high = float16_value(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact in float32
    const uint32_t even = (bits & 1u) == 0 ? bits : bits + 1;
    CHECK(float_to_float16(middle) == even, "tie above %x", bits);
    CHECK(float_to_float16(std::nextafter(middle, 0.0f)) == bits, "below the tie above %x", bits);
    CHECK(float_to_float16(std::nextafter(middle, 1e9f)) == bits + 1, "above the tie at %x", bits);
    CHECK(float_to_float16(-static_cast<float>(low)) == (bits | 0x8000u), "negative %x", bits);
  }
  CHECK(float_to_float16(65519.0f) == 0x7bff, "below the tie to infinity");
  CHECK(float_to_float16(65520.0f) == 0x7c00, "the tie to infinity");
  CHECK(float_to_float16(INFINITY) == 0x7c00, "infinity");
  CHECK(std::isnan(float16_to_float(float_to_float16(NAN))), "NaN");
}

COVIS_TEST(bfloat16_rounds_to_nearest_even) {
  for (uint32_t bits = 0; bits < 0x7f7fu; ++bits) {
    const float tie = float_from_bits((bits << 16) | 0x8000u);
    CHECK(float_to_bfloat16(float_from_bits(bits << 16)) == bits, "exact %x", bits);
    CHECK(float_to_bfloat16(tie) == ((bits & 1u) == 0 ? bits : bits + 1), "tie above %x", bits);
    CHECK(float_to_bfloat16(float_from_bits(bits_from_float(tie) - 1)) == bits, "below %x", bits);
    CHECK(float_to_bfloat16(float_from_bits(bits_from_float(tie) + 1)) == bits + 1, "%x", bits);
  }
  CHECK(float_to_bfloat16(INFINITY) == 0x7f80, "infinity");
  CHECK(std::isnan(bfloat16_to_float(float_to_bfloat16(NAN))), "NaN");
}

}  // namespace
}  // namespace covis::test
