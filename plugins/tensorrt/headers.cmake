# Sets COVIS_TENSORRT_INCLUDE to the folder of NvInfer.h: TENSORRT_ROOT's, then the system's, then
# the headers of the public repository at a pinned tag, then the copy in the crate trtx-sys
# (by cargo, where the repository cannot be reached); empty where none can be had. Sets
# COVIS_TENSORRT_MAJOR to the TensorRT that a plugin built with them runs in.
set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}" CACHE PATH "TensorRT's folder: include/ and lib/")
set(COVIS_TENSORRT_MAJOR 10 CACHE STRING "TensorRT whose headers are fetched where none are found")
set(covis_crate trtx-sys 0.9.1)

# Whether `folder` holds every file of a list of name=sha256.
function(covis_headers_are_whole folder result)
  set(${result} FALSE PARENT_SCOPE)
  foreach(entry IN LISTS ARGN)
    string(REPLACE "=" ";" entry ${entry})
    list(GET entry 0 name)
    list(GET entry 1 hash)
    if(NOT EXISTS ${folder}/${name})
      return()
    endif()
    file(SHA256 ${folder}/${name} found)
    if(NOT found STREQUAL hash)
      message(WARNING "covis: ${folder}/${name} is not what was pinned (sha256 ${found})")
      return()
    endif()
  endforeach()
  set(${result} TRUE PARENT_SCOPE)
endfunction()

function(covis_fetch_tensorrt_headers tag)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/tensorrt-${tag})
  set(base https://raw.githubusercontent.com/NVIDIA/TensorRT/${tag}/include)
  foreach(entry IN LISTS ARGN)
    string(REGEX REPLACE "=.*" "" name ${entry})
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
    file(RENAME ${folder}/${name}.part ${folder}/${name})
  endforeach()
  covis_headers_are_whole(${folder} whole ${ARGN})
  if(whole)
    set(COVIS_TENSORRT_INCLUDE ${folder} PARENT_SCOPE)
  endif()
endfunction()

# `kind` is the crate's folder for one version of TensorRT.
function(covis_vendor_tensorrt_headers kind)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/tensorrt-${kind})
  if(NOT EXISTS ${folder}/NvInfer.h)
    find_program(covis_cargo cargo NO_CACHE)
    if(NOT covis_cargo)
      message(STATUS "covis: cargo is not installed")
      return()
    endif()
    list(GET covis_crate 0 name)
    list(GET covis_crate 1 version)
    set(project ${CMAKE_CURRENT_BINARY_DIR}/crate)
    file(WRITE ${project}/src/lib.rs "")
    file(WRITE ${project}/Cargo.toml "[package]\nname = \"headers\"\nversion = \"0.0.0\"\n"
         "[workspace]\n[dependencies]\n${name} = \"=${version}\"\n")
    execute_process(COMMAND ${covis_cargo} vendor --quiet ${project}/vendor TIMEOUT 300
      WORKING_DIRECTORY ${project} RESULT_VARIABLE code OUTPUT_QUIET ERROR_VARIABLE why)
    if(code EQUAL 0 AND EXISTS ${project}/vendor/${name}/TensorRT-Headers/${kind}/NvInfer.h)
      file(RENAME ${project}/vendor/${name}/TensorRT-Headers/${kind} ${folder})
    else()
      message(STATUS "covis: cargo vendor ${name}: ${code} ${why}")
    endif()
    file(REMOVE_RECURSE ${project})
  endif()
  covis_headers_are_whole(${folder} whole ${ARGN})
  if(whole)
    set(COVIS_TENSORRT_INCLUDE ${folder} PARENT_SCOPE)
  endif()
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
  file(STRINGS ${covis_nvinfer}/NvInferVersion.h covis_lines
       REGEX "define (TRT_MAJOR_ENTERPRISE|NV_TENSORRT_MAJOR) [0-9]+")
  string(REGEX MATCH "MAJOR[A-Z_]* ([0-9]+)" covis_lines "${covis_lines}")
  set(COVIS_TENSORRT_MAJOR ${CMAKE_MATCH_1})
