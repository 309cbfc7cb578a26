#include "softgpu/ptx/names.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_set>

namespace softgpu::ptx {
namespace {

using NameSet = std::unordered_set<std::string_view>;

// Scopes with declarations of their own around one place; in more than these a name is taken for declared, so
// that the time stays proportional to the text's length.
constexpr unsigned most_levels = 128;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// The special registers of PTX ISA 9.0, numbered ones without their number.
bool is_special(std::string_view name) {
  static const NameSet names = {
      "%tid",
      "%ntid",
      "%laneid",
      "%warpid",
      "%nwarpid",
      "%ctaid",
      "%nctaid",
      "%smid",
      "%nsmid",
      "%gridid",
      "%is_explicit_cluster",
      "%clusterid",
      "%nclusterid",
      "%cluster_ctaid",
      "%cluster_nctaid",
      "%cluster_ctarank",
      "%cluster_nctarank",
      "%lanemask_eq",
      "%lanemask_le",
      "%lanemask_lt",
      "%lanemask_ge",
      "%lanemask_gt",
      "%clock",
      "%clock_hi",
      "%clock64",
      "%globaltimer",
      "%globaltimer_lo",
      "%globaltimer_hi",
      "%total_smem_size",
      "%aggr_smem_size",
      "%dynamic_smem_size",
      "%current_graph_exec",
  };
  static constexpr std::array<std::string_view, 3> prefixes = {"%pm", "%envreg", "%reserved_smem_offset_"};
  return names.contains(name) || std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view prefix) {
           return name.starts_with(prefix);
         });
}

// The names that one function's body sees.
class BodyNames {
 public:
  BodyNames(const Function& function, const NameSet& module) : module_(module) {
    levels_.resize(std::max<std::size_t>(function.scopes.size(), 1));
    for (std::size_t i = 0; i < function.scopes.size(); ++i) {
      const Scope& scope = function.scopes[i];
      for (const RegisterDecl& decl : scope.registers) {
        if (decl.is_range)
          levels_[i].ranges.push_back(&decl);
        else
          levels_[i].exact.insert(decl.name);
      }
      for (const Variable& variable : scope.variables) levels_[i].exact.insert(variable.name);
    }
    for (const Variable& param : function.params) levels_[0].exact.insert(param.name);
    for (const Variable& result : function.results) levels_[0].exact.insert(result.name);
    for (const Label& label : function.labels) levels_[label.scope].exact.insert(label.name);
    for (const TargetList& list : function.target_lists) levels_[list.scope].exact.insert(list.name);
    // Scopes come after those around them, so their parents' parents are known.
    for (std::size_t i = 1; i < levels_.size(); ++i) {
      const std::uint32_t parent = function.scopes[i].parent;
      levels_[i].parent = levels_[parent].empty() ? levels_[parent].parent : parent;
    }
  }

  bool knows(std::string_view name, std::uint32_t scope) const {
    if (name.empty() || name == "_") return true;
    unsigned levels = 0;
    for (std::uint32_t i = scope;; i = levels_[i].parent) {
      if (levels_[i].holds(name) || ++levels == most_levels) return true;
      if (i == 0) break;
    }
    return module_.contains(name) || (name[0] == '%' && is_special(name)) || name == "WARP_SZ";
  }

 private:
  struct Level {
    NameSet exact;
    std::vector<const RegisterDecl*> ranges;
    std::uint32_t parent = 0;

    bool empty() const { return exact.empty() && ranges.empty(); }
    bool holds(std::string_view name) const {
      if (is_digit(name.back())) {
        for (const RegisterDecl* const range : ranges) {
          if (!name.starts_with(range->name)) continue;
          const std::string_view digits = name.substr(range->name.size());
          std::uint32_t number = 0;
          const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), number);
          if (read.ec == std::errc{} && read.ptr == digits.data() + digits.size() && number < range->count)
            return true;
        }
      }
      return !exact.empty() && exact.contains(name);
    }
  };
  const NameSet& module_;
  std::vector<Level> levels_;
};

// The first name in `operand` that `knows` does not.
template <class Knows>
std::string_view unknown_in(const Operand& operand, const Knows& knows) {
  const auto among = [&](const std::vector<Operand>& operands) -> std::string_view {
    for (const Operand& element : operands) {
      if (const auto unknown = unknown_in(element, knows); !unknown.empty()) return unknown;
    }
    return {};
  };
  const auto one = [&](std::string_view name) { return knows(name) ? std::string_view{} : name; };
  if (const auto* const name = std::get_if<NameOperand>(&operand.value)) return one(name->name);
  if (const auto* const address = std::get_if<AddressOperand>(&operand.value)) {
    if (const auto* const base = std::get_if<std::string_view>(&address->base)) {
      if (const auto unknown = one(*base); !unknown.empty()) return unknown;
    }
    return among(address->extra);
  }
  if (const auto* const vector = std::get_if<VectorOperand>(&operand.value)) return among(vector->elements);
  if (const auto* const list = std::get_if<ListOperand>(&operand.value)) return among(list->elements);
  if (const auto* const pair = std::get_if<PairOperand>(&operand.value)) {
    const auto first = one(pair->first.name);
    return first.empty() ? one(pair->second.name) : first;
  }
  return {};
}

ParseError error(std::uint32_t line, std::string_view name) {
  return {line, "'" + std::string(name) + "' is not declared"};
}

}  // namespace

std::optional<ParseError> undeclared_name(const Module& module) {
  NameSet globals;
  for (const Variable& variable : module.variables) globals.insert(variable.name);
  for (const Function& function : module.functions) globals.insert(function.name);
  for (const Alias& alias : module.aliases) globals.insert(alias.name);
  for (const Function& function : module.functions) {
    if (!function.has_body) continue;
    const BodyNames names(function, globals);
    for (const Instruction& instruction : function.instructions) {
      const auto knows = [&](std::string_view name) { return names.knows(name, instruction.scope); };
      if (instruction.guard && !knows(instruction.guard->predicate))
        return error(instruction.line, instruction.guard->predicate);
      for (const Operand& operand : instruction.operands) {
        if (const auto unknown = unknown_in(operand, knows); !unknown.empty())
          return error(instruction.line, unknown);
      }
    }
    for (const TargetList& list : function.target_lists) {
      for (const std::string_view target : list.targets) {
        if (!names.knows(target, list.scope)) return error(function.line, target);
      }
    }
  }
  return std::nullopt;
}

}  // namespace softgpu::ptx
