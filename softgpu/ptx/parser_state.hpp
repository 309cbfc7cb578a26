// The recursive-descent parser's state; internal to softgpu/ptx. Its member functions stand in parser.cpp
// (module, declarations), parser_expression.cpp (constants, initializers) and parser_body.cpp (function
// bodies).
//
// The first error sticks: from then on every token is TokenKind::end, so all loops run out by themselves and
// callers need no checks beyond the one at the end.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "softgpu/ptx/constant.hpp"
#include "softgpu/ptx/lexer.hpp"
#include "softgpu/ptx/parser.hpp"

namespace softgpu::ptx {

class Parser {
 public:
  explicit Parser(Module& module) : module_(module), lexer_(module.source) { advance(); }

  void parse_module();
  bool failed() const { return failed_; }
  const ParseError& error() const { return error_; }

 private:
  /// Words before a declaration.
  struct Linkage {
    bool is_extern = false, visible = false, weak = false, common = false;
  };

  void advance();
  void fail(std::string reason);
  void fail_expected(std::string_view what);
  bool at_end() const { return token_.kind == TokenKind::end; }
  bool accept(char c);
  bool accept_directive(std::string_view directive);
  bool expect(char c);
  std::string_view expect_name(std::string_view what);

  // Module and declarations.
  void parse_version();
  void parse_target();
  void parse_module_item();
  Linkage parse_linkage();
  void parse_alias();
  void skip_pragma();
  void skip_file();
  void skip_section();
  void skip_parentheses();
  void parse_function(const Linkage& linkage);
  bool parse_function_directive(Function& function);
  void parse_dimensions(std::uint32_t (&out)[3]);
  std::vector<Variable> parse_params();
  Variable parse_param();
  static Space space_of(const Token& token);
  /// `.global .align 4 .u32 a[3] = {...}, b;` after its linkage; true when the token began one.
  bool parse_variables(const Linkage& linkage, std::vector<Variable>& out);
  void parse_variable_words(Variable& variable);
  void parse_attributes(Variable& variable);
  void parse_extents(Variable& variable);
  void check_size(const Variable& variable);

  // Constants.
  Constant parse_constant(int minimum_precedence = 1);
  Constant parse_unary();
  Constant parse_primary();
  Constant parse_literal();
  std::uint64_t parse_unsigned(std::uint64_t limit, std::string_view what);
  std::int64_t parse_offset();
  void parse_initializer(Variable& variable);
  void parse_initializer_level(Variable& variable, const std::vector<std::uint64_t>& extents,
                               std::size_t level, std::uint64_t begin);
  Initializer parse_initializer_value(const Variable& variable);
  void parse_symbol(Initializer& value);

  // Bodies.
  void parse_body(Function& function);
  void parse_statement();
  void parse_registers();
  void parse_location();
  void parse_label(std::string_view name);
  void parse_target_list(std::string_view name);
  void parse_prototype(std::string_view name);
  void parse_instruction(bool guarded);
  Operand parse_operand(bool allow_list);
  Operand parse_name_operand();
  NameOperand parse_name();
  AddressOperand parse_address();
  std::vector<Operand> parse_operands_until(char close);
  bool at_constant() const;
  static Operand literal_operand(Constant value);

  Module& module_;
  Lexer lexer_;
  Token token_;
  bool failed_ = false;
  ParseError error_;
  unsigned depth_ = 0;
  std::uint64_t padding_ = 0;  ///< initializer elements that stand in no text

  Function* function_ = nullptr;
  std::uint32_t scope_ = 0;
  Instruction instruction_;  ///< being read; reused so that its vectors keep their storage

  friend class Nesting;
};

/// Counts one level of recursion; fails the parse when the text nests too deeply.
class Nesting {
 public:
  explicit Nesting(Parser& parser) : parser_(parser) {
    if (++parser_.depth_ > limit) parser_.fail("nested too deeply");
  }
  ~Nesting() { --parser_.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  static constexpr unsigned limit = 256;
  Parser& parser_;
};

}  // namespace softgpu::ptx
