// Names and texts of CUDA's error codes, for cuGetErrorName and cuGetErrorString.
// Never: talks to anybody or depends on the version of the headers it is built with.
#pragma once

namespace cudaabi {

/// What is known of one CUresult. Both strings have static storage.
struct ErrorText {
  int code;
  const char* name;  ///< the enumerator's name, as in cuda.h
  const char* text;  ///< the sentence that programs print
};

/// The entry for `code`, or nullptr if CUDA 13.0 has no such error. Thread-safe.
const ErrorText* error_text(int code);

}  // namespace cudaabi
