# Test programs, run by tests/plugins/test_tensorrt_*.py. Only TENSORRT_ROOT's own libraries serve.
find_library(covis_nvinfer_library NAMES nvinfer PATHS ${TENSORRT_ROOT}/lib NO_DEFAULT_PATH
             REQUIRED)
set(tests ${plugins}/../tests/plugins)
set(attention ${plugins}/block_sparse_attention)
set(select ${plugins}/block_select)

# The kernels' C ABI on the host, beside the plugin, where it is looked for.
add_library(covis_kernels_on_host SHARED ${tests}/tensorrt_host_kernels.cc
  ${attention}/cuda/plan.cc ${select}/cuda/select_plan.cc ${plugins}/common/token_layout.cc
  ${attention}/cpu/attention.cc ${attention}/cpu/dispatch.cc ${attention}/cpu/tile.cc
  ${select}/cpu/select.cc)
target_include_directories(covis_kernels_on_host PRIVATE ${plugins} ${attention}/cuda
  ${select}/cuda)
target_compile_definitions(covis_kernels_on_host PRIVATE COVIS_LANES=4 COVIS_ISA_NAME="portable"
  COVIS_KERNELS=kKernelsPortable)
target_compile_features(covis_kernels_on_host PRIVATE cxx_std_20)
target_compile_options(covis_kernels_on_host PRIVATE -O1 -Wno-psabi)
set_target_properties(covis_kernels_on_host PROPERTIES OUTPUT_NAME covis_kernels
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
target_link_options(covis_kernels_on_host PRIVATE
  -Wl,--version-script=${plugins}/cuda/exports.map -Wl,--no-undefined)

add_executable(covis_trt_life ${tests}/tensorrt_life.cc)
target_include_directories(covis_trt_life PRIVATE cuda_types ${plugins} ${tests})
target_include_directories(covis_trt_life SYSTEM PRIVATE ${COVIS_TENSORRT_INCLUDE})
target_link_libraries(covis_trt_life PRIVATE ${covis_nvinfer_library} ${CMAKE_DL_LIBS})

foreach(target covis_kernels_on_host covis_trt_life)
  target_compile_features(${target} PRIVATE cxx_std_17)
  if(COVIS_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined -g1 -fno-sanitize=vptr)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endif()
endforeach()
target_compile_options(covis_trt_life PRIVATE -Wall -Wextra -Wno-deprecated-declarations)
add_dependencies(covis_trt_life covis_trt covis_kernels_on_host)

# The recorder: the shipped ONNX parser without a builder. NvOnnxParser.h comes with TensorRT, or
# with its parser's own repository up to 10.6.
find_library(covis_onnx_parser NAMES nvonnxparser PATHS ${TENSORRT_ROOT}/lib NO_DEFAULT_PATH)
find_path(covis_onnx_parser_include NvOnnxParser.h PATHS ${COVIS_TENSORRT_INCLUDE} NO_DEFAULT_PATH)
find_package(Python3 COMPONENTS Interpreter REQUIRED)
if(covis_onnx_parser AND covis_onnx_parser_include)
  set(recorder ${tests}/recorder)
  set(bases ${CMAKE_CURRENT_BINARY_DIR}/recorder/bases.h)
  add_custom_command(OUTPUT ${bases}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/recorder
    COMMAND ${Python3_EXECUTABLE} ${recorder}/generate.py ${COVIS_TENSORRT_INCLUDE}/NvInferImpl.h
            > ${bases}
    DEPENDS ${recorder}/generate.py VERBATIM)
  add_executable(covis_trt_record ${recorder}/main.cc ${recorder}/network.cc ${recorder}/rules.cc
    ${recorder}/graph.cc ${bases})
  target_include_directories(covis_trt_record PRIVATE cuda_types ${tests} ${recorder}
    ${CMAKE_CURRENT_BINARY_DIR}/recorder)
  target_include_directories(covis_trt_record SYSTEM PRIVATE ${COVIS_TENSORRT_INCLUDE})
  target_link_libraries(covis_trt_record PRIVATE ${covis_onnx_parser} ${covis_nvinfer_library}
    ${CMAKE_DL_LIBS})
  target_compile_features(covis_trt_record PRIVATE cxx_std_20)
  target_compile_options(covis_trt_record PRIVATE -O1 -Wall -Wextra -Wno-deprecated-declarations
    -Wno-overloaded-virtual)
  add_dependencies(covis_trt_record covis_trt covis_kernels_on_host)
endif()
