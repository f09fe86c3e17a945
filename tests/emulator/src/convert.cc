// Conversions between types.
#include <limits>

#include "decode.h"
#include "numbers.h"

namespace covis::emulator {
namespace {

// Conversions of pairs: d = {b low, a high}.
void do_pack_half(Warp& w, const Instruction& i) {
  const auto* a = w.reg<float>(i.a);
  const auto* b = w.reg<float>(i.b);
  each<uint32_t>(w, w.reg<uint32_t>(i.d), [&](int l) {
    return static_cast<uint32_t>(float_to_half(a[l])) << 16 | float_to_half(b[l]);
  });
}
void do_pack_bfloat(Warp& w, const Instruction& i) {
  const auto* a = w.reg<float>(i.a);
  const auto* b = w.reg<float>(i.b);
  each<uint32_t>(w, w.reg<uint32_t>(i.d), [&](int l) {
    return static_cast<uint32_t>(float_to_bfloat(a[l])) << 16 | float_to_bfloat(b[l]);
  });
}
void do_pack_e4m3(Warp& w, const Instruction& i) {
  const auto* a = w.reg<float>(i.a);
  const auto* b = w.reg<float>(i.b);
  each<uint32_t>(w, w.reg<uint32_t>(i.d), [&](int l) {
    return static_cast<uint32_t>(float_to_e4m3(a[l])) << 8 | float_to_e4m3(b[l]);
  });
}

template <class D, class S>
void do_convert(Warp& w, const Instruction& i) {
  op1<D, S, [](S x) { return static_cast<D>(x); }>(w, i);
}
// Floats to integers: saturating, NaN to 0, towards zero.
template <class D, class S>
void do_truncate(Warp& w, const Instruction& i) {
  op1<D, S, [](S x) {
    if (x != x) return D{0};
    const double y = std::trunc(static_cast<double>(x));
    if (y <= static_cast<double>(std::numeric_limits<D>::min()))
      return std::numeric_limits<D>::min();
    if (y >= static_cast<double>(std::numeric_limits<D>::max()))
      return std::numeric_limits<D>::max();
    return static_cast<D>(y);
  }>(w, i);
}

template <class F>
bool integer_type(const std::string& type, F&& use) {
  if (type == "u8" || type == "b8")
    use(uint8_t{});
  else if (type == "s8")
    use(int8_t{});
  else if (type == "u16" || type == "b16")
    use(uint16_t{});
  else if (type == "s16")
    use(int16_t{});
  else if (type == "u32" || type == "b32")
    use(uint32_t{});
  else if (type == "s32")
    use(int32_t{});
  else if (type == "u64" || type == "b64")
    use(uint64_t{});
  else if (type == "s64")
    use(int64_t{});
  else
    return false;
  return true;
}

}  // namespace

void Decoder::convert(const Statement& s, const std::vector<std::string>& parts, Instruction& ins) {
  const std::string& from = parts.back();
  const std::string& to = parts[parts.size() - 2];
  if (to == "f16x2" || to == "bf16x2" || to == "e4m3x2") {
    if (from != "f32" || !has(parts, "rn")) throw Error("unknown conversion");
    if (to == "e4m3x2" && !has(parts, "satfinite")) throw Error("e4m3x2 without satfinite");
    ins.d = target(s.operands.at(0), to == "e4m3x2" ? "b16" : "b32");
    ins.a = source(s.operands.at(1), "f32");
    ins.b = source(s.operands.at(2), "f32");
    ins.fn = to == "f16x2" ? do_pack_half : to == "bf16x2" ? do_pack_bfloat : do_pack_e4m3;
    return;
  }
  std::string declared = from;
  lookup(s.operands.at(1), &declared);
  if (is_wide(declared) && !is_wide(from)) {
    // The low part of a wider register, taken by an instruction of its own.
    Instruction narrow;
    narrow.guard = ins.guard;
    narrow.guard_flip = ins.guard_flip;
    narrow.a = source(s.operands.at(1), declared);
    narrow.d = ins.a = kernel_.vectors++;
    narrow.fn = op1<uint32_t, uint64_t, [](uint64_t x) { return static_cast<uint32_t>(x); }>;
    kernel_.code.push_back(narrow);
  } else {
    ins.a = source(s.operands.at(1), from);
  }
  ins.d = target(s.operands.at(0), to);
  const bool from_integer = integer_type(from, [](auto) {});
  const bool to_integer = integer_type(to, [](auto) {});
  if (from_integer && to_integer) {
    integer_type(from, [&](auto a) {
      integer_type(to, [&](auto d) { ins.fn = do_convert<decltype(d), decltype(a)>; });
    });
    if (has(parts, "sat")) throw Error("saturating conversion");
  } else if (from_integer && to == "f32" && has(parts, "rn")) {
    integer_type(from, [&](auto a) { ins.fn = do_convert<float, decltype(a)>; });
  } else if (from_integer && to == "f64" && has(parts, "rn")) {
    integer_type(from, [&](auto a) { ins.fn = do_convert<double, decltype(a)>; });
  } else if (from == "f32" && to_integer && has(parts, "rzi")) {
    integer_type(to, [&](auto d) { ins.fn = do_truncate<decltype(d), float>; });
  } else if (from == "f64" && to_integer && has(parts, "rzi")) {
    integer_type(to, [&](auto d) { ins.fn = do_truncate<decltype(d), double>; });
  } else if (from == "f32" && to == "f64") {
    ins.fn = do_convert<double, float>;
  } else if (from == "f64" && to == "f32" && has(parts, "rn")) {
    ins.fn = do_convert<float, double>;
  } else if (from == "f32" && to == "f32" && has(parts, "sat") && parts.size() == 4) {
    ins.fn = op1<float, float,
                 [](float x) { return x != x ? 0.0f : std::fmin(1.0f, std::fmax(0.0f, x)); }>;
  } else if (from == "f16" && to == "f32") {
    ins.fn = op1<float, uint16_t, [](uint16_t x) { return half_to_float(x); }>;
  } else if (from == "bf16" && to == "f32") {
    ins.fn = op1<float, uint16_t, [](uint16_t x) { return bfloat_to_float(x); }>;
  } else if (from == "f32" && to == "f16" && has(parts, "rn")) {
    ins.fn = op1<uint16_t, float, [](float x) { return float_to_half(x); }>;
  } else if (from == "f32" && to == "bf16" && has(parts, "rn")) {
    ins.fn = op1<uint16_t, float, [](float x) { return float_to_bfloat(x); }>;
  } else {
    throw Error("unknown conversion");
  }
}

}  // namespace covis::emulator
