// Any bytes as PTX text: a tree whose names lie in its own source, or an error with a line.
#include <algorithm>

#include "softgpu/ptx/parser.hpp"

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void check(const softgpu::ptx::Module& module, std::string_view name) {
  require(name.empty() || (name.data() >= module.source.data() &&
                           name.data() + name.size() <= module.source.data() + module.source.size()));
}

void check(const softgpu::ptx::Module& module, const softgpu::ptx::Function& function) {
  check(module, function.name);
  for (const auto& label : function.labels) {
    require(label.instruction <= function.instructions.size() && label.scope < function.scopes.size());
    check(module, label.name);
  }
  for (const auto& instruction : function.instructions) {
    require(!instruction.parts.empty() && instruction.scope < function.scopes.size());
    check(module, instruction.mnemonic);
  }
  for (std::size_t i = 0; i < function.scopes.size(); ++i) require(function.scopes[i].parent <= i);
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto module = softgpu::ptx::parse(text);
  if (!module) {
    const auto lines = static_cast<std::uint32_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    require(module.error().line <= lines && !module.error().reason.empty());
    return 0;
  }
  for (const auto& function : (*module)->functions) check(**module, function);
  for (const auto& variable : (*module)->variables) check(**module, variable.name);
  return 0;
}
