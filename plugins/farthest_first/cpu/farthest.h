// FarthestFirst on the CPU: a farthest-first traversal of views. Contract: ../README.md.
#pragma once

#include <cstdint>
#include <string>

namespace covis {

struct FarthestParams {
  int64_t views = 0;
  const float* similarity = nullptr;  // (views, views)
  const int64_t* given = nullptr;     // (views): the view to take at each step, or -1 = choose
  int64_t count = 0;                  // steps; below 0 counts as 0, above `views` as `views`
  int32_t* rank = nullptr;            // output (views): the step of each view, `views` = not taken
};

// An empty string, or one line naming the input and its value.
std::string check_farthest(const FarthestParams& params);

// Needs params that pass check_farthest. Returns an empty string, or the reason for a failure (out
// of memory). One thread: a step reads one row and one column, a few microseconds at 1,000 views.
// Memory beyond inputs and output: 4 bytes a view, and 8 more while the first view is chosen.
std::string farthest_first(const FarthestParams& params);

}  // namespace covis
