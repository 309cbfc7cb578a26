// Whether every name in a module's function bodies stands for something: what a compiler finds out before it
// looks at any instruction's meaning.
#pragma once

#include <optional>

#include "softgpu/ptx/ast.hpp"
#include "softgpu/ptx/parser.hpp"

namespace softgpu::ptx {

/// The first operand, guard or branch target that nothing declares: no register, variable, parameter, label
/// or function, nor one of PTX's own. Takes a small part of the time that parsing took. Thread-safe.
std::optional<ParseError> undeclared_name(const Module& module);

}  // namespace softgpu::ptx
