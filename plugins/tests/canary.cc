// Does what the sanitizers must catch: proof that a build really has them.
//   canary address     reads one element behind a buffer
//   canary undefined   overflows a signed integer
#include <climits>
#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (std::strcmp(argv[1], "address") == 0) {
    int* values = new int[static_cast<size_t>(argc)];
    for (int i = 0; i < argc; ++i) values[i] = i;
    int* volatile hidden = values;  // else UndefinedBehaviorSanitizer sees it first
    std::printf("%d\n", hidden[argc]);
    delete[] values;
  } else if (std::strcmp(argv[1], "undefined") == 0) {
    volatile int large = INT_MAX;
    std::printf("%d\n", large + argc);
  }
  std::printf("not caught\n");
  return 0;
}
