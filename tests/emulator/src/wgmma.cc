// wgmma: descriptors, swizzles, fragments, and the order of its fences and groups.
#include <algorithm>
#include <cstdio>

#include "cta.h"
#include "decode.h"
#include "operand_type.h"

namespace covis::emulator {
namespace {

struct Shape {
  int n, k, type;
  bool a_registers, trans_a, trans_b;
  explicit Shape(const Instruction& i)
      : n(static_cast<int>(i.imm & 0xffff)),
        k(static_cast<int>(i.imm >> 16 & 0xffff)),
        type(static_cast<int>(i.imm >> 32)),
        a_registers(i.small != 0),
        trans_a((i.flip & 1) != 0),
        trans_b((i.flip & 2) != 0) {}
  int element() const { return type == kE4m3 ? 1 : 2; }
};

// A matrix in shared memory as a descriptor tells it. Offsets are those of the PTX ISA's canonical
// layouts, in bytes; swizzling exchanges 16-byte chunks by address bits.
struct Descriptor {
  uint32_t start, leading, stride, width;  // width of a swizzled row; 16 = not swizzled

  Descriptor(Warp& w, uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        width(16) {
    if ((bits >> 49 & 7) != 0) w.fail("descriptor with a base offset");
    static constexpr uint32_t kWidths[] = {16, 128, 64, 32};
    width = kWidths[bits >> 62];
  }
  uint32_t swizzled(uint32_t address) const {
    const uint32_t chunks = width / 16 - 1;  // 0, 1, 3, 7
    return address ^ (address >> 7 & chunks) << 4;
  }
  // 16-byte chunk `chunk` along K of row `row`.
  uint32_t k_major(uint32_t row, uint32_t chunk) const {
    if (width == 16) return start + row / 8 * stride + chunk * leading + row % 8 * 16;
    return swizzled(start + row / 8 * stride + row % 8 * width + chunk * 16);
  }
  // 16-byte chunk `chunk` along M or N of step `k`.
  uint32_t mn_major(uint32_t chunk, uint32_t k) const {
    if (width == 16) return start + chunk * stride + k / 8 * leading + k % 8 * 16;
    const uint32_t per_row = width / 16;
    return swizzled(start + chunk % per_row * 16 + chunk / per_row * leading + k % 8 * width +
                    k / 8 * stride);
  }
};

float truncated(float x, int bits) {
  if (bits == 0) return x;
  uint32_t raw;
  std::memcpy(&raw, &x, 4);
  raw &= ~0u << (23 - (bits - 1));
  std::memcpy(&x, &raw, 4);
  return x;
}

}  // namespace

void run_product(Warp& w, const WgmmaOp& op) {
  const Instruction& ins = *op.ins;
  const Shape s(ins);
  Cta& cta = *w.cta;
  const uint32_t* d_regs = &w.kernel->lists[ins.list];
  const int d_count = s.n / 2;
  const int element = s.element();
  const int per_chunk = 16 / element;
  static thread_local float a[16][32];
  static thread_local float b[32][256];
  static thread_local float acc[16][256];

  const auto chunk_at = [&](uint32_t address) -> const uint8_t* {
    const uint8_t* p = cta.shared_at(w, address, 16, 16);
    cta.async_read(w, address, 16, "wgmma");
    return p;
  };

  if (s.a_registers) {
    const uint32_t* regs = d_regs + d_count;
    for (int r = 0; r < 4; ++r) {
      const uint32_t* values = w.reg<uint32_t>(regs[r]);
      for (int l = 0; l < kLanes; ++l) {
        const int row = l / 4 + 8 * (r % 2);
        const int pairs = 4 / element;  // numbers of a register
        for (int e = 0; e < pairs; ++e) {
          const int column = pairs * (l % 4) + e + (s.k / 2) * (r / 2);
          a[row][column] =
              decode(s.type, reinterpret_cast<const uint8_t*>(values + l) + e * element);
        }
      }
    }
  } else {
    const Descriptor m(w, op.a_desc);
    const int first = 16 * (w.index % 4);
    if (s.trans_a) w.fail("wgmma: transposed A is not supported here");
    for (int row = 0; row < 16; ++row)
      for (int c = 0; c < s.k / per_chunk; ++c) {
        const uint8_t* p = chunk_at(m.k_major(first + row, c));
        for (int e = 0; e < per_chunk; ++e)
          a[row][c * per_chunk + e] = decode(s.type, p + e * element);
      }
  }
  const Descriptor m(w, op.b_desc);
  if (s.trans_b) {
    for (int k = 0; k < s.k; ++k)
      for (int c = 0; c < s.n / per_chunk; ++c) {
        const uint8_t* p = chunk_at(m.mn_major(c, k));
        for (int e = 0; e < per_chunk; ++e)
          b[k][c * per_chunk + e] = decode(s.type, p + e * element);
      }
  } else {
    for (int n = 0; n < s.n; ++n)
      for (int c = 0; c < s.k / per_chunk; ++c) {
        const uint8_t* p = chunk_at(m.k_major(n, c));
        for (int e = 0; e < per_chunk; ++e)
          b[c * per_chunk + e][n] = decode(s.type, p + e * element);
      }
  }
  if (op.scale_d) {
    for (int i = 0; i < d_count; ++i) {
      const float* values = w.reg<float>(d_regs[i]);
      for (int l = 0; l < kLanes; ++l)
        acc[l / 4 + 8 * (i / 2 % 2)][8 * (i / 4) + 2 * (l % 4) + i % 2] = values[l];
    }
  } else {
    for (auto& row : acc) std::fill(row, row + s.n, 0.0f);
  }
  for (int row = 0; row < 16; ++row) {
    float* out = acc[row];
    for (int k = 0; k < s.k; ++k) {
      const float x = a[row][k];
      const float* from = b[k];
      for (int n = 0; n < s.n; ++n) out[n] = __builtin_fmaf(x, from[n], out[n]);
    }
  }
  const int bits = s.type == kE4m3 ? options().fp8_bits : 0;
  for (int i = 0; i < d_count; ++i) {
    float* values = w.reg<float>(d_regs[i]);
    for (int l = 0; l < kLanes; ++l)
      values[l] = truncated(acc[l / 4 + 8 * (i / 2 % 2)][8 * (i / 4) + 2 * (l % 4) + i % 2], bits);
  }
  ++cta.products;
}

namespace {

void do_wgmma(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  if (w.exec != ~0u) w.fail("wgmma by a part of a warp");
  const Shape s(i);
  WgmmaOp op{};
  op.ins = &i;
  op.b_desc = w.reg<uint64_t>(i.b)[0];
  if (!s.a_registers) op.a_desc = w.reg<uint64_t>(i.a)[0];
  for (int l = 1; l < kLanes; ++l)
    if (w.reg<uint64_t>(i.b)[l] != op.b_desc ||
        (!s.a_registers && w.reg<uint64_t>(i.a)[l] != op.a_desc))
      w.fail("wgmma: descriptors differ in the warp");
  const uint32_t p = w.predicates[i.c] ^ (i.flip & 4 ? ~0u : 0u);
  if (p != 0 && p != ~0u) w.fail("wgmma: scale-d differs in the warp");
  op.scale_d = p != 0;
  for (const uint64_t x : {op.a_desc, op.b_desc, uint64_t{i.line}, uint64_t{op.scale_d}})
    w.product_hash = (w.product_hash ^ x) * 0x9e3779b97f4a7c15u + (w.product_hash >> 29);
  const uint32_t* regs = &w.kernel->lists[i.list];
  if (options().checks) {
    for (int k = 0; k < i.list_size; ++k) {
      if (w.stamp[regs[k]] > w.fence_clock) {
        w.note("wgmma: a register was written after the last wgmma.fence");
        break;
      }
    }
    for (int k = 0; k < i.list_size; ++k)
      w.in_flight[regs[k]] = static_cast<uint16_t>(w.in_flight[regs[k]] + (k < s.n / 2 ? 1 : 256));
  }
  ++w.pending_products;
  if (!options().lazy_wgmma) run_product(w, op);
  w.open.push_back(op);
}

void do_wgmma_fence(Warp& w, const Instruction&) {
  if (!w.converge(~0u)) return;
  w.fence_clock = w.clock;
}

void do_wgmma_commit(Warp& w, const Instruction&) {
  if (!w.converge(~0u)) return;
  w.groups.push_back(std::move(w.open));
  w.open.clear();
}

void do_wgmma_wait(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  w.product_done(static_cast<int>(i.imm));
}

}  // namespace

void Decoder::wgmma(const Statement& s, Instruction& ins) {
  const auto& op = s.operands;
  if (s.opcode == "wgmma.fence.sync.aligned") {
    ins.fn = do_wgmma_fence;
    return;
  }
  if (s.opcode == "wgmma.commit_group.sync.aligned") {
    ins.fn = do_wgmma_commit;
    return;
  }
  if (s.opcode == "wgmma.wait_group.sync.aligned") {
    ins.imm = std::stol(op.at(0));
    ins.fn = do_wgmma_wait;
    return;
  }
  int n = 0;
  int k = 0;
  char types[32] = {};
  const char* form = "wgmma.mma_async.sync.aligned.m64n%dk%d.f32.%31s";
  if (std::sscanf(s.opcode.c_str(), form, &n, &k, types) != 3) throw Error("unknown wgmma");
  static const std::map<std::string, int> pairs{
      {"f16.f16", kHalf}, {"bf16.bf16", kBfloat}, {"e4m3.e4m3", kE4m3}};
  const auto type = pairs.find(types);
  if (type == pairs.end() || k != (type->second == kE4m3 ? 32 : 16) || n > 256 || n % 8 != 0)
    throw Error("unknown wgmma");

  // Accumulators and operands in registers are watched while in flight, not as reads and writes.
  std::vector<uint32_t> vectors = registers(op.at(0));
  if (vectors.size() != static_cast<size_t>(n) / 2) throw Error("wgmma: number of accumulators");
  const bool from_registers = op.at(1)[0] == '{';
  if (from_registers) {
    const auto a = registers(op[1]);
    if (a.size() != 4) throw Error("wgmma: number of registers");
    vectors.insert(vectors.end(), a.begin(), a.end());
  } else {
    ins.a = source(op[1], "b64");
  }
  put_vectors(ins, vectors);
  ins.b = source(op.at(2), "b64");
  bool flip = false;
  ins.c = predicate(op.at(3), &flip, false);
  ins.flip = flip ? 4 : 0;
  if (op.at(4) != "1" || op.at(5) != "1") throw Error("negated operands");
  if (op.size() > 6) {  // with A in registers only B has a flag
    const bool trans_a = !from_registers && op[6] == "1";
    const bool trans_b = op.at(from_registers ? 6 : 7) == "1";
    if (type->second == kE4m3 && (trans_a || trans_b))
      throw Error("wgmma: 8-bit operands cannot be transposed");
    ins.flip |= (trans_a ? 1u : 0u) | (trans_b ? 2u : 0u);
  }
  ins.imm = n | int64_t{k} << 16 | int64_t{type->second} << 32;
  ins.small = from_registers;
  ins.fn = do_wgmma;
}

}  // namespace covis::emulator
