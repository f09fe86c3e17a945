// PTX text -> decoded kernels. Registers are vectors of 32 lanes in one arena a warp; immediates,
// symbols and special registers are vectors of it as well, so that handlers know operands only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace covis::emulator {

inline constexpr int kLanes = 32;
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 60;  // generic addresses of shared memory
inline constexpr uint64_t kLocalWindow = uint64_t{1} << 59;   // and of local memory
inline constexpr uint32_t kSharedBase = 1024;  // the first KiB belongs to the system, as on sm_90

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&);

inline constexpr uint32_t kNone = ~0u;

struct Instruction {
  Handler fn = nullptr;
  uint32_t d = kNone, a = kNone, b = kNone, c = kNone;  // vectors, or predicate numbers
  uint32_t e = kNone;                                   // a second destination, or a fourth source
  int32_t guard = -1;                                   // predicate number
  uint32_t guard_flip = 0;
  uint32_t flip = 0;       // bit i: source predicate i is negated
  int32_t target = -1;     // of a branch
  int64_t imm = 0;         // address offset, comparison, ...
  uint32_t list = 0;       // first entry in Kernel::lists
  uint16_t list_size = 0;  // registers of a vector operand
  uint8_t branch = 0;      // ends straight-line code
  uint8_t small = 0;       // handler's own: element bytes, ...
  uint32_t line = 0;       // of the PTX text
  uint32_t place = 0;      // in the source: one behind that of Kernel::places; 0 = unknown
  uint32_t touched = 0;    // Kernel::touched: register vectors read or written
  uint16_t reads = 0, writes = 0;
};

struct Symbol {
  enum Space { kShared, kGlobal, kParam, kLocal } space = kShared;
  uint64_t address = 0;  // offset in its space; for kGlobal the host address
  uint64_t size = 0;
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<uint32_t> lists;
  std::vector<uint32_t> touched;
  uint32_t vectors = 0;  // size of a warp's arena
  uint32_t predicates = 0;
  struct Constant {
    uint32_t vector;
    bool wide;
    uint64_t bits;
    enum Kind { kValue, kParamAddress, kTid, kCtaid, kNtid, kNctaid, kLane } kind;
    int axis;
  };
  std::vector<Constant> constants;
  struct Param {
    uint32_t offset, size;
  };
  std::vector<Param> params;
  uint32_t param_bytes = 0;
  uint32_t static_shared = 0;  // behind kSharedBase; dynamic shared memory follows
  uint32_t dynamic_align = 16;
  uint32_t dynamic_base() const {
    return (kSharedBase + static_shared + dynamic_align - 1) / dynamic_align * dynamic_align;
  }
  uint32_t local_bytes = 0;  // a thread
  int max_threads = 0;
  std::vector<std::string> places;                 // in the source, see SourceLines
  const std::vector<std::string>* text = nullptr;  // lines of the module
};

struct Module {
  std::string path;
  std::vector<std::string> lines;
  std::vector<std::unique_ptr<uint8_t[]>> globals;
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
};

// Parses a file; throws Error with the line of what it does not know.
std::unique_ptr<Module> load_module(const std::string& path);

}  // namespace covis::emulator
