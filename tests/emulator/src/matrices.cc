// mma.sync and the matrix loads and stores.
#include "cta.h"
#include "decode.h"
#include "operand_type.h"

namespace covis::emulator {

namespace {

// small: matrices; flip: 1 transposed. Row `lane % 8` of matrix `lane / 8` lies at a lane's
// address.
void do_ldmatrix(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  const uint32_t* regs = &w.kernel->lists[i.list];
  for (int m = 0; m < i.small; ++m) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) {
      const uint32_t at = w.reg<uint32_t>(i.a)[8 * m + row] + static_cast<uint32_t>(i.imm);
      std::memcpy(matrix[row], w.cta->shared_at(w, at, 16, 16), 16);
      w.cta->read_shared(w, 8 * m + row, at, 16);
    }
    auto* d = w.reg<uint32_t>(regs[m]);
    for (int l = 0; l < kLanes; ++l) {
      const int row = l / 4;
      const int column = 2 * (l % 4);
      const uint32_t low = i.flip ? matrix[column][row] : matrix[row][column];
      const uint32_t high = i.flip ? matrix[column + 1][row] : matrix[row][column + 1];
      d[l] = low | high << 16;
    }
  }
}

void do_stmatrix(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  const uint32_t* regs = &w.kernel->lists[i.list];
  for (int m = 0; m < i.small; ++m) {
    const auto* d = w.reg<uint32_t>(regs[m]);
    for (int row = 0; row < 8; ++row) {
      const uint32_t at = w.reg<uint32_t>(i.a)[8 * m + row] + static_cast<uint32_t>(i.imm);
      uint32_t values[4];
      for (int k = 0; k < 4; ++k) values[k] = d[4 * row + k];
      std::memcpy(w.cta->shared_at(w, at, 16, 16), values, 16);
      w.cta->wrote_shared(w, 8 * m + row, at, 16);
    }
  }
}

// m16n8k16, row.col, float32 accumulators. lists: d 4, a 4, b 2, c 4.
void do_mma(Warp& w, const Instruction& i) {
  if (!w.converge(~0u)) return;
  const uint32_t* regs = &w.kernel->lists[i.list];
  const int type = i.small;
  float a[16][16];
  float b[16][8];
  const auto number = [&](uint32_t reg, int lane, int e) {
    return decode(type, reinterpret_cast<const uint8_t*>(w.reg<uint32_t>(reg) + lane) + 2 * e);
  };
  for (int l = 0; l < kLanes; ++l) {
    for (int e = 0; e < 2; ++e) {
      for (int r = 0; r < 4; ++r)
        a[l / 4 + 8 * (r % 2)][2 * (l % 4) + e + 8 * (r / 2)] = number(regs[4 + r], l, e);
      for (int r = 0; r < 2; ++r) b[2 * (l % 4) + e + 8 * r][l / 4] = number(regs[8 + r], l, e);
    }
  }
  float out[4][kLanes];
  for (int r = 0; r < 4; ++r)
    for (int l = 0; l < kLanes; ++l) {
      float sum = w.reg<float>(regs[10 + r])[l];
      const int row = l / 4 + 8 * (r / 2);
      const int column = 2 * (l % 4) + r % 2;
      for (int k = 0; k < 16; ++k) sum = __builtin_fmaf(a[row][k], b[k][column], sum);
      out[r][l] = sum;
    }
  for (int r = 0; r < 4; ++r) std::memcpy(w.reg<float>(regs[r]), out[r], sizeof(out[r]));
  ++w.cta->products;
}

}  // namespace

void Decoder::matrix(const Statement& s, Instruction& ins) {
  const auto& op = s.operands;
  const auto watched = [&](const std::string& text, bool write) {
    const auto found = registers(text);
    for (const uint32_t vector : found) touch(vector, false, write);
    return found;
  };
  const auto starts = [&](const char* text) { return s.opcode.rfind(text, 0) == 0; };
  if (starts("mma.sync.aligned.m16n8k16.row.col.f32.")) {
    std::vector<uint32_t> vectors;
    for (int i = 0; i < 4; ++i)
      for (const uint32_t vector : watched(op.at(i), i == 0)) vectors.push_back(vector);
    if (vectors.size() != 14) throw Error("mma: number of registers");
    put_vectors(ins, vectors);
    ins.small = s.opcode.find(".bf16.bf16.") != std::string::npos ? kBfloat : kHalf;
    ins.fn = do_mma;
    return;
  }
  const bool load = starts("ldmatrix.sync.aligned.");
  if (!load && !starts("stmatrix.sync.aligned.")) throw Error("unknown product");
  if (s.opcode.find("m8n8") == std::string::npos || s.opcode.find(".b16") == std::string::npos)
    throw Error("unknown matrix access");
  put_vectors(ins, watched(op.at(load ? 0 : 1), load));
  const Address at = address(op.at(load ? 1 : 0));
  ins.a = at.base;
  ins.imm = at.offset;
  ins.small = static_cast<uint8_t>(ins.list_size);
  ins.flip = s.opcode.find(".trans") != std::string::npos;
  if (!load && ins.flip != 0) throw Error("stmatrix.trans is not supported");
  ins.fn = load ? do_ldmatrix : do_stmatrix;
}

}  // namespace covis::emulator
