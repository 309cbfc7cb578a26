# Programs compiled by nvcc, as a user's would be: once compiled, linked against the static and the shared runtime. They
# carry PTX for compute 7.5 (what the software GPU runs) and, where VGPU_TEST_GPU_ARCH names one, machine code for a GPU.

set(VGPU_TEST_GPU_ARCH "" CACHE STRING "Real architecture (e.g. 90) to add to the test programs")

set(VGPU_GENCODE -gencode arch=compute_75,code=compute_75)
if(VGPU_TEST_GPU_ARCH)
  list(APPEND VGPU_GENCODE -gencode arch=compute_${VGPU_TEST_GPU_ARCH},code=sm_${VGPU_TEST_GPU_ARCH})
endif()

# vgpu_cuda_object(SOURCE OUTPUT-VARIABLE nvcc options...): compiles one .cu file by nvcc.
function(vgpu_cuda_object source output)
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
  set(cache)
  if(VGPU_CCACHE)
    set(cache ${VGPU_CCACHE})
  endif()
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${cache} ${CUDAToolkit_NVCC_EXECUTABLE} -O2 -std=c++17 -ccbin g++ ${VGPU_GENCODE} -Xcompiler=-fPIC,-Wall,-Wextra
            -Werror all-warnings -MD -MF ${object}.d ${ARGN} -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source}
    DEPFILE ${object}.d
    COMMENT "nvcc ${source}"
    VERBATIM)
  set(${output} ${object} PARENT_SCOPE)
endfunction()

# vgpu_cuda_program(NAME nvcc options...): NAME and NAME_shared in this folder of the build tree.
function(vgpu_cuda_program name)
  vgpu_cuda_object(${name}.cu object ${ARGN})
  foreach(kind static shared)
    set(target ${name})
    set(runtime CUDA::cudart_static)
    if(kind STREQUAL shared)
      set(target ${name}_shared)
      set(runtime CUDA::cudart)
    endif()
    add_executable(program_${target} ${object})
    set_target_properties(program_${target} PROPERTIES LINKER_LANGUAGE CXX OUTPUT_NAME ${target}
      RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} BUILD_RPATH ${CUDAToolkit_LIBRARY_DIR})
    # The driver symbols come from the toolkit's stub; --as-needed leaves programs that use none without it.
    target_link_options(program_${target} PRIVATE -Wl,--as-needed)
    target_link_libraries(program_${target} PRIVATE ${runtime} CUDA::cuda_driver Threads::Threads ${CMAKE_DL_LIBS})
    if(NOT TARGET cuda_programs)
      add_custom_target(cuda_programs)
    endif()
    add_dependencies(cuda_programs program_${target})
  endforeach()
endfunction()
