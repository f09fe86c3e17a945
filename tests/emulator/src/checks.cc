// Checked accesses to memory, and what the checkers make of them: bounds, alignment, uninitialised
// shared memory, proxies, races.
#include <algorithm>

#include "cta.h"

namespace covis::emulator {

uint8_t* Cta::global_at(Warp& warp, uint64_t address, uint32_t bytes, bool write) {
  auto* p = reinterpret_cast<uint8_t*>(address);
  if (address >= hit_begin && address + bytes <= hit_end && (!write || hit_writable)) return p;
  const auto params = reinterpret_cast<uint64_t>(launch->params);
  if (address >= params && address + bytes <= params + launch->kernel->param_bytes) {
    if (write) warp.fail("writes a parameter");
    return p;
  }
  const auto& all = allocations();
  for (const auto& a : all) {
    if (address >= a.begin && address + bytes <= a.end) {
      if (write && !a.writable) warp.fail("writes memory that is only to be read");
      hit_begin = a.begin;
      hit_end = a.end;
      hit_writable = a.writable;
      return p;
    }
  }
  std::string near;
  for (const auto& a : all)
    if (address + 4096 > a.begin && address < a.end + 4096)
      near += " (allocation of " + std::to_string(a.end - a.begin) + " bytes, offset " +
              std::to_string(static_cast<int64_t>(address - a.begin)) + ")";
  warp.fail(std::string(write ? "write" : "read") + " of " + std::to_string(bytes) +
            " bytes outside all allocations" + near);
}

uint8_t* Cta::shared_at(Warp& warp, uint64_t offset, uint32_t bytes, uint32_t align) {
  if (offset < kSharedBase || offset + bytes > shared_end)
    warp.fail("shared memory: offset " + std::to_string(offset) + ", " + std::to_string(bytes) +
              " bytes, of " + std::to_string(shared_end));
  if (offset % align != 0) warp.fail("misaligned shared address " + hex(offset));
  return shared.data() + offset;
}

namespace {

std::string agent(int writer) {
  return writer < 32 ? "warp " + std::to_string(writer)
                     : "a copy of warp " + std::to_string(writer - 32);
}

}  // namespace

void Cta::filled_shared(Warp& warp, int lane, uint32_t offset, uint32_t bytes) {
  if (shadow.empty()) return;
  for (uint32_t at = offset; at < offset + bytes;) {
    const uint32_t granule = at / 16;
    const uint32_t last = std::min(offset + bytes, granule * 16 + 16);
    Shadow& s = shadow[granule];
    s.written = ++now;
    s.writer = static_cast<uint16_t>(warp.index * kLanes + lane);
    for (uint32_t b = at; b < last; ++b) s.initialised |= static_cast<uint16_t>(1u << b % 16);
    at = last;
  }
  if (mbarriers[offset / 8].valid) warp.note("writes over an mbarrier");
}

void Cta::wrote_shared(Warp& warp, int lane, uint32_t offset, uint32_t bytes, bool atomic) {
  filled_shared(warp, lane, offset, bytes);
  if (cells.empty()) return;
  for (uint32_t c = offset; c < offset + bytes; ++c) {
    Cell& cell = cells[c];
    const bool both_atomic = atomic && cell.atomic;
    if (cell.writer != 0xff && cell.writer != warp.index && !both_atomic &&
        warp.clocks.at[cell.writer] < cell.write_clock)
      warp.note("race: writes what " + agent(cell.writer) + " wrote");
    if (cell.writer == warp.index && cell.epoch == warp.epoch && cell.lane != lane && !both_atomic)
      warp.note("race in the warp: writes what another lane wrote");
    cell.lane = static_cast<uint8_t>(lane);
    cell.epoch = warp.epoch;
    cell.writer = static_cast<uint8_t>(warp.index);
    cell.write_clock = warp.clocks.at[warp.index];
    cell.atomic = atomic;
  }
  check_readers(warp, lane, offset, bytes, atomic);
}

void Cta::issued_copy(Warp& warp, int lane, uint32_t offset, uint32_t bytes, uint32_t number) {
  if (cells.empty()) return;
  for (uint32_t c = offset; c < offset + bytes; ++c) {
    Cell& cell = cells[c];
    if (cell.writer != 0xff && cell.writer != warp.index &&
        warp.clocks.at[cell.writer] < cell.write_clock)
      warp.note("race: a copy overwrites what " + agent(cell.writer) + " wrote");
    cell.writer = static_cast<uint8_t>(32 + warp.index);
    cell.write_clock = number;
    cell.atomic = false;
  }
  check_readers(warp, lane, offset, bytes, false);
}

void Cta::check_readers(Warp& warp, int lane, uint32_t offset, uint32_t bytes, bool atomic) {
  for (uint32_t c = offset / 4; c <= (offset + bytes - 1) / 4; ++c) {
    const Readers& all = readers[c];
    for (int r = 0; r < static_cast<int>(warps.size()); ++r)
      if (r != warp.index && all.clock[r] > warp.clocks.at[r])
        warp.note("race: writes what warp " + std::to_string(r) + " reads");
    if (all.last == static_cast<uint32_t>(warp.index) && all.epoch == warp.epoch && bytes >= 4 &&
        (all.lanes & ~(1u << lane)) != 0 && !atomic)
      warp.note("race in the warp: writes what another lane reads");
  }
}

void Cta::read_shared(Warp& warp, int lane, uint32_t offset, uint32_t bytes) {
  if (!shadow.empty()) {
    for (uint32_t b = offset; b < offset + bytes; ++b)
      if (!(shadow[b / 16].initialised >> b % 16 & 1)) {
        warp.note("reads shared memory that nothing wrote");
        break;
      }
  }
  if (!cells.empty()) {
    for (uint32_t c = offset; c < offset + bytes; ++c) {
      const Cell& cell = cells[c];
      if (cell.writer != 0xff && cell.writer != warp.index &&
          warp.clocks.at[cell.writer] < cell.write_clock)
        warp.note("race: reads what " + agent(cell.writer) + " wrote");
      if (lane >= 0 && cell.writer == warp.index && cell.epoch == warp.epoch && cell.lane != lane)
        warp.note("race in the warp: reads what another lane wrote");
    }
    for (uint32_t c = offset / 4; c <= (offset + bytes - 1) / 4; ++c) {
      Readers& all = readers[c];
      all.clock[warp.index] = warp.clocks.at[warp.index];
      if (lane < 0) continue;
      if (all.last != static_cast<uint32_t>(warp.index) || all.epoch != warp.epoch) {
        all.last = static_cast<uint32_t>(warp.index);
        all.epoch = warp.epoch;
        all.lanes = 0;
      }
      all.lanes |= 1u << lane;
    }
  }
}

void Cta::async_read(Warp& warp, uint32_t offset, uint32_t bytes, const char* what) {
  if (!shadow.empty()) {
    for (uint32_t g = offset / 16; g <= (offset + bytes - 1) / 16; ++g) {
      const Shadow& s = shadow[g];
      if (s.initialised != 0xffff) {
        warp.note(std::string(what) + " reads shared memory that nothing wrote");
        break;
      }
      if (s.written > fenced[s.writer]) {
        warp.note(std::string(what) + " reads ordinary stores without fence.proxy.async");
        break;
      }
    }
  }
  if (!cells.empty()) read_shared(warp, -1, offset, bytes);
}

void Cta::async_wrote(const PendingCopy& copy, uint32_t bytes) {
  const uint32_t offset = copy.target;
  if (!shadow.empty()) {
    for (uint32_t g = offset / 16; g < (offset + bytes) / 16; ++g) {
      shadow[g].written = 0;
      shadow[g].initialised = 0xffff;
    }
  }
  if (!cells.empty()) {
    const std::string where = launch->kernel->name + ", " + place(*launch->kernel, *copy.issued) +
                              ": race: a copy overwrites what ";
    for (uint32_t c = offset; c < offset + bytes; ++c) {
      Cell& cell = cells[c];
      if (cell.writer != 0xff && copy.clocks.at[cell.writer] < cell.write_clock)
        add_finding(where + agent(cell.writer) + " wrote");
      cell.writer = static_cast<uint8_t>(32 + copy.warp);
      cell.write_clock = copy.number;
      cell.atomic = false;
    }
    for (uint32_t c = offset / 4; c < (offset + bytes) / 4; ++c)
      for (int r = 0; r < static_cast<int>(warps.size()); ++r)
        if (readers[c].clock[r] > copy.clocks.at[r])
          add_finding(where + "warp " + std::to_string(r) + " reads");
  }
}

}  // namespace covis::emulator
