// Asynchronous copies: cp.async, and the bulk copies of tensor maps.
#include <algorithm>

#include "cta.h"
#include "decode.h"

namespace covis::emulator {
namespace {

// cp.async: a target, b source, c bytes of the source; small: bytes.
void do_cp_async(Warp& w, const Instruction& i) {
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    const uint32_t target = shared_address(w, i.a, l, i.imm);
    uint32_t bytes = i.c == kNone ? i.small : w.reg<uint32_t>(i.c)[l];
    if (bytes > i.small) w.fail("cp.async: source size");
    const uint64_t source = w.reg<uint64_t>(i.b)[l];
    if (source % i.small != 0) w.fail("cp.async: misaligned source");
    if (bytes > 0) w.cta->global_at(w, source, bytes, false);
    w.cta->shared_at(w, target, i.small, i.small);
    w.cta->issued_copy(w, l, target, i.small, ++w.copies);
    w.open_copies[l].push_back({source, target, bytes, i.small - bytes, w.copies});
  }
}

void run_copy(Warp& w, int lane, const AsyncCopy& copy) {
  uint8_t* to = w.cta->shared.data() + copy.target;
  std::memcpy(to, reinterpret_cast<const void*>(copy.source), copy.bytes);
  std::memset(to + copy.bytes, 0, copy.zeros);
  w.cta->filled_shared(w, lane, copy.target, copy.bytes + copy.zeros);
}

void do_cp_commit(Warp& w, const Instruction&) {
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    if (!options().lazy_copies)
      for (const auto& copy : w.open_copies[l]) run_copy(w, l, copy);
    w.copy_groups[l].push_back(std::move(w.open_copies[l]));
    w.open_copies[l].clear();
  }
}

void do_cp_wait(Warp& w, const Instruction& i) {
  const size_t keep = i.small == 1 ? 0 : static_cast<size_t>(i.imm);
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    auto& groups = w.copy_groups[l];
    const size_t done = groups.size() > keep ? groups.size() - keep : 0;
    for (size_t k = 0; k < done; ++k) {
      for (const auto& copy : groups[k]) {
        if (options().lazy_copies) run_copy(w, l, copy);
        uint32_t& over = w.clocks.at[32 + w.index];  // for what comes behind the wait
        over = std::max(over, copy.number);
      }
    }
    groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(done));
  }
}

const TensorMap* map_at(Warp& w, uint64_t address) {
  const auto* map = reinterpret_cast<const TensorMap*>(address);
  if (address % 64 != 0) w.fail("tensor map is not aligned to 64 bytes");
  const uint64_t first = reinterpret_cast<uint64_t>(w.cta->launch->params);
  if (address < first || address + 128 > first + w.kernel->param_bytes)
    w.fail("tensor map outside the parameters");
  if (map->magic != kMapMagic) w.fail("tensor map was never encoded");
  return map;
}

// a: target, b: map, c: barrier, list: coordinates.
void do_bulk_load(Warp& w, const Instruction& i) {
  const uint32_t* regs = &w.kernel->lists[i.list];
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    PendingCopy copy{};
    copy.map = map_at(w, w.reg<uint64_t>(i.b)[l]);
    if (copy.map->rank != i.list_size) w.fail("tensor map of another rank");
    for (int k = 0; k < i.list_size; ++k)
      copy.at[k] = static_cast<int32_t>(w.reg<uint32_t>(regs[k])[l]);
    copy.target = w.reg<uint32_t>(i.a)[l];
    copy.barrier = w.reg<uint32_t>(i.c)[l];
    if (copy.target % 128 != 0) w.fail("bulk copy: shared address is not aligned to 128 bytes");
    w.cta->shared_at(w, copy.target, box_bytes(*copy.map), 128);
    w.cta->mbarrier(w, copy.barrier);
    copy.warp = w.index;
    copy.clocks = w.clocks;
    copy.number = ++w.copies;
    copy.issued = &i;
    copy.delay = options().lazy_copies ? 1 + static_cast<int>(w.cta->random() % 12) : 0;
    w.cta->copies.push_back(copy);
    if (!options().lazy_copies) w.cta->finish_copy(w.cta->copies.size() - 1);
  }
}

