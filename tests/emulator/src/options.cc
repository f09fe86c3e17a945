#include "options.h"

#include <algorithm>
#include <mutex>
#include <set>

namespace covis::emulator {

Options& options() {
  static Options the;
  return the;
}
Counters& counters() {
  static Counters the;
  return the;
}

namespace {

std::vector<Allocation>& allocation_list() {
  static std::vector<Allocation> the;
  return the;
}

struct Findings {
  std::mutex mutex;
  std::set<std::string> seen;
  std::vector<std::string> lines;
};
Findings& state() {
  static Findings the;
  return the;
}

}  // namespace

const std::vector<Allocation>& allocations() { return allocation_list(); }
void add_allocation(uint64_t address, uint64_t bytes, bool writable) {
  auto& all = allocation_list();
  all.push_back({address, address + bytes, writable});
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
}
void clear_allocations() { allocation_list().clear(); }

bool allocated(uint64_t address, uint64_t bytes, bool write) {
  const auto& all = allocations();
  auto after = std::upper_bound(all.begin(), all.end(), address,
                                [](uint64_t x, const Allocation& a) { return x < a.begin; });
  if (after == all.begin()) return false;
  --after;
  return address + bytes <= after->end && (!write || after->writable);
}

void add_finding(const std::string& line) {
  Findings& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.seen.insert(line).second) all.lines.push_back(line);
}
std::vector<std::string> findings() {
  Findings& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.lines;
}
void clear_findings() {
  Findings& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.seen.clear();
  all.lines.clear();
}

}  // namespace covis::emulator
