#include <cstring>

#include "test.h"

int main(int argc, char** argv) {
  int run = 0;
  for (const covis::test::Test& test : covis::test::tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const int before = covis::test::failures();
    test.run();
    std::printf("%s %s\n", covis::test::failures() == before ? "ok  " : "FAIL", test.name);
    ++run;
  }
  if (run == 0) std::printf("no test of that name\n");
  return covis::test::failures() > 0 || run == 0 ? 1 : 0;
}
