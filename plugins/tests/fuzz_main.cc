// Drives a libFuzzer target where the compiler has no libFuzzer: inputs from a seeded generator,
// for a number of seconds.   fuzz_validation [seconds] [seed]
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10.0;
  std::mt19937 random(argc > 2 ? static_cast<uint32_t>(std::atol(argv[2])) : 1u);
  const auto start = std::chrono::steady_clock::now();
  std::vector<uint8_t> input(64);
  uint64_t runs = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
         seconds) {
    if (random() % 8 == 0 || input.empty()) {
      input.resize(random() % 4096);
      for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    } else {  // a small change of the last input keeps what made it valid
      for (uint32_t i = 0; i <= random() % 4; ++i) {
        input[random() % input.size()] =
            static_cast<uint8_t>(random() % 3 == 0 ? random() % 8 : random());
      }
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
    ++runs;
  }
  std::printf("%llu inputs\n", static_cast<unsigned long long>(runs));
  return runs > 0 ? 0 : 1;
}