// a: source, b: map.
void do_bulk_store(Warp& w, const Instruction& i) {
  const uint32_t* regs = &w.kernel->lists[i.list];
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    BulkStore store{};
    store.map = map_at(w, w.reg<uint64_t>(i.b)[l]);
    if (store.map->rank != i.list_size) w.fail("tensor map of another rank");
    for (int k = 0; k < i.list_size; ++k)
      store.at[k] = static_cast<int32_t>(w.reg<uint32_t>(regs[k])[l]);
    store.source = w.reg<uint32_t>(i.a)[l];
    store.group = w.open_group[l];
    if (store.source % 128 != 0) w.fail("bulk store: shared address is not aligned to 128 bytes");
    w.cta->shared_at(w, store.source, box_bytes(*store.map), 128);
    // The fence must come before the issue, whenever the copy itself happens.
    w.cta->async_read(w, store.source, box_bytes(*store.map), "bulk store");
    if (options().lazy_copies)
      w.stores[l].push_back(store);
    else
      store_box(*w.cta, store);
  }
}

void do_bulk_commit(Warp& w, const Instruction&) {
  for (int l = 0; l < kLanes; ++l)
    if (w.exec >> l & 1) ++w.open_group[l];
}

void do_bulk_wait(Warp& w, const Instruction& i) {
  for (int l = 0; l < kLanes; ++l) {
    if (!(w.exec >> l & 1)) continue;
    auto& stores = w.stores[l];
    const int done =
        w.open_group[l] - static_cast<int>(i.imm);  // groups before this are waited for
    size_t count = 0;
    while (count < stores.size() && stores[count].group < done) store_box(*w.cta, stores[count++]);
    stores.erase(stores.begin(), stores.begin() + static_cast<std::ptrdiff_t>(count));
  }
}

}  // namespace

void Decoder::copy(const Statement& s, Instruction& ins) {
  const auto& op = s.operands;
  const std::string& name = s.opcode;
  if (name == "cp.async.commit_group") {
    ins.fn = do_cp_commit;
  } else if (name == "cp.async.wait_group" || name == "cp.async.wait_all") {
    ins.small = name == "cp.async.wait_all";
    if (ins.small == 0) ins.imm = std::stol(op.at(0));
    ins.fn = do_cp_wait;
  } else if (name == "cp.async.cg.shared.global" || name == "cp.async.ca.shared.global") {
    ins.a = shared_base(op.at(0), ins);
    const Address from = address(op.at(1));
    if (from.offset != 0 || !from.wide) throw Error("an offset of the source");
    ins.b = from.base;
    ins.small = static_cast<uint8_t>(std::stoul(op.at(2)));
    if (op.size() > 3) ins.c = source(op[3], "u32");
    ins.fn = do_cp_async;
  } else if (name ==
             "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes") {
    // [target], [map, {coordinates}], [barrier]
    const std::string inside = op.at(1).substr(1, op.at(1).size() - 2);
    const size_t comma = inside.find(',');
    ins.c = shared_base(op.at(2), ins);
    if (ins.imm != 0) throw Error("an offset of the barrier");
    ins.a = shared_base(op.at(0), ins);
    if (ins.imm != 0) throw Error("an offset of the target");
    ins.b = source(inside.substr(0, comma), "u64");
    put_list(ins, list(inside.substr(comma + 1)), "b32", false);
    ins.fn = do_bulk_load;
  } else if (name == "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group") {
    const std::string inside = op.at(0).substr(1, op.at(0).size() - 2);
    const size_t comma = inside.find(',');
    ins.a = shared_base(op.at(1), ins);
    if (ins.imm != 0) throw Error("an offset of the source");
    ins.b = source(inside.substr(0, comma), "u64");
    put_list(ins, list(inside.substr(comma + 1)), "b32", false);
    ins.fn = do_bulk_store;
  } else if (name == "cp.async.bulk.commit_group") {
    ins.fn = do_bulk_commit;
  } else if (name == "cp.async.bulk.wait_group.read" || name == "cp.async.bulk.wait_group") {
    ins.imm = std::stol(op.at(0));
    ins.fn = do_bulk_wait;
  } else {
    throw Error("unknown instruction");
  }
}

}  // namespace covis::emulator
