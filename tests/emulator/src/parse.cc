// The parser of PTX text: modules, kernels, scopes, variables.
#include <fstream>
#include <sstream>

#include "cursor.h"
#include "declaration.h"
#include "decode.h"
#include "source_lines.h"

namespace covis::emulator {
namespace {

struct Scope {
  std::map<std::string, uint32_t> registers;  // vector or predicate number
  std::map<std::string, std::string> types;   // of a register
  std::map<std::string, int32_t> labels;
  std::vector<std::pair<size_t, std::string>> branches;  // to be resolved in this scope or outer
};

class Parser {
 public:
  Parser(Module& module, const std::string& text) : module_(module), cursor_{text}, lines_(text) {}

  void run() {
    while (!cursor_.done()) {
      const std::string w = cursor_.word();
      if (w.empty()) {
        cursor_.fail(std::string("unexpected ") + cursor_.peek());
      } else if (w == ".version" || w == ".target" || w == ".address_size" || w == ".file") {
        cursor_.rest_of_line();
      } else if (w == ".visible" || w == ".weak" || w == ".extern") {
        continue;  // a qualifier
      } else if (w == ".entry") {
        entry();
      } else if (w == ".global" || w == ".const" || w == ".shared") {
        variable(w, module_symbols_, nullptr);
      } else if (w == ".section") {  // the names of inlined functions
        cursor_.skip_braces();
      } else {
        cursor_.fail("unknown directive " + w);
      }
    }
  }

 private:
  void variable(const std::string& space, std::map<std::string, Symbol>& symbols, Kernel* kernel) {
    const std::string text = cursor_.until(';');
    if (text.find('=') != std::string::npos && space != ".shared")
      cursor_.fail("initialised variables are not supported: " + text);
    const Declaration found = parse_declaration(text);
    Symbol symbol;
    symbol.size = found.bytes();
    if (space == ".shared" && found.count == 0) {
      symbol.space = Symbol::kShared;
      symbol.size = found.align;
      symbol.address = ~uint64_t{0};  // dynamic: behind the static ones, Kernel::dynamic_base
    } else if (space == ".shared") {
      symbol.space = Symbol::kShared;
      if (kernel == nullptr) cursor_.fail("shared variable outside a kernel: " + found.name);
      symbol.address = found.aligned(kSharedBase + kernel->static_shared);
      kernel->static_shared = static_cast<uint32_t>(symbol.address + symbol.size - kSharedBase);
    } else if (space == ".local") {
      symbol.space = Symbol::kLocal;
      symbol.address = found.aligned(kernel->local_bytes);
      kernel->local_bytes = static_cast<uint32_t>(symbol.address + symbol.size);
    } else {
      symbol.space = Symbol::kGlobal;
      module_.globals.emplace_back(new uint8_t[symbol.size + 1]());
      symbol.address = reinterpret_cast<uint64_t>(module_.globals.back().get());
    }
    symbols[found.name] = symbol;
  }

  void entry() {
    auto kernel = std::make_unique<Kernel>();
    kernel->name = cursor_.word();
    kernel->text = &module_.lines;
    std::map<std::string, Symbol> symbols = module_symbols_;
    if (cursor_.peek() == '(') {
      ++cursor_.at;
      std::string text = cursor_.until(')');
      std::istringstream in(text);
      for (std::string part; std::getline(in, part, ',');) parameter(*kernel, symbols, part);
    }
    while (cursor_.peek() != '{') {
      const std::string w = cursor_.word();
      if (w == ".maxntid") {
        kernel->max_threads = 1;
        for (;;) {
          kernel->max_threads *= std::stoi(cursor_.word());
          if (cursor_.peek() != ',') break;
          ++cursor_.at;
        }
      } else if (w == ".minnctapersm" || w == ".maxnreg") {
        cursor_.word();
      } else {
        cursor_.fail("unknown directive " + w);
      }
    }
    ++cursor_.at;
    scopes_.clear();
    scopes_.emplace_back();
    Decoder decoder(*kernel, symbols);
    body(decoder, *kernel, symbols);
    module_.kernels[kernel->name] = std::move(kernel);
  }

  void parameter(Kernel& kernel, std::map<std::string, Symbol>& symbols, const std::string& part) {
    const Declaration found = parse_declaration(part);
    if (found.name.empty()) return;
    const uint32_t at = found.aligned(kernel.param_bytes);
    kernel.params.push_back({at, static_cast<uint32_t>(found.bytes())});
    kernel.param_bytes = static_cast<uint32_t>(at + found.bytes());
    symbols[found.name] = Symbol{Symbol::kParam, at, found.bytes()};
  }

