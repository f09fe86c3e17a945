# Compiles through ccache where it is installed, so that an object that one build folder has compiled
# is not compiled again in another one. A launcher that is set already (sccache, ...) stays.
option(COVIS_CCACHE "Compile through ccache where it is found" ON)
if(COVIS_CCACHE)
  find_program(COVIS_CCACHE_PROGRAM ccache)
  foreach(language CXX CUDA)
    if(COVIS_CCACHE_PROGRAM AND NOT CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${COVIS_CCACHE_PROGRAM})
    endif()
  endforeach()
endif()
