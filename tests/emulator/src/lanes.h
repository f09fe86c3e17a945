// Element-wise handlers over the 32 lanes of a warp.
#pragma once

#include <type_traits>

#include "warp.h"

namespace covis::emulator {

// How a PTX type lies in a register vector: 16-bit and 8-bit ones in 32-bit lanes, zero-extended.
template <class T>
using Stored = std::conditional_t<(sizeof(T) < 4), uint32_t, T>;

template <class T>
inline T get(const Stored<T>* x, int lane) {
  if constexpr (sizeof(T) < 4)
    return static_cast<T>(x[lane]);
  else
    return x[lane];
}
template <class T>
inline Stored<T> stored(T x) {
  if constexpr (sizeof(T) < 4)
    return static_cast<std::make_unsigned_t<T>>(x);
  else
    return x;
}

template <class D, class F>
inline void each(Warp& w, Stored<D>* d, F f) {
  const uint32_t exec = w.exec;
  if (exec == ~0u) {
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) d[l] = stored<D>(f(l));
  } else {
    for (int l = 0; l < kLanes; ++l)
      if (exec >> l & 1) d[l] = stored<D>(f(l));
  }
}

template <class D, class A, auto F>
void op1(Warp& w, const Instruction& i) {
  const auto* a = w.reg<Stored<A>>(i.a);
  each<D>(w, w.reg<Stored<D>>(i.d), [&](int l) { return static_cast<D>(F(get<A>(a, l))); });
}
template <class D, class A, class B, auto F>
void op2(Warp& w, const Instruction& i) {
  const auto* a = w.reg<Stored<A>>(i.a);
  const auto* b = w.reg<Stored<B>>(i.b);
  each<D>(w, w.reg<Stored<D>>(i.d),
          [&](int l) { return static_cast<D>(F(get<A>(a, l), get<B>(b, l))); });
}
template <class D, class A, class B, class C, auto F>
void op3(Warp& w, const Instruction& i) {
  const auto* a = w.reg<Stored<A>>(i.a);
  const auto* b = w.reg<Stored<B>>(i.b);
  const auto* c = w.reg<Stored<C>>(i.c);
  each<D>(w, w.reg<Stored<D>>(i.d),
          [&](int l) { return static_cast<D>(F(get<A>(a, l), get<B>(b, l), get<C>(c, l))); });
}

inline uint32_t shared_address(const Warp& w, uint32_t vector, int lane, int64_t offset) {
  return w.reg<uint32_t>(vector)[lane] + static_cast<uint32_t>(offset);
}

// Predicates.
inline void put_predicate(Warp& w, uint32_t p, uint32_t bits) {
  if (p != kNone) w.predicates[p] = (w.predicates[p] & ~w.exec) | (bits & w.exec);
}

enum Compare : int { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };

template <class T, int C>
inline bool compare(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    const bool nan = a != a || b != b;
    if constexpr (C == kNum) return !nan;
    if constexpr (C == kNan) return nan;
    if constexpr (C >= kEqu) {
      if (nan) return true;
    } else if (nan) {
      return false;
    }
  }
  constexpr int kind = C >= kEqu ? C - kEqu : C;
  if constexpr (kind == kEq) return a == b;
  if constexpr (kind == kNe) return a != b;
  if constexpr (kind == kLt) return a < b;
  if constexpr (kind == kLe) return a <= b;
  if constexpr (kind == kGt) return a > b;
  if constexpr (kind == kGe) return a >= b;
  return false;
}

// d = compare(a, b) op c; e = not the comparison, op c. small: 0 no op, 1 and, 2 or, 3 xor.
template <class T, int C>
void set_predicate(Warp& w, const Instruction& i) {
  const auto* a = w.reg<Stored<T>>(i.a);
  const auto* b = w.reg<Stored<T>>(i.b);
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; ++l)
    bits |= static_cast<uint32_t>(compare<T, C>(get<T>(a, l), get<T>(b, l))) << l;
  uint32_t inverse = ~bits;
  if (i.small != 0) {
    const uint32_t c = w.predicates[i.c] ^ ((i.flip >> 2 & 1) ? ~0u : 0u);
    const auto join = [&](uint32_t x) {
      return i.small == 1 ? x & c : i.small == 2 ? x | c : x ^ c;
    };
    bits = join(bits);
    inverse = join(inverse);
  }
  put_predicate(w, i.d, bits);
  put_predicate(w, i.e, inverse);
}

}  // namespace covis::emulator
