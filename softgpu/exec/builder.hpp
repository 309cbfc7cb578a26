// Builds one function's register code: instruction groups ask it for operands and emit ops.
//
// Operands are virtual registers here; flow.cpp gives them their places in the frame. Not thread-safe: one
// builder works on one function.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "softgpu/exec/code.hpp"
#include "softgpu/ptx/ast.hpp"

namespace softgpu::exec {

using Vreg = std::uint32_t;

/// A decoded instruction's mnemonic parts with the questions groups ask of them.
struct Instruction {
  const ptx::Instruction& ast;

  std::string_view name() const { return ast.parts[0]; }
  bool has(std::string_view part) const {
    for (auto p : ast.parts)
      if (p == part) return true;
    return false;
  }
  std::size_t parts() const { return ast.parts.size(); }
  std::string_view part(std::size_t i) const {
    return i < ast.parts.size() ? ast.parts[i] : std::string_view{};
  }
  /// The last part as a type (Type::none if it is none).
  ptx::Type type() const { return ptx::type_from_name(ast.parts.back()); }
  /// The last but one part as a type.
  ptx::Type source_type() const {
    return ast.parts.size() < 2 ? ptx::Type::none : ptx::type_from_name(ast.parts[ast.parts.size() - 2]);
  }
  std::size_t operands() const { return ast.operands.size(); }
  /// Operand i; where the text has fewer, a nameless one that in(), out() and address() refuse.
  const ptx::Operand& operand(std::size_t i) const {
    static const ptx::Operand missing{};
    return i < ast.operands.size() ? ast.operands[i] : missing;
  }
};

/// An op with what flow analysis must know of it.
struct Draft {
  enum class Flow : std::uint8_t { next, branch, jump, table, end };
  Op op;
  std::uint16_t uses = 0, defs = 0;  ///< bit k: r[k] is read / written
  Flow flow = Flow::next;
  bool partial = false;              ///< guarded: its definitions may leave old values
  std::int32_t label = -1;           ///< branch target
  std::vector<std::int32_t> labels;  ///< of a table

  Draft& use(unsigned k, Vreg v) {
    op.r[k] = v;
    uses = static_cast<std::uint16_t>(uses | (1U << k));
    return *this;
  }
  Draft& def(unsigned k, Vreg v) {
    op.r[k] = v;
    defs = static_cast<std::uint16_t>(defs | (1U << k));
    return *this;
  }
  Draft& imm(std::uint64_t value) {
    op.imm = value;
    return *this;
  }
  Draft& aux(std::uint16_t value) {
    op.aux = value;
    return *this;
  }
  Draft& csr(std::uint32_t value) {
    op.csr = static_cast<std::uint16_t>(value);
    return *this;
  }
};

/// Where a name points.
struct Symbol {
  enum class Kind : std::uint8_t {
    none,
    vreg,
    address,
    local,
    kernel_param,
    area,
    function
  } kind = Kind::none;
  std::uint64_t value = 0;  ///< vreg; address; offset; first word's vreg; function index
  ptx::Type type = ptx::Type::none;
  ptx::Space space = ptx::Space::generic;
  std::uint32_t bytes = 0;  ///< of an area
};

struct VregInfo {
  std::uint8_t bytes = 4;  ///< 0 predicate, 2, 4, 8
  bool pinned = false;     ///< keeps a place of its own, in order
  bool constant = false;
  std::uint64_t value = 0;
};

/// Names outside a function: the module's and the kernel's.
class Names {
 public:
  virtual ~Names() = default;
  virtual Symbol global(std::string_view name) const = 0;
  /// Offset in the kernel's shared memory of a variable declared inside a function.
  virtual std::uint64_t shared_offset(const ptx::Variable& variable) const = 0;
};

class Builder {
 public:
  Builder(const ptx::Function& function, const Names& names, unsigned isa);

  /// Bytes of a register of `type`: 0 for predicates, at least 2.
  static std::uint32_t register_bytes(ptx::Type type);

  // --- operands
  /// A source of `bytes` (0: predicate); literals become constants, special registers and addresses
  /// temporaries.
  Vreg in(const ptx::Operand& o, std::uint32_t bytes, bool is_float = false);
  /// A destination; `_` gives a scratch register.
  Vreg out(const ptx::Operand& o, std::uint32_t bytes);
  /// Bytes of the register an operand names; `otherwise` for literals, symbols and `_`.
  std::uint32_t width_of(const ptx::Operand& o, std::uint32_t otherwise) const;
  Vreg temp(std::uint32_t bytes);
  Vreg constant(std::uint32_t bytes, std::uint64_t value);
  /// The condition code register of carry chains, as a predicate.
  Vreg carry() {
    if (!carry_) carry_ = temp(0);
    return *carry_;
  }
  /// Consecutive pinned 32-bit words; returns the first.
  Vreg area(std::uint32_t bytes);
  Symbol lookup(std::string_view name) const;
  /// An address operand as {register, constant offset}: 64-bit unless its register has 32 bits.
  struct Address {
    Vreg base;
    std::int64_t offset;
    std::uint32_t bytes;
    Symbol symbol;  ///< set when the base is a symbol
  };
  std::optional<Address> address(const ptx::Operand& o);

  // --- ops
  Draft& emit(Handler fn);
  /// A carrier of ten more operands for the op before it.
  Draft& extend();
  bool fail(std::string reason);
  bool failed() const { return failed_; }
  std::int32_t new_label();
  void place(std::int32_t label);
  std::int32_t label_of(std::string_view name) const;
  /// Negates a predicate into a temporary if `negated`.
  Vreg predicate(const ptx::NameOperand& name);

  const ptx::Function& function() const { return function_; }
  const Names& names() const { return names_; }
  unsigned isa() const { return isa_; }
  const ptx::Instruction& current() const { return *current_; }

  // --- used by decoder.cpp and flow.cpp
  bool decode_body();
  std::vector<Draft> drafts;
  std::vector<VregInfo> vregs;
  std::vector<std::int32_t> label_positions;
  std::uint32_t local_bytes = 0;
  std::vector<std::pair<Vreg, std::uint32_t>> params, results;  ///< device functions: area, bytes
  std::vector<std::uint32_t> callees;                           ///< function indices
  bool dynamic_stack = false, takes_address = false;
  std::string reason;
  std::uint32_t error_line = 0;

 private:
  void declare();
  bool decode(const ptx::Instruction& i);

  const ptx::Function& function_;
  const Names& names_;
  unsigned isa_;
  const ptx::Instruction* current_ = nullptr;
  std::uint32_t scope_ = 0;
  bool failed_ = false;
  std::optional<Vreg> carry_;
  struct ScopeNames {
    std::unordered_map<std::string_view, Symbol> exact;
    struct Range {
      std::uint32_t first, count, per;
      ptx::Type type;
    };
    std::unordered_map<std::string_view, Range> ranges;
  };
  std::vector<ScopeNames> scopes_;
  std::map<std::pair<std::string_view, std::uint32_t>, std::int32_t> labels_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, Vreg> constants_;
};

/// Lays the drafts out: blocks, rejoin points, registers' places. `code` gets ops, frame and constants.
void lower(Builder& b, FunctionCode& code);

}  // namespace softgpu::exec
