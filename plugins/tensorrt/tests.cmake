# The plugin's test program and its kernels, for tests/tensorrt. No TensorRT library is linked.
set(tests ${plugins}/../tests/tensorrt)
set(attention ${plugins}/block_sparse_attention)
set(select ${plugins}/block_select)
set(farthest ${plugins}/farthest_first)

# The kernels' C ABI on the host, in the plugin's folder, where the plugin searches for it.
add_library(covis_kernels_on_host SHARED ${tests}/host_kernels.cc
  ${plugins}/cuda/checks.cc ${attention}/cuda/launch_plan.cc ${select}/cuda/launch_plan.cc
  ${farthest}/cuda/launch_plan.cc
  ${plugins}/common/token_layout.cc
  ${attention}/cpu/attention.cc ${attention}/cpu/dispatch.cc ${attention}/cpu/tile.cc
  ${select}/cpu/select.cc ${farthest}/cpu/farthest.cc)
target_include_directories(covis_kernels_on_host PRIVATE ${plugins})
target_compile_definitions(covis_kernels_on_host PRIVATE COVIS_LANES=4 COVIS_ISA_NAME="portable"
  COVIS_KERNELS=kKernelsPortable)
target_compile_features(covis_kernels_on_host PRIVATE cxx_std_20)
target_compile_options(covis_kernels_on_host PRIVATE -O1 -Wno-psabi)
set_target_properties(covis_kernels_on_host PROPERTIES OUTPUT_NAME covis_kernels
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
target_link_options(covis_kernels_on_host PRIVATE
  -Wl,--version-script=${plugins}/cuda/exports.map -Wl,--no-undefined)

add_executable(covis_trt_plugin_test ${tests}/plugin_test.cc)
target_include_directories(covis_trt_plugin_test PRIVATE cuda_types ${plugins} ${tests})
target_include_directories(covis_trt_plugin_test SYSTEM PRIVATE ${COVIS_TENSORRT_INCLUDE})
target_link_libraries(covis_trt_plugin_test PRIVATE ${CMAKE_DL_LIBS})
target_compile_features(covis_trt_plugin_test PRIVATE cxx_std_17)
target_compile_options(covis_trt_plugin_test PRIVATE -Wall -Wextra -Wno-deprecated-declarations)
add_dependencies(covis_trt_plugin_test covis_trt covis_kernels_on_host)

if(COVIS_SANITIZE)
  foreach(target covis_kernels_on_host covis_trt_plugin_test)
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined -g1 -fno-sanitize=vptr)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endforeach()
endif()