  void body(Decoder& decoder, Kernel& kernel, std::map<std::string, Symbol>& symbols) {
    while (true) {
      const char c = cursor_.peek();
      if (c == '{') {
        ++cursor_.at;
        scopes_.emplace_back();
        continue;
      }
      if (c == '}') {
        ++cursor_.at;
        close(kernel);
        if (scopes_.empty()) return;
        continue;
      }
      if (c == ';') {
        ++cursor_.at;
        continue;
      }
      const size_t start = cursor_.at;
      const uint32_t line = cursor_.line;
      std::string w = cursor_.word();
      if (w == ".reg") {
        declare(kernel);
        continue;
      }
      if (w == ".shared" || w == ".local") {
        variable(w, symbols, &kernel);
        continue;
      }
      if (w == ".loc") {
        kernel.places.push_back(lines_.place(cursor_.rest_of_line()));
        continue;
      }
      if (w == ".pragma") {
        cursor_.until(';');
        continue;
      }
      if (!w.empty() && cursor_.peek() == ':') {
        ++cursor_.at;
        scopes_.back().labels[w] = static_cast<int32_t>(kernel.code.size());
        continue;
      }
      cursor_.at = start;
      cursor_.line = line;
      statement(decoder, kernel, cursor_.until(';'), line);
    }
  }

  void close(Kernel& kernel) {
    Scope scope = std::move(scopes_.back());
    scopes_.pop_back();
    for (auto& [index, label] : scope.branches) {
      const auto found = scope.labels.find(label);
      if (found != scope.labels.end())
        kernel.code[index].target = found->second;
      else if (!scopes_.empty())
        scopes_.back().branches.emplace_back(index, label);
      else
        cursor_.fail("unknown label " + label);
    }
  }

  // `.reg .b32 %r<10>;` or `.reg .pred a, b;`
  void declare(Kernel& kernel) {
    const std::string text = cursor_.until(';');
    std::istringstream in(text);
    std::string type;
    in >> type;
    std::string rest;
    std::getline(in, rest);
    std::istringstream names(rest);
    for (std::string name; std::getline(names, name, ',');) {
      name.erase(0, name.find_first_not_of(' '));
      name.erase(name.find_last_not_of(' ') + 1);
      int count = -1;
      const size_t angle = name.find('<');
      if (angle != std::string::npos) {
        count = std::stoi(name.substr(angle + 1));
        name = name.substr(0, angle);
      }
      for (int i = 0; i < (count < 0 ? 1 : count); ++i) {
        const std::string full = count < 0 ? name : name + std::to_string(i);
        uint32_t at;
        if (type == ".pred") {
          at = kernel.predicates++;
        } else {
          at = kernel.vectors;
          kernel.vectors += type_bytes(type) == 8 ? 2 : 1;
        }
        scopes_.back().registers[full] = at;
        scopes_.back().types[full] = type;
      }
    }
  }

  uint32_t lookup(const std::string& name, std::string* type) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto found = scopes_[i].registers.find(name);
      if (found == scopes_[i].registers.end()) continue;
      if (type != nullptr) *type = scopes_[i].types.at(name);
      return found->second;
    }
    return kNone;
  }

  void statement(Decoder& decoder, Kernel& kernel, std::string text, uint32_t line) {
    Statement s;
    size_t at = text.find_first_not_of(' ');
    if (at == std::string::npos) return;
    if (text[at] == '@') {
      ++at;
      if (text[at] == '!') {
        s.guard_flip = ~0u;
        ++at;
      }
      const size_t end = text.find(' ', at);
      const std::string name = text.substr(at, end - at);
      const uint32_t p = lookup(name, nullptr);
      if (p == kNone) cursor_.fail("unknown predicate " + name);
      s.guard = static_cast<int32_t>(p);
      at = text.find_first_not_of(' ', end);
    }
    const size_t end = std::min(text.find(' ', at), text.size());
    s.opcode = text.substr(at, end - at);
    std::string rest = text.substr(end);
    // Operands, apart at commas outside brackets.
    std::string one;
    int depth = 0;
    for (const char c : rest + ",") {
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (c == ',' && depth == 0) {
        if (!one.empty()) s.operands.push_back(one);
        one.clear();
      } else if (c != ' ' && c != '\t') {
        one += c;
      }
    }
    decoder.lookup = [this](const std::string& name, std::string* type) {
      return lookup(name, type);
    };
    try {
      const size_t before = kernel.code.size();
      decoder.decode(s);
      for (size_t i = before; i < kernel.code.size(); ++i) {
        kernel.code[i].line = line;
        kernel.code[i].place = static_cast<uint32_t>(kernel.places.size());
      }
      if (s.opcode.rfind("bra", 0) == 0)
        scopes_.back().branches.emplace_back(kernel.code.size() - 1, s.operands.at(0));
    } catch (const std::exception& error) {
      throw Error(module_.path + ":" + std::to_string(line) + ": " + error.what() + ": " + text);
    }
  }

  Module& module_;
  Cursor cursor_;
  SourceLines lines_;
  std::map<std::string, Symbol> module_symbols_;
  std::vector<Scope> scopes_;
};

}  // namespace

std::unique_ptr<Module> load_module(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw Error("cannot read " + path);
  std::stringstream buffer;
  buffer << in.rdbuf();
  const std::string text = buffer.str();
  auto module = std::make_unique<Module>();
  module->path = path;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) module->lines.push_back(line);
  try {
    Parser(*module, text).run();
  } catch (const Error& error) {
    const std::string what = error.what();
    throw Error(what.rfind(path, 0) == 0 ? what : path + ": " + what);
  }
  return module;
}

}  // namespace covis::emulator
