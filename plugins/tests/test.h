// A test is a function that CHECKs; main runs all, or those whose name contains its argument.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace covis::test {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

}  // namespace covis::test

#define COVIS_TEST(name)                                                   \
  static void name();                                                      \
  static const covis::test::Registration registration_##name(#name, name); \
  static void name()

#define CHECK(condition, ...)                                     \
  do {                                                            \
    if (!(condition)) {                                           \
      ++covis::test::failures();                                  \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
    }                                                             \
  } while (false)
