# covis_find_onnxruntime_headers(result): a folder with onnxruntime_c_api.h, or "".
# Searched in the given folder, on the system, in the active Python's packages, in a release
# archive, and last in a wheel that contains them (cmake/fetch_ort_headers.py).
set(ONNXRUNTIME_INCLUDE_DIR "" CACHE PATH "Folder of onnxruntime_c_api.h")
option(COVIS_FETCH_HEADERS "Fetch ONNX Runtime's headers where none are found" ON)
set(COVIS_ORT_RELEASE 1.22.0 CACHE STRING "ONNX Runtime release whose headers are fetched")

set(_covis_ort_header onnxruntime_c_api.h)

function(covis_find_onnxruntime_headers result)
  if(ONNXRUNTIME_INCLUDE_DIR)
    if(NOT EXISTS ${ONNXRUNTIME_INCLUDE_DIR}/${_covis_ort_header})
      message(FATAL_ERROR "ONNXRUNTIME_INCLUDE_DIR is ${ONNXRUNTIME_INCLUDE_DIR}, which has no "
                          "${_covis_ort_header}")
    endif()
    set(${result} ${ONNXRUNTIME_INCLUDE_DIR} PARENT_SCOPE)
    return()
  endif()
  find_path(found ${_covis_ort_header} NO_CACHE
            PATH_SUFFIXES onnxruntime onnxruntime/core/session)
  if(NOT found)
    find_package(Python3 COMPONENTS Interpreter QUIET)
    _covis_headers_by_script(found installed)
  endif()
  if(NOT found AND COVIS_FETCH_HEADERS)
    _covis_headers_of_release(found)
  endif()
  if(NOT found AND COVIS_FETCH_HEADERS)
    _covis_headers_by_script(found wheel)
  endif()
  if(found)
    set(${result} ${found} PARENT_SCOPE)
  else()
    set(${result} "" PARENT_SCOPE)
  endif()
endfunction()

function(_covis_headers_by_script result source)
  if(NOT Python3_Interpreter_FOUND)
    return()
  endif()
  execute_process(
    COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/cmake/fetch_ort_headers.py
            ${source} ${PROJECT_BINARY_DIR}/onnxruntime-headers
    OUTPUT_VARIABLE folder ERROR_VARIABLE reason RESULT_VARIABLE failed
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE TIMEOUT 120)
  if(failed)
    message(STATUS "covis: ONNX Runtime headers (${source}): ${reason}")
  else()
    set(${result} ${folder} PARENT_SCOPE)
  endif()
endfunction()

function(_covis_headers_of_release result)
  set(archive onnxruntime-linux-x64-${COVIS_ORT_RELEASE})
  set(folder ${PROJECT_BINARY_DIR}/onnxruntime-release)
  set(include ${folder}/${archive}/include)
  if(NOT EXISTS ${include}/${_covis_ort_header})
    set(base https://github.com/microsoft/onnxruntime/releases/download)
    set(file ${folder}/${archive}.tgz)
    file(DOWNLOAD ${base}/v${COVIS_ORT_RELEASE}/${archive}.tgz ${file}
         STATUS status INACTIVITY_TIMEOUT 10 TIMEOUT 60)
    list(GET status 0 code)
    if(NOT code EQUAL 0)
      file(REMOVE ${file})
      message(STATUS "covis: ONNX Runtime headers (release ${COVIS_ORT_RELEASE}): ${status}")
      return()
    endif()
    file(ARCHIVE_EXTRACT INPUT ${file} DESTINATION ${folder} PATTERNS "*/include/*")
  endif()
  if(EXISTS ${include}/${_covis_ort_header})
    set(${result} ${include} PARENT_SCOPE)
  endif()
endfunction()
