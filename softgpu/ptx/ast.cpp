#include "softgpu/ptx/ast.hpp"

#include <algorithm>
#include <iterator>

namespace softgpu::ptx {
namespace {

struct TypeRow {
  std::string_view name;
  Type type;
  std::uint32_t size;
};
constexpr TypeRow rows[] = {
    {"b8", Type::b8, 1},           {"b16", Type::b16, 2},
    {"b32", Type::b32, 4},         {"b64", Type::b64, 8},
    {"b128", Type::b128, 16},      {"u8", Type::u8, 1},
    {"u16", Type::u16, 2},         {"u32", Type::u32, 4},
    {"u64", Type::u64, 8},         {"s8", Type::s8, 1},
    {"s16", Type::s16, 2},         {"s32", Type::s32, 4},
    {"s64", Type::s64, 8},         {"f16", Type::f16, 2},
    {"f16x2", Type::f16x2, 4},     {"bf16", Type::bf16, 2},
    {"bf16x2", Type::bf16x2, 4},   {"tf32", Type::tf32, 4},
    {"f32", Type::f32, 4},         {"f64", Type::f64, 8},
    {"pred", Type::pred, 0},       {"u16x2", Type::u16x2, 4},
    {"s16x2", Type::s16x2, 4},     {"e4m3", Type::e4m3, 1},
    {"e5m2", Type::e5m2, 1},       {"texref", Type::texref, 0},
    {"surfref", Type::surfref, 0}, {"samplerref", Type::samplerref, 0},
};

}  // namespace

std::uint32_t size_of(Type type) {
  const auto* row =
      std::find_if(std::begin(rows), std::end(rows), [&](const TypeRow& r) { return r.type == type; });
  return row == std::end(rows) ? 0 : row->size;
}

Type type_from_name(std::string_view name) {
  const auto* row =
      std::find_if(std::begin(rows), std::end(rows), [&](const TypeRow& r) { return r.name == name; });
  return row == std::end(rows) ? Type::none : row->type;
}

std::uint64_t Variable::size() const {
  std::uint64_t bytes = std::uint64_t{size_of(type)} * vector;
  for (const std::uint64_t extent : dims) bytes *= extent;
  return bytes;
}

std::uint32_t Variable::alignment() const {
  return align != 0 ? align : std::max(size_of(type) * vector, std::uint32_t{1});
}

}  // namespace softgpu::ptx
