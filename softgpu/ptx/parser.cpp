#include "softgpu/ptx/parser.hpp"

#include <charconv>
#include <utility>

#include "softgpu/ptx/parser_state.hpp"

namespace softgpu::ptx {
namespace {

constexpr std::uint64_t max_variable_bytes = std::uint64_t{1} << 40;
constexpr std::uint32_t max_alignment = 1U << 16;

}  // namespace

void Parser::advance() {
  if (failed_) return;
  token_ = lexer_.next();
  if (token_.kind == TokenKind::bad) {
    if (token_.text.front() == '"') {
      fail("string without an end");
    } else if (token_.text.size() > 1) {
      fail("malformed number '" + std::string(token_.text) + "'");
    } else {
      fail("unexpected character");
    }
  }
}

void Parser::fail(std::string reason) {
  if (failed_) return;
  failed_ = true;
  error_ = {token_.line, std::move(reason)};
  token_ = {TokenKind::end, {}, token_.line};
}

void Parser::fail_expected(std::string_view what) {
  constexpr std::size_t shown = 60;
  std::string reason = "expected " + std::string(what);
  reason += at_end() ? " before the end" : " before '" + std::string(token_.text.substr(0, shown)) + "'";
  fail(std::move(reason));
}

bool Parser::accept(char c) {
  if (!token_.is(c)) return false;
  advance();
  return true;
}

bool Parser::accept_directive(std::string_view directive) {
  if (!token_.is_directive(directive)) return false;
  advance();
  return true;
}

bool Parser::expect(char c) {
  if (accept(c)) return true;
  fail_expected(std::string("'") + c + "'");
  return false;
}

std::string_view Parser::expect_name(std::string_view what) {
  if (token_.kind != TokenKind::name) {
    fail_expected(what);
    return {};
  }
  const std::string_view name = token_.text;
  advance();
  return name;
}

void Parser::parse_module() {
  if (!token_.is_directive(".version")) fail_expected("'.version'");
  while (!at_end()) parse_module_item();
}

void Parser::parse_version() {
  const std::string_view text = token_.text;
  const char* end = text.data() + text.size();
  const auto major = std::from_chars(text.data(), end, module_.version_major);
  if (major.ec == std::errc{} && major.ptr != end && *major.ptr == '.') {
    const auto minor = std::from_chars(major.ptr + 1, end, module_.version_minor);
    if (minor.ec == std::errc{} && minor.ptr == end && module_.version_major < 100 &&
        module_.version_minor < 100) {
      advance();
      return;
    }
  }
  fail_expected("a version number such as 8.5");
}

void Parser::parse_target() {
  module_.target = expect_name("a target such as sm_75");
  while (accept(',')) expect_name("a target option");
}

void Parser::parse_module_item() {
  if (accept_directive(".version")) {
    parse_version();
  } else if (accept_directive(".target")) {
    parse_target();
  } else if (accept_directive(".address_size")) {
    module_.address_size = static_cast<std::uint32_t>(parse_unsigned(64, "an address size"));
  } else if (accept_directive(".file")) {
    skip_file();
  } else if (accept_directive(".section")) {
    skip_section();
  } else if (accept_directive(".pragma")) {
    skip_pragma();
  } else if (accept_directive(".alias")) {
    parse_alias();
  } else if (!accept(';')) {
    const Linkage linkage = parse_linkage();
    if (token_.is_directive(".func") || token_.is_directive(".entry")) {
      parse_function(linkage);
    } else if (!parse_variables(linkage, module_.variables)) {
      fail_expected("a declaration");
    }
  }
}

Parser::Linkage Parser::parse_linkage() {
  Linkage linkage;
  while (true) {
    if (accept_directive(".extern")) {
      linkage.is_extern = true;
    } else if (accept_directive(".visible")) {
      linkage.visible = true;
    } else if (accept_directive(".weak")) {
      linkage.weak = true;
    } else if (accept_directive(".common")) {
      linkage.common = true;
    } else {
      return linkage;
    }
  }
}

void Parser::parse_alias() {
  Alias alias;
  alias.name = expect_name("an alias's name");
  expect(',');
  alias.target = expect_name("the aliased function");
  expect(';');
  if (!failed_) module_.aliases.push_back(alias);
}

void Parser::skip_pragma() {
  while (!at_end() && !token_.is(';')) advance();
  expect(';');
}

void Parser::skip_file() {
  parse_unsigned(UINT64_MAX, "a file number");
  if (token_.kind != TokenKind::string) fail_expected("a file name");
  advance();
  while (accept(',')) parse_unsigned(UINT64_MAX, "a number");
}

/// Debug information, DWARF as numbers and labels: nothing in it runs.
void Parser::skip_section() {
  while (!at_end() && !token_.is('{')) advance();
  expect('{');
  std::uint64_t open = 1;
  while (!at_end() && open != 0) {
    if (token_.is('{')) ++open;
    if (token_.is('}')) --open;
    advance();
  }
  if (open != 0) fail_expected("'}'");
}

void Parser::skip_parentheses() {
  expect('(');
  std::uint64_t open = 1;
  while (!at_end() && open != 0) {
    if (token_.is('(')) ++open;
    if (token_.is(')')) --open;
    advance();
  }
  if (open != 0) fail_expected("')'");
}

void Parser::parse_function(const Linkage& linkage) {
  Function function;
  function.line = token_.line;
  function.is_entry = token_.is_directive(".entry");
  function.is_extern = linkage.is_extern;
  function.visible = linkage.visible;
  function.weak = linkage.weak;
  advance();
  while (accept_directive(".attribute")) skip_parentheses();
  if (token_.is('(')) function.results = parse_params();
  function.name = expect_name("a function's name");
  if (token_.is('(')) function.params = parse_params();
  while (parse_function_directive(function)) {
  }
  if (token_.is('{')) {
    function.has_body = true;
    parse_body(function);
  } else if (!accept(';')) {
    fail_expected("';' or a body");
  }
  if (!failed_) module_.functions.push_back(std::move(function));
}

bool Parser::parse_function_directive(Function& function) {
  constexpr std::uint64_t limit = UINT32_MAX;
  std::uint32_t unused[3];
  if (accept_directive(".maxntid")) {
    parse_dimensions(function.maxntid);
  } else if (accept_directive(".reqntid")) {
    parse_dimensions(function.reqntid);
  } else if (accept_directive(".minnctapersm")) {
    function.minnctapersm = static_cast<std::uint32_t>(parse_unsigned(limit, "a number of blocks"));
  } else if (accept_directive(".maxnreg")) {
    function.maxnreg = static_cast<std::uint32_t>(parse_unsigned(limit, "a number of registers"));
  } else if (accept_directive(".noreturn")) {
    function.noreturn = true;
  } else if (accept_directive(".reqnctapercluster")) {
    parse_dimensions(unused);
  } else if (token_.is_directive(".maxnctapersm") || token_.is_directive(".maxclusterrank") ||
             token_.is_directive(".abi_preserve") || token_.is_directive(".abi_preserve_control")) {
    advance();
    parse_unsigned(limit, "a number");
  } else if (accept_directive(".attribute")) {
    skip_parentheses();
  } else if (accept_directive(".pragma")) {
    skip_pragma();
  } else if (!accept_directive(".explicitcluster") && !accept_directive(".blocksareclusters")) {
    return false;
  }
  return true;
}

void Parser::parse_dimensions(std::uint32_t (&out)[3]) {
  std::uint32_t values[3] = {1, 1, 1};
  unsigned count = 0;
  do {
    const std::uint64_t value = parse_unsigned(UINT32_MAX, "an extent");
    if (count < 3) values[count] = static_cast<std::uint32_t>(value);
    ++count;
  } while (accept(','));
  if (count > 3) fail("more than three extents");
  std::copy(std::begin(values), std::end(values), std::begin(out));
}

std::vector<Variable> Parser::parse_params() {
  std::vector<Variable> params;
  expect('(');
  if (!token_.is(')')) {
    do {
      params.push_back(parse_param());
    } while (accept(','));
  }
  expect(')');
  return params;
}

Space Parser::space_of(const Token& token) {
  if (token.kind != TokenKind::directive) return Space::generic;
  const std::string_view name = token.text.substr(0, token.text.find("::"));
  if (name == ".reg") return Space::reg;
  if (name == ".sreg") return Space::sreg;
  if (name == ".const") return Space::constant;
  if (name == ".global") return Space::global;
  if (name == ".local") return Space::local;
  if (name == ".param") return Space::param;
  if (name == ".shared") return Space::shared;
  return Space::generic;
}

Variable Parser::parse_param() {
  Variable param;
  param.line = token_.line;
  param.space = space_of(token_);
  if (param.space != Space::param && param.space != Space::reg) fail_expected("'.param' or '.reg'");
  advance();
  parse_variable_words(param);
  if (accept_directive(".ptr")) {
    param.ptr_space = space_of(token_);
    if (param.ptr_space != Space::generic) advance();
    if (accept_directive(".align")) {
      param.ptr_align = static_cast<std::uint32_t>(parse_unsigned(UINT32_MAX, "an alignment"));
    }
  }
  param.name = expect_name("a parameter's name");
  parse_extents(param);
  check_size(param);
  return param;
}

void Parser::parse_attributes(Variable& variable) {
  expect('(');
  std::uint64_t open = 1;
  while (!at_end() && open != 0) {
    if (token_.is_directive(".managed")) variable.managed = true;
    if (token_.is('(')) ++open;
    if (token_.is(')')) --open;
    advance();
  }
}

/// The words between a declaration's space and its name: alignment, vector, type, attributes, in any order.
void Parser::parse_variable_words(Variable& variable) {
  while (token_.kind == TokenKind::directive) {
    if (accept_directive(".align")) {
      variable.align = static_cast<std::uint32_t>(parse_unsigned(max_alignment, "an alignment"));
      if ((variable.align & (variable.align - 1)) != 0) fail("alignment is no power of two");
    } else if (accept_directive(".attribute")) {
      parse_attributes(variable);
    } else if (token_.is_directive(".v2") || token_.is_directive(".v4") || token_.is_directive(".v8")) {
      variable.vector = static_cast<std::uint8_t>(token_.text[2] - '0');
      advance();
    } else if (const Type type = type_from_name(token_.text.substr(1)); type != Type::none) {
      variable.type = type;
      advance();
    } else {
      break;
    }
  }
  if (variable.type == Type::none) fail_expected("a type");
}

void Parser::parse_extents(Variable& variable) {
  while (accept('[')) {
    if (accept(']')) {
      variable.dims.push_back(0);
      continue;
    }
    const Constant extent = parse_constant();
    if (extent.is_float || extent.bits > max_variable_bytes) fail("array extent out of range");
    variable.dims.push_back(extent.bits);
    expect(']');
    if (variable.dims.size() > 16) fail("more than 16 array extents");
  }
}

void Parser::check_size(const Variable& variable) {
  std::uint64_t bytes = std::uint64_t{size_of(variable.type)} * variable.vector;
  for (const std::uint64_t extent : variable.dims) {
    if (extent != 0 && bytes > max_variable_bytes / extent) {
      fail("variable '" + std::string(variable.name) + "' is too large");
      return;
    }
    bytes *= extent;
  }
}

bool Parser::parse_variables(const Linkage& linkage, std::vector<Variable>& out) {
  Variable common;
  common.space = space_of(token_);
  // ".tex .u32 t;" is the old spelling of a texture reference in global memory.
  const bool old_texture = token_.is_directive(".tex");
  if (common.space == Space::generic && !old_texture) return false;
  if (old_texture) common.space = Space::global;
  advance();
  if (common.space == Space::constant && accept('[')) {
    parse_unsigned(10, "a constant bank");
    expect(']');
  }
  parse_variable_words(common);
  if (old_texture) common.type = Type::texref;
  common.is_extern = linkage.is_extern;
  common.visible = linkage.visible;
  common.weak = linkage.weak;
  common.common = linkage.common;
  do {
    Variable variable = common;
    variable.line = token_.line;
    variable.name = expect_name("a variable's name");
    parse_extents(variable);
    check_size(variable);
    if (accept('=')) parse_initializer(variable);
    if (!failed_) out.push_back(std::move(variable));
  } while (accept(','));
  expect(';');
  return true;
}

tl::expected<std::unique_ptr<Module>, ParseError> parse(std::string_view text) {
  auto module = std::make_unique<Module>();
  while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
  if (text.size() > UINT32_MAX) return tl::unexpected(ParseError{0, "text of more than 4 GiB"});
  module->source = text;
  Parser parser(*module);
  parser.parse_module();
  if (parser.failed()) return tl::unexpected(parser.error());
  return module;
}

}  // namespace softgpu::ptx
