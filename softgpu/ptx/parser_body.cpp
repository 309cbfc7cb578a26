#include <utility>

#include "softgpu/ptx/parser_state.hpp"

namespace softgpu::ptx {
namespace {

constexpr std::uint32_t max_registers = 1U << 24;

}  // namespace

/// `{ ... }`. Nested blocks are kept on the chain of scopes, not on the stack: they may be as deep as the
/// text.
void Parser::parse_body(Function& function) {
  function_ = &function;
  function.scopes.emplace_back();
  scope_ = 0;
  expect('{');
  while (!at_end()) {
    if (token_.is('{')) {
      advance();
      Scope scope;
      scope.parent = scope_;
      scope_ = static_cast<std::uint32_t>(function.scopes.size());
      function.scopes.push_back(std::move(scope));
    } else if (token_.is('}')) {
      advance();
      if (scope_ == 0) {
        function_ = nullptr;
        function.instructions.shrink_to_fit();
        return;
      }
      scope_ = function.scopes[scope_].parent;
    } else {
      parse_statement();
    }
  }
  fail_expected("'}'");
}

void Parser::parse_statement() {
  if (token_.kind == TokenKind::name) {
    // A name ends the lexer's reading right behind itself: what follows tells a label from an instruction.
    if (lexer_.peek() == ':') {
      const std::string_view name = token_.text;
      advance();
      advance();
      parse_label(name);
    } else {
      parse_instruction(false);
    }
  } else if (token_.is('@')) {
    parse_instruction(true);
  } else if (accept_directive(".reg")) {
    parse_registers();
  } else if (accept_directive(".loc")) {
    parse_location();
  } else if (accept_directive(".pragma")) {
    skip_pragma();
  } else if (accept_directive(".file")) {
    skip_file();
  } else if (!accept(';')) {
    const Linkage linkage = parse_linkage();
    if (!parse_variables(linkage, function_->scopes[scope_].variables)) fail_expected("a statement");
  }
}

void Parser::parse_registers() {
  Variable words;
  parse_variable_words(words);
  auto& registers = function_->scopes[scope_].registers;
  do {
    RegisterDecl decl;
    decl.type = words.type;
    decl.vector = words.vector;
    decl.name = expect_name("a register's name");
    if (accept('<')) {
      decl.is_range = true;
      decl.count = static_cast<std::uint32_t>(parse_unsigned(max_registers, "a number of registers"));
      expect('>');
    }
    if (!failed_) registers.push_back(decl);
  } while (accept(','));
  expect(';');
}

/// `.loc 1 20 5, function_name $L__info_string0, inlined_at 1 40 3`: no semicolon ends it.
void Parser::parse_location() {
  const auto number = [this] { parse_unsigned(UINT64_MAX, "a number"); };
  number();
  number();
  number();
  while (accept(',')) {
    if (token_.is_name("function_name")) {
      advance();
      expect_name("a label");
      parse_offset();
    } else if (token_.is_name("inlined_at")) {
      advance();
      number();
      number();
      number();
    } else {
      fail_expected("'function_name' or 'inlined_at'");
    }
  }
}

void Parser::parse_label(std::string_view name) {
  if (failed_) return;
  if (accept_directive(".branchtargets") || accept_directive(".calltargets")) {
    parse_target_list(name);
  } else if (accept_directive(".callprototype")) {
    parse_prototype(name);
  } else {
    function_->labels.push_back({name, scope_, static_cast<std::uint32_t>(function_->instructions.size())});
  }
}

void Parser::parse_target_list(std::string_view name) {
  TargetList list;
  list.name = name;
  list.scope = scope_;
  do {
    list.targets.push_back(expect_name("a target"));
  } while (accept(','));
  expect(';');
  if (!failed_) function_->target_lists.push_back(std::move(list));
}

void Parser::parse_prototype(std::string_view name) {
  TargetList list;
  list.name = name;
  list.scope = scope_;
  list.is_prototype = true;
  if (token_.is('(')) list.results = parse_params();
  expect_name("'_'");
  if (token_.is('(')) list.params = parse_params();
  Function directives;
  while (parse_function_directive(directives)) {
  }
  expect(';');
  if (!failed_) function_->target_lists.push_back(std::move(list));
}

void Parser::parse_instruction(bool guarded) {
  Instruction& i = instruction_;
  i.parts.clear();
  i.operands.clear();
  i.guard.reset();
  i.line = token_.line;
  i.scope = scope_;
  if (guarded) {
    advance();
    const bool negated = accept('!');
    const std::string_view predicate = expect_name("a predicate");
    i.guard = Guard{predicate, negated};
  }
  if (token_.kind != TokenKind::name) {
    fail_expected("an instruction");
    return;
  }
  i.parts.push_back(token_.text);
  i.mnemonic = lexer_.mnemonic(token_.text, i.parts);
  advance();
  if (!token_.is(';')) {
    const bool is_call = i.parts[0] == "call";
    do {
      i.operands.push_back(parse_operand(is_call));
    } while (accept(','));
  }
  expect(';');
  if (!failed_) function_->instructions.push_back(i);  // a copy, so that it holds no spare capacity
}

bool Parser::at_constant() const {
  if (token_.kind == TokenKind::integer || token_.kind == TokenKind::real) return true;
  if (token_.kind == TokenKind::name) return token_.is_name("WARP_SZ");
  return token_.is('~') || token_.is('(') || token_.is('+');
}

Operand Parser::literal_operand(Constant value) {
  if (value.is_float) return {FloatLiteral{value.bits, value.is_single}};
  return {IntLiteral{value.bits, value.is_unsigned}};
}

Operand Parser::parse_operand(bool allow_list) {
  const Nesting nesting(*this);
  if (token_.kind == TokenKind::name && !token_.is_name("WARP_SZ")) return parse_name_operand();
  if (accept('[')) return {parse_address()};
  if (accept('{')) return {VectorOperand{parse_operands_until('}')}};
  if (allow_list && accept('(')) return {ListOperand{parse_operands_until(')')}};
  if (token_.is('!') || token_.is('-')) {
    const bool negated = token_.is('!');
    const char next = lexer_.peek();
    const bool before_name = next == '%' || next == '_' || next == '$' || (next >= 'a' && next <= 'z') ||
                             (next >= 'A' && next <= 'Z' && next != 'W');
    if (before_name) {
      advance();
      NameOperand name = parse_name();
      (negated ? name.negated : name.minus) = true;
      return {name};
    }
    return literal_operand(parse_constant());
  }
  if (at_constant()) return literal_operand(parse_constant());
  fail_expected("an operand");
  return {};
}

/// The name that is the current token, with its element.
NameOperand Parser::parse_name() {
  NameOperand operand;
  if (token_.kind == TokenKind::name) {
    operand.name = token_.text;
    operand.element = lexer_.element();
    // Vector elements have two sets of names.
    if (operand.element == "r") operand.element = "x";
    if (operand.element == "g") operand.element = "y";
    if (operand.element == "b") operand.element = "z";
    if (operand.element == "a") operand.element = "w";
  }
  expect_name("a name");
  return operand;
}

Operand Parser::parse_name_operand() {
  NameOperand operand = parse_name();
  if (accept('|')) return {PairOperand{operand, parse_name()}};
  operand.offset = parse_offset();
  return {operand};
}

AddressOperand Parser::parse_address() {
  AddressOperand address;
  if (token_.kind == TokenKind::name && !token_.is_name("WARP_SZ")) {
    address.base = token_.text;
    advance();
    address.offset = parse_offset();
  } else {
    const Constant value = parse_constant();
    if (value.is_float) fail("an address that is no integer");
    address.base = value.bits;
  }
  while (accept(',')) address.extra.push_back(parse_operand(false));
  expect(']');
  return address;
}

std::vector<Operand> Parser::parse_operands_until(char close) {
  std::vector<Operand> operands;
  if (!token_.is(close)) {
    do {
      operands.push_back(parse_operand(false));
    } while (accept(','));
  }
  expect(close);
  operands.shrink_to_fit();
  return operands;
}

}  // namespace softgpu::ptx