elseif(COVIS_TENSORRT_MAJOR EQUAL 10)
  covis_fetch_tensorrt_headers(v10.15
    NvInfer.h=c67542139697bd43ea709defca437dd2716d2ae299c5b1efdeb8a5b6eb850948
    NvInferImpl.h=ab1a80af8ef310b91a58aa3c6d0f1244318f2d267c854f11e1a674b3bc40b666
    NvInferLegacyDims.h=3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
    NvInferPluginBase.h=774e457b2e80f27502ea1aed8132949f6e0788251b5374948e1bfdc9de9fb0ee
    NvInferRuntime.h=741edeb95af00aa01cfaf45ff68ec79891a1380e8d6dd5c36ff77310b3051c35
    NvInferRuntimeBase.h=f7abd0bca8a2641ad92f270b53e7843a1eaf8c56568cbaf7bf8d5878330c4ec9
    NvInferRuntimeCommon.h=9461c9d07403c5dd1f8a6dea17fa5c3fe5cef7c4290c6768370a1d8139d4ac5d
    NvInferRuntimePlugin.h=d337b34b7b7efc1c65ba3405a6551389063669cb0c51704f91578b5f817999fc
    NvInferVersion.h=e93b61bb1b9f4cd4b731abe8739023ebd41542577f69db5ca9e6658eb3d27d0e)
  if(NOT COVIS_TENSORRT_INCLUDE)
    # The headers of TensorRT-RTX 1.3: of what a plugin sees (NvInferRuntimeBase.h, PluginBase.h,
    # RuntimeCommon.h, RuntimePlugin.h) byte by byte those of TensorRT 10.15.
    covis_vendor_tensorrt_headers(TRT-RTX-1.3
    NvInfer.h=57416a072152e0739226d22cb3d6d5cb352f0a8a0b352368fc015a19f591acd9
    NvInferImpl.h=4f5e23d66cfca5a8fc05a781b6d65dd71f232b25647265b148be8e9eb208fbdc
    NvInferLegacyDims.h=3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
    NvInferPluginBase.h=774e457b2e80f27502ea1aed8132949f6e0788251b5374948e1bfdc9de9fb0ee
    NvInferRuntime.h=639850e79b1e774cab38b4b53c9e2e4f6272862fde4b7d40886abd1defa97624
    NvInferRuntimeBase.h=f7abd0bca8a2641ad92f270b53e7843a1eaf8c56568cbaf7bf8d5878330c4ec9
    NvInferRuntimeCommon.h=9461c9d07403c5dd1f8a6dea17fa5c3fe5cef7c4290c6768370a1d8139d4ac5d
    NvInferRuntimePlugin.h=d337b34b7b7efc1c65ba3405a6551389063669cb0c51704f91578b5f817999fc
    NvInferVersion.h=e96108ebd801ae8c9b73039f13f4a601305557564f711323c2dfa90e5f004eab)
  endif()
elseif(COVIS_TENSORRT_MAJOR EQUAL 11)
  covis_fetch_tensorrt_headers(v11.1
    NvInfer.h=b857831d9c79e9b04e83b65d58a512533ee363f91dbcaec77cba9c7746e8e8b3
    NvInferImpl.h=c6acddec7e286c18e9cd08511553c2015f99c487ca25717790e54e30c18ade79
    NvInferLegacyDims.h=3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
    NvInferPluginBase.h=759f354754e64bf4d1e68d7df796c155c46f8a27541bf1912ba13e79a5a26fc2
    NvInferRuntime.h=e78c2d49516a66f726864904386534f63eacf0ad75a6dfdde7dfa70adf39f797
    NvInferRuntimeBase.h=ec38759dbf8a5538c4cd30890f1764658bc2dcec87e95ac18148e476cbe1671b
    NvInferRuntimeCommon.h=eff4c0251cb4813bbc7fe34c6b28fdb6c08734c27ae53b07974d2557bf1431be
    NvInferRuntimePlugin.h=d4db4236da9c03e543949247a75478b5ce68fc84eb30cd15b35081b94c8d8391
    NvInferVersion.h=8648df4851fb2df1a15d7dfdae6454428c4b119055f65f6a98de8ff806977b2e)
  if(NOT COVIS_TENSORRT_INCLUDE)
    covis_vendor_tensorrt_headers(TRT-Enterprise-11.4
    NvInfer.h=67f401faabd5bc0f5dde8489c9ec79f2a7bd42b0b63f5ebdae0c977f2534e902
    NvInferImpl.h=6aa27b9f29cc9bc0ee3d1ab76d864d0e623c461ae516fab3ccb46dce8cc7be99
    NvInferLegacyDims.h=3e10fe5b85545f2e956e6935271badf0b1c72553b698000a61d46d69c5d53030
    NvInferPluginBase.h=759f354754e64bf4d1e68d7df796c155c46f8a27541bf1912ba13e79a5a26fc2
    NvInferRuntime.h=23ce5d1d5735dbb86b357ce7dca44f4f4a7e908faaee9871149664843ade8a50
    NvInferRuntimeBase.h=fa22f902443d7c832dbf2dd74c8d0744990e9f6118245dca183a8ce23077dac0
    NvInferRuntimeCommon.h=eff4c0251cb4813bbc7fe34c6b28fdb6c08734c27ae53b07974d2557bf1431be
    NvInferRuntimePlugin.h=d4db4236da9c03e543949247a75478b5ce68fc84eb30cd15b35081b94c8d8391
    NvInferVersion.h=6a29a88a274b25cdaf87dbe6e5be1b3b68e6c430308ae9a2c03f6c4282a7f2e7)
  endif()
endif()
