// Reads PTX text into a syntax tree.
//
// Accepts the PTX language up to ISA 9.0 as nvcc and hand-written code use it; debug sections are skipped.
// Names are not resolved and instructions not checked: that is the compiler's part. Safe on any bytes: time
// and memory stay proportional to the text's length, recursion is bounded.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "softgpu/ptx/ast.hpp"

namespace softgpu::ptx {

/// The first thing wrong in a text: its line (1-based) and what was expected there.
struct ParseError {
  std::uint32_t line = 0;
  std::string reason;
};

/// Parses a whole module. The tree owns a copy of `text`; zero bytes at its end are ignored. Thread-safe.
tl::expected<std::unique_ptr<Module>, ParseError> parse(std::string_view text);

}  // namespace softgpu::ptx
