// The syntax tree of a PTX module: what the parser produces and the compiler consumes.
//
// This header knows PTX's grammar (PTX ISA 9.0) and nothing of what an instruction does: an instruction is
// its mnemonic split at the dots, its guard and its operands. Meaning belongs to softgpu/exec. Strings in the
// tree are views into Module::source, which the tree owns.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace softgpu::ptx {

/// A fundamental or bit-size type as written after the dot (".u32" is Type::u32).
enum class Type : std::uint8_t {
  none,
  b8,
  b16,
  b32,
  b64,
  b128,
  u8,
  u16,
  u32,
  u64,
  s8,
  s16,
  s32,
  s64,
  f16,
  f16x2,
  bf16,
  bf16x2,
  tf32,
  f32,
  f64,
  pred,
  u16x2,
  s16x2,
  e4m3,
  e5m2,
  texref,
  samplerref,
  surfref,
};
/// Bytes that a value of `type` takes in memory; predicates and opaque references have none (0).
std::uint32_t size_of(Type type);
/// The type spelled `name` (without the dot), or Type::none.
Type type_from_name(std::string_view name);

/// State space; `generic` where none was written.
enum class Space : std::uint8_t { generic, reg, sreg, constant, global, local, param, shared };

/// A name with its byte offset: `sym`, `sym+12`, or in a scope-resolved form.
struct SymbolRef {
  std::string_view name;
  std::int64_t offset = 0;
};
/// An integer literal; `is_unsigned` when it carries a U suffix or does not fit in int64_t.
struct IntLiteral {
  std::uint64_t bits = 0;
  bool is_unsigned = false;
};
/// A floating-point literal. `bits` is its IEEE image: 64-bit for decimal and 0d forms, 32-bit for 0f.
struct FloatLiteral {
  std::uint64_t bits = 0;
  bool is_single = false;
};
/// A register or any other name as an operand, perhaps negated (`!%p1`), a vector element (`%r1.x`), or `_`.
struct NameOperand {
  std::string_view name;
  bool negated = false;      ///< `!p`
  bool minus = false;        ///< `-%r1` (only as a source of some instructions)
  std::string_view element;  ///< "x", "y", "z", "w" or empty; also the special registers' part (%tid.x)
  std::int64_t offset = 0;   ///< `name+8` outside brackets (mov from a symbol's address)
};
struct Operand;
/// `[base+offset]`; base is a name (register or symbol) or an absolute address. Texture and surface accesses
/// and tensor copies write more behind it, `[tex, sampler, {x, y}]`: those operands stand in `extra`.
struct AddressOperand {
  std::variant<std::string_view, std::uint64_t> base;
  std::int64_t offset = 0;
  std::vector<Operand> extra;
};
/// `{a, b, c, d}`.
struct VectorOperand {
  std::vector<Operand> elements;
};
/// `(a, b)`: call arguments and results.
struct ListOperand {
  std::vector<Operand> elements;
};
/// `a|b`: the second destination of setp, shfl, vote, match.
struct PairOperand {
  NameOperand first, second;
};
/// One operand of an instruction.
struct Operand {
  std::variant<NameOperand, IntLiteral, FloatLiteral, AddressOperand, VectorOperand, ListOperand, PairOperand>
      value;
};

/// `@p` or `@!p` before an instruction.
struct Guard {
  std::string_view predicate;
  bool negated = false;
};

/// One instruction. `parts` is the mnemonic split at the dots: "ld.global.nc.v4.u32" -> {ld, global, nc, v4,
/// u32}; a part may hold "::" ("shared::cta", "mbarrier::complete_tx"). Operands come in the order written.
struct Instruction {
  std::string_view mnemonic;
  std::vector<std::string_view> parts;
  std::optional<Guard> guard;
  std::vector<Operand> operands;
  std::uint32_t line = 0;
  std::uint32_t scope = 0;  ///< index into Function::scopes: where its names are looked up, outwards to 0
};

/// One element of an initializer: a number's little-endian bytes, or a symbol's address (generic() or plain).
struct Initializer {
  std::uint64_t bits = 0;           ///< integer or IEEE image of the variable's element type
  std::optional<SymbolRef> symbol;  ///< its address is added to `bits`
  bool generic = false;             ///< written generic(sym)
  std::uint8_t mask_shift = 0;      ///< 0xFF(sym)-style byte selection: shift in bits; 0xff = not used
  bool has_mask = false;
};

/// A variable or parameter declaration.
struct Variable {
  std::string_view name;
  Space space = Space::generic;
  Type type = Type::none;
  std::uint8_t vector = 1;               ///< 1, 2, 4 (.v2, .v4)
  std::vector<std::uint64_t> dims;       ///< array extents; an empty extent ([]) is 0; empty = scalar
  std::uint32_t align = 0;               ///< .align, 0 = natural
  std::vector<Initializer> initializer;  ///< flattened, row-major; shorter than the array = zeros follow
  bool is_extern = false, visible = false, weak = false, common = false, managed = false;
  Space ptr_space = Space::generic;  ///< .ptr.space of a kernel parameter
  std::uint32_t ptr_align = 0;
  std::uint32_t line = 0;
  /// Bytes of the whole variable (type x vector x dims).
  std::uint64_t size() const;
  /// Alignment in bytes: .align or the natural one.
  std::uint32_t alignment() const;
};

/// `.reg .b32 %r<10>;` declares %r0..%r9: name "%r", count 10, is_range. `.reg .b32 a, b;` yields two
/// entries.
struct RegisterDecl {
  std::string_view name;
  Type type = Type::none;
  std::uint8_t vector = 1;
  std::uint32_t count = 1;
  bool is_range = false;
};

/// A `{ }` block: its own registers, variables and labels; `parent` is its outer scope's index (0's is
/// itself).
struct Scope {
  std::uint32_t parent = 0;
  std::vector<RegisterDecl> registers;
  std::vector<Variable> variables;
};

/// A label: the index of the instruction it stands before (== instructions.size() at the end).
struct Label {
  std::string_view name;
  std::uint32_t scope = 0;
  std::uint32_t instruction = 0;
};
/// `name: .branchtargets a, b;` or `.calltargets`, or `.callprototype`.
struct TargetList {
  std::string_view name;
  std::uint32_t scope = 0;
  std::vector<std::string_view> targets;  ///< empty for a prototype
  bool is_prototype = false;
  std::vector<Variable> results, params;  ///< of a prototype
};

/// A .func or .entry; without a body it is a declaration.
struct Function {
  std::string_view name;
  bool is_entry = false, is_extern = false, visible = false, weak = false, noreturn = false;
  std::vector<Variable> results, params;
  bool has_body = false;
  std::vector<Scope> scopes;  ///< [0] is the body
  std::vector<Instruction> instructions;
  std::vector<Label> labels;
  std::vector<TargetList> target_lists;
  std::uint32_t maxntid[3] = {0, 0, 0};  ///< .maxntid, zeros = not given
  std::uint32_t reqntid[3] = {0, 0, 0};
  std::uint32_t minnctapersm = 0, maxnreg = 0;
  std::uint32_t line = 0;
};

/// `.alias name, target;`: another name of a function.
struct Alias {
  std::string_view name, target;
};

/// A whole PTX text.
struct Module {
  std::string source;
  std::uint32_t version_major = 0, version_minor = 0;
  std::string_view target;  ///< "sm_75"
  std::uint32_t address_size = 64;
  std::vector<Variable> variables;  ///< module scope: .global, .const, .shared, extern ones too
  std::vector<Function> functions;
  std::vector<Alias> aliases;
};

}  // namespace softgpu::ptx
