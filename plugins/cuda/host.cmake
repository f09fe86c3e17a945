# covis_cuda_host: the walk, checks and choices of the CUDA kernels on the host, for the tests in
# tests/plugins/test_cuda_*.py, which build this target by its name. Needs no CUDA toolkit.
set(plugins ${CMAKE_CURRENT_LIST_DIR}/..)
add_library(covis_cuda_host SHARED EXCLUDE_FROM_ALL ${plugins}/cuda/checks.cc
  ${plugins}/block_sparse_attention/cuda/host/attention.cc
  ${plugins}/block_sparse_attention/cuda/launch_plan.cc
  ${plugins}/block_select/cuda/host/select.cc ${plugins}/block_select/cuda/launch_plan.cc
  ${plugins}/farthest_first/cuda/host/farthest.cc
  ${plugins}/farthest_first/cuda/launch_plan.cc
  ${plugins}/saliency/cuda/host/saliency.cc ${plugins}/saliency/cuda/launch_plan.cc)
target_include_directories(covis_cuda_host PRIVATE ${plugins})
target_compile_options(covis_cuda_host PRIVATE -Wall -Wextra -Werror)
set_target_properties(covis_cuda_host PROPERTIES CXX_STANDARD 17 CXX_VISIBILITY_PRESET default
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
