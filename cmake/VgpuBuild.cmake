# What every target of this project shares: language level, warnings, sanitizers, output folders.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

# Debug info of lines and functions only: backtraces and profilers need no more, and it costs a third of the compilation.
foreach(type RELWITHDEBINFO DEBUG)
  string(REGEX REPLACE "(^| )-g( |$)" "\\1-g1\\2" CMAKE_CXX_FLAGS_${type} "${CMAKE_CXX_FLAGS_${type}}")
endforeach()

# A shared library that lacks a symbol is not linked; clang's sanitizers have theirs in the program alone.
set(VGPU_COMPLETE -Wl,--no-undefined)
if(VGPU_SANITIZE AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  set(VGPU_COMPLETE)
endif()

# What sources do otherwise under a sanitizer they ask by these: gcc and clang say it in different words.
if(VGPU_SANITIZE)
  add_compile_definitions(VGPU_SANITIZED)
endif()
if(VGPU_SANITIZE MATCHES "thread")
  add_compile_definitions(VGPU_THREAD_SANITIZER)
endif()

find_program(VGPU_CCACHE ccache)
if(VGPU_CCACHE)
  # The sloppiness is what ccache's manual asks for with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${VGPU_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${VGPU_CCACHE})
endif()

# The standard library's headers, precompiled once for position-independent code, once for executables and once with
# GoogleTest for the tests. Sources include what they use all the same: the option OFF shows it.
option(VGPU_PRECOMPILED_HEADERS "Precompile the headers of the standard library" ON)
set(VGPU_STANDARD_HEADERS <algorithm> <array> <atomic> <chrono> <condition_variable> <cstdint> <cstring> <filesystem>
  <functional> <map> <memory> <mutex> <optional> <span> <string> <string_view> <thread> <unordered_map> <utility>
  <vector>)

# vgpu_precompiled(NAME headers...): a target that owns a precompiled header of them, for others to reuse.
function(vgpu_precompiled name type)
  set(source ${CMAKE_BINARY_DIR}/precompiled/${name}.cpp)
  set(text)
  if(type STREQUAL "EXECUTABLE")
    set(text "int main() {}\n")
  endif()
  file(CONFIGURE OUTPUT ${source} CONTENT "${text}" @ONLY)
  if(type STREQUAL "EXECUTABLE")
    add_executable(${name} ${source})
  else()
    add_library(${name} OBJECT ${source})
  endif()
  vgpu_options(${name})
  target_precompile_headers(${name} PRIVATE ${ARGN})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${name} PRIVATE -fpch-preprocess)
  endif()
endfunction()

# vgpu_reuse(NAME): gives the target the precompiled header of its kind.
function(vgpu_reuse name)
  if(NOT VGPU_PRECOMPILED_HEADERS)
    return()
  endif()
  get_target_property(type ${name} TYPE)
  if(NOT type STREQUAL "EXECUTABLE")
    set(owner vgpu_precompiled_library)
    set(headers ${VGPU_STANDARD_HEADERS})
  elseif(ARGV1 STREQUAL "TEST")
    set(owner vgpu_precompiled_test)
    set(headers ${VGPU_STANDARD_HEADERS} <gtest/gtest.h>)
  else()
    set(owner vgpu_precompiled_executable)
    set(headers ${VGPU_STANDARD_HEADERS})
  endif()
  if(NOT TARGET ${owner})
    vgpu_precompiled(${owner} ${type} ${headers})
    if(ARGV1 STREQUAL "TEST")
      target_link_libraries(${owner} PRIVATE GTest::gtest)  # For its definitions: they must be the tests' own.
    endif()
  endif()
  target_precompile_headers(${name} REUSE_FROM ${owner})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${name} PRIVATE -fpch-preprocess)
  endif()
endfunction()

# vgpu_options(NAME): the project's warnings and sanitizers.
function(vgpu_options name)
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
    -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers -Werror -fno-omit-frame-pointer)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  if(VGPU_SANITIZE)
    target_compile_options(${name} PRIVATE -fsanitize=${VGPU_SANITIZE} -fno-sanitize-recover=undefined)
    if(VGPU_SANITIZE MATCHES "undefined")
      # Callers may pass any integer as one of CUDA's enums; without -fstrict-enums compilers define what that means.
      target_compile_options(${name} PRIVATE -fno-sanitize=enum)
      # Nor are function tables of C interfaces that were declared with other types.
      if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
        target_compile_options(${name} PRIVATE -fno-sanitize=function)
      endif()
    endif()
    target_link_options(${name} PRIVATE -fsanitize=${VGPU_SANITIZE})
  endif()
  if(VGPU_FUZZ)  # Coverage from the libraries too: without it a fuzzer only sees its own harness.
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# vgpu_alone(SOURCES...): these are not compiled together with others in one unit (CMAKE_UNITY_BUILD): they give names of
# another source a meaning of their own, or own a type that headers only name.
function(vgpu_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# vgpu_target(NAME [TEST] [OWN_FLAGS]): the project's warnings, sanitizers and precompiled headers; call it on every
# target of ours. OWN_FLAGS: the target sets flags under which no precompiled header fits.
function(vgpu_target name)
  vgpu_options(${name})
  if(NOT "OWN_FLAGS" IN_LIST ARGN)
    vgpu_reuse(${name} ${ARGN})
  endif()
endfunction()

# vgpu_test(NAME [SEQUENTIAL] SOURCES... [LINK libraries...]): a GoogleTest executable registered with CTest as NAME.
# SEQUENTIAL: neither it nor what it tests has threads, so there is nothing in it for ThreadSanitizer.
function(vgpu_test name)
  cmake_parse_arguments(ARG "SEQUENTIAL" "TIMEOUT" "LINK;LABELS" ${ARGN})
  if(NOT VGPU_TESTS OR (ARG_SEQUENTIAL AND VGPU_SANITIZE MATCHES "thread"))
    return()
  endif()
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  vgpu_target(${name} TEST)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gtest_main Threads::Threads)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT TARGET unit_tests)
    add_custom_target(unit_tests)
  endif()
  add_dependencies(unit_tests ${name})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "unit;${ARG_LABELS}")
  # ThreadSanitizer keeps an ending process for a second, which tests of endings would take for its own.
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "TSAN_OPTIONS=atexit_sleep_ms=0")
endfunction()

# vgpu_fuzzer(NAME SOURCES... [LINK libraries...]): a libFuzzer executable, only with VGPU_FUZZ (clang).
function(vgpu_fuzzer name)
  if(NOT VGPU_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzzers)
  vgpu_target(${name} OWN_FLAGS)
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE ${ARG_LINK} Threads::Threads)
endfunction()
