// Integer arithmetic by name and type.
#include <algorithm>

#include "decode.h"

namespace covis::emulator {
namespace {

template <class T>
using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;

template <class T>
T shifted_left(T a, uint32_t b) {
  using Bits = std::make_unsigned_t<T>;
  return b >= 8 * sizeof(T) ? T{0} : static_cast<T>(static_cast<Bits>(a) << b);
}

template <class T>
T shifted_right(T a, uint32_t b) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  if (b >= kBits && !std::is_signed_v<T>) return T{0};
  return static_cast<T>(a >> std::min(b, kBits - 1));
}

// What division by zero gives is not specified; the smallest number over -1 wraps.
template <class T>
T quotient(T a, T b) {
  using Bits = std::make_unsigned_t<T>;
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return static_cast<T>(Bits{0} - static_cast<Bits>(a));
  return static_cast<T>(a / b);
}

template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  return std::is_signed_v<T> && b == T(-1) ? T{0} : static_cast<T>(a % b);
}

template <class T>
T absolute(T a) {
  using Bits = std::make_unsigned_t<T>;
  return a < T{0} ? static_cast<T>(Bits{0} - static_cast<Bits>(a)) : a;
}

// Unsigned, so that nothing overflows; 64 bits, because 16-bit factors would become int.
template <class T>
uint64_t low_product(T a, T b) {
  using Bits = std::make_unsigned_t<T>;
  return static_cast<uint64_t>(static_cast<Bits>(a)) * static_cast<Bits>(b);
}

template <class T>
Handler handler_of(const std::string& name) {
  using Bits = std::make_unsigned_t<T>;
  static const std::map<std::string, Handler> table{
      {"add",
       op2<T, T, T, [](T a, T b) { return T(static_cast<Bits>(a) + static_cast<Bits>(b)); }>},
      {"sub",
       op2<T, T, T, [](T a, T b) { return T(static_cast<Bits>(a) - static_cast<Bits>(b)); }>},
      {"neg", op1<T, T, [](T a) { return T(Bits{0} - static_cast<Bits>(a)); }>},
      {"abs", op1<T, T, absolute<T>>},
      {"min", op2<T, T, T, [](T a, T b) { return a < b ? a : b; }>},
      {"max", op2<T, T, T, [](T a, T b) { return b < a ? a : b; }>},
      {"and", op2<T, T, T, [](T a, T b) { return T(a & b); }>},
      {"or", op2<T, T, T, [](T a, T b) { return T(a | b); }>},
      {"xor", op2<T, T, T, [](T a, T b) { return T(a ^ b); }>},
      {"not", op1<T, T, [](T a) { return T(~a); }>},
      {"shl", op2<T, T, uint32_t, shifted_left<T>>},
      {"shr", op2<T, T, uint32_t, shifted_right<T>>},
      {"div", op2<T, T, T, quotient<T>>},
      {"rem", op2<T, T, T, remainder<T>>},
      {"mul.lo", op2<T, T, T, [](T a, T b) { return T(low_product(a, b)); }>},
      {"mul.hi",
       op2<T, T, T, [](T a, T b) { return T((Wide<T>(a) * Wide<T>(b)) >> 8 * sizeof(T)); }>},
      {"mad.lo",
       op3<T, T, T, T, [](T a, T b, T c) { return T(low_product(a, b) + static_cast<Bits>(c)); }>}};
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

// mul.wide and mad.wide: D is twice as wide as T.
template <class T, class D>
Handler wide_handler(const std::string& base) {
  if (base == "mul") return op2<D, T, T, [](T a, T b) { return D(D(a) * D(b)); }>;
  if (base == "mad") {
    return op3<D, T, T, D, [](T a, T b, D c) {
      return D(static_cast<std::make_unsigned_t<D>>(D(a) * D(b)) + c);
    }>;
  }
  return nullptr;
}

// prmt: bytes of {b, a} by four selectors.
uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = c >> 4 * i & 15;
    uint32_t byte = both >> 8 * (selector & 7) & 255;
    if (selector & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << 8 * i;
  }
  return out;
}

uint32_t reversed(uint32_t a) {
  uint32_t out = 0;
  for (int k = 0; k < 32; ++k) out |= (a >> k & 1u) << (31 - k);
  return out;
}

uint32_t leading_zeros(uint32_t a) {
  return a == 0 ? 32u : static_cast<uint32_t>(__builtin_clz(a));
}

// By the whole name, of operations on bits.
Handler bit_handler(const std::string& name) {
  using U = uint32_t;
  static const std::map<std::string, Handler> table{
      {"popc.b32", op1<U, U, [](U a) { return U(__builtin_popcount(a)); }>},
      {"clz.b32", op1<U, U, leading_zeros>},
      {"brev.b32", op1<U, U, reversed>},
      {"bfind.shiftamt.u32", op1<U, U, [](U a) { return a == 0 ? ~0u : leading_zeros(a); }>},
      {"prmt.b32", op3<U, U, U, U, permute>}};
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace

Handler integer_handler(const std::vector<std::string>& parts) {
  const std::string& type = parts.back();
  const std::string& base = parts[0];
  std::string name = base;
  for (size_t i = 1; i + 1 < parts.size(); ++i) name += "." + parts[i];
  if (const Handler found = bit_handler(name + "." + type)) return found;
  if (has(parts, "wide")) {
    if (type == "u32") return wide_handler<uint32_t, uint64_t>(base);
    if (type == "s32") return wide_handler<int32_t, int64_t>(base);
    if (type == "u16") return wide_handler<uint16_t, uint32_t>(base);
    if (type == "s16") return wide_handler<int16_t, int32_t>(base);
    return nullptr;
  }
  if (type == "s16") return handler_of<int16_t>(name);
  if (type == "u16" || type == "b16") return handler_of<uint16_t>(name);
  if (type == "s32") return handler_of<int32_t>(name);
  if (type == "u32" || type == "b32") return handler_of<uint32_t>(name);
  if (type == "s64") return handler_of<int64_t>(name);
  if (type == "u64" || type == "b64") return handler_of<uint64_t>(name);
  return nullptr;
}

}  // namespace covis::emulator
