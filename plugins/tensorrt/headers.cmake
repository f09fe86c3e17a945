# Sets COVIS_TENSORRT_INCLUDE to the folder of NvInfer.h: TENSORRT_ROOT's, then the system's, then
# the headers of the public repository at a pinned tag; empty where none can be had.
set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}" CACHE PATH "TensorRT's folder: include/ and lib/")
set(COVIS_TENSORRT_MAJOR 10 CACHE STRING "TensorRT whose headers are fetched where none are found")

function(covis_fetch_tensorrt_headers tag folder)
  set(base https://raw.githubusercontent.com/NVIDIA/TensorRT/${tag}/include)
  foreach(entry IN LISTS ARGN)
    string(REPLACE "=" ";" entry ${entry})
    list(GET entry 0 name)
    list(GET entry 1 hash)
    if(EXISTS ${folder}/${name})
      continue()
    endif()
    # Whole or not at all: a broken download must not pass for a header the next time.
    file(DOWNLOAD ${base}/${name} ${folder}/${name}.part TIMEOUT 60 STATUS status)
    list(GET status 0 code)
    if(NOT code EQUAL 0)
      list(GET status 1 why)
      message(STATUS "covis: ${base}/${name}: ${why}")
      return()
    endif()
    file(SHA256 ${folder}/${name}.part found)
    if(NOT found STREQUAL hash)
      message(WARNING "covis: ${base}/${name} is not what was pinned (sha256 ${found})")
      return()
    endif()
    file(RENAME ${folder}/${name}.part ${folder}/${name})
  endforeach()
  set(COVIS_TENSORRT_INCLUDE ${folder} PARENT_SCOPE)
endfunction()

set(COVIS_TENSORRT_INCLUDE "")
if(TENSORRT_ROOT)
  find_path(covis_nvinfer NvInfer.h PATHS ${TENSORRT_ROOT}/include NO_CACHE NO_DEFAULT_PATH)
  if(NOT covis_nvinfer)
    message(FATAL_ERROR "covis: no include/NvInfer.h in TENSORRT_ROOT=${TENSORRT_ROOT}")
  endif()
else()
  find_path(covis_nvinfer NvInfer.h PATH_SUFFIXES x86_64-linux-gnu aarch64-linux-gnu NO_CACHE)
endif()
if(covis_nvinfer)
  set(COVIS_TENSORRT_INCLUDE ${covis_nvinfer})
elseif(COVIS_TENSORRT_MAJOR EQUAL 10)
  covis_fetch_tensorrt_headers(v10.15 ${CMAKE_CURRENT_BINARY_DIR}/tensorrt-10.15
    NvInfer.h=c67542139697bd43ea709defca437dd2716d2ae299c5b1efdeb8a5b6eb850948
    NvInferImpl.h=ab1a80af8ef310b91a58aa3c6d0f1244318f2d267c854f11e1a674b3bc40b666
    NvInferLegacyDims.h=3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
    NvInferPluginBase.h=774e457b2e80f27502ea1aed8132949f6e0788251b5374948e1bfdc9de9fb0ee
    NvInferRuntime.h=741edeb95af00aa01cfaf45ff68ec79891a1380e8d6dd5c36ff77310b3051c35
    NvInferRuntimeBase.h=f7abd0bca8a2641ad92f270b53e7843a1eaf8c56568cbaf7bf8d5878330c4ec9
    NvInferRuntimeCommon.h=9461c9d07403c5dd1f8a6dea17fa5c3fe5cef7c4290c6768370a1d8139d4ac5d
    NvInferRuntimePlugin.h=d337b34b7b7efc1c65ba3405a6551389063669cb0c51704f91578b5f817999fc
    NvInferPluginUtils.h=c1aeed090422a0f214aa3dc334d3e435f3dd3a6cf14caece9fe9ef4daeeb50ec
    NvInferVersion.h=e93b61bb1b9f4cd4b731abe8739023ebd41542577f69db5ca9e6658eb3d27d0e)
elseif(COVIS_TENSORRT_MAJOR EQUAL 11)
  covis_fetch_tensorrt_headers(v11.1 ${CMAKE_CURRENT_BINARY_DIR}/tensorrt-11.1
    NvInfer.h=b857831d9c79e9b04e83b65d58a512533ee363f91dbcaec77cba9c7746e8e8b3
    NvInferImpl.h=c6acddec7e286c18e9cd08511553c2015f99c487ca25717790e54e30c18ade79
    NvInferLegacyDims.h=3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
    NvInferPluginBase.h=759f354754e64bf4d1e68d7df796c155c46f8a27541bf1912ba13e79a5a26fc2
    NvInferRuntime.h=e78c2d49516a66f726864904386534f63eacf0ad75a6dfdde7dfa70adf39f797
    NvInferRuntimeBase.h=ec38759dbf8a5538c4cd30890f1764658bc2dcec87e95ac18148e476cbe1671b
    NvInferRuntimeCommon.h=eff4c0251cb4813bbc7fe34c6b28fdb6c08734c27ae53b07974d2557bf1431be
    NvInferRuntimePlugin.h=d4db4236da9c03e543949247a75478b5ce68fc84eb30cd15b35081b94c8d8391
    NvInferPluginUtils.h=106692e986b690fd2b3c26f8dab5caa8027b4d3cca6ce6006c5351392f1bded4
    NvInferVersion.h=8648df4851fb2df1a15d7dfdae6454428c4b119055f65f6a98de8ff806977b2e)
endif()
