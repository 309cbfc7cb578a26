// tex, tld4, txq, suld, sust and suq on texture and surface objects: from operands to softgpu/texture, lane
// by lane. Such instructions take long whatever the vector width is, so there is one version for all ISA
// levels. Source: PTX ISA, "Texture Instructions" and "Surface Instructions". Named samplers (independent
// mode), sparse residency and multisample textures are not supported.
#include "softgpu/exec/texture_ops.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "softgpu/exec/machine.hpp"
#include "softgpu/texture/texture.hpp"

namespace softgpu::exec {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

enum class Detail : std::uint8_t { none, level, gradient };
enum class Edge : std::uint8_t { trap, clamp, zero };

// What a mnemonic says; travels in Op::imm.
struct TextureForm {
  Geometry geometry = Geometry::d1;
  Detail detail = Detail::none;
  bool integer_coordinates = false;
  std::uint8_t component = 0;  ///< of a gather
  bool gather = false;
  std::uint8_t unused[3] = {};
};
static_assert(sizeof(TextureForm) == sizeof(u64));

struct SurfaceForm {
  Geometry geometry = Geometry::d1;
  Edge edge = Edge::trap;
  std::uint8_t bytes = 4;  ///< of an element
  std::uint8_t count = 1;  ///< elements
  std::uint8_t unused[4] = {};
};
static_assert(sizeof(SurfaceForm) == sizeof(u64));

enum class Query : std::uint8_t { width, height, depth, array_size, levels, normalized, filter };

unsigned coordinates_of(Geometry geometry) {
  switch (geometry) {
    case Geometry::d1:
    case Geometry::a1d:
      return 1;
    case Geometry::d2:
    case Geometry::a2d:
      return 2;
    default:
      return 3;
  }
}
bool layered(Geometry geometry) {
  return geometry == Geometry::a1d || geometry == Geometry::a2d || geometry == Geometry::acube;
}

template <class F>
void for_lanes(u32 mask, F f) {
  for (u32 m = mask; m != 0; m &= m - 1) f(static_cast<unsigned>(std::countr_zero(m)));
}

const Texture& object_of(Context& c, const Op* op, u64 handle, bool surface) {
  const Texture* const found = TextureTable::get().find(handle, surface);
  if (found == nullptr) {
    raise_fault(c, op, Fault::illegal_address, handle,
                surface ? "no surface object has this number" : "no texture object has this number");
  }
  return *found;
}

// r0-r3: destination; r4: object; r5: layer; r6-r8: coordinates; r9: level. Gradients: six registers of the
// next op.
const Op* run_texture(Context& c, const Op* op) {
  c.op = op;
  use_csr(c, csr_rn);
  const auto form = std::bit_cast<TextureForm>(op->imm);
  const unsigned count = coordinates_of(form.geometry);
  const u64* const handles = reg<u64>(c, op->r[4]);
  const Op* const more = form.detail == Detail::gradient ? op + 1 : nullptr;
  u32* d[4];
  for (unsigned k = 0; k < 4; ++k) d[k] = reg<u32>(c, op->r[k]);
  for_lanes(c.mask, [&](unsigned i) {
    const Texture& texture = object_of(c, op, handles[i], false);
    const std::int32_t layer = layered(form.geometry) ? reg<std::int32_t>(c, op->r[5])[i] : 0;
    std::int32_t whole[3] = {};
    float at[3] = {};
    for (unsigned k = 0; k < count; ++k) {
      whole[k] = reg<std::int32_t>(c, op->r[6 + k])[i];
      at[k] = std::bit_cast<float>(whole[k]);
    }
    Texel texel;
    if (form.gather) {
      texel = gather(texture, form.geometry, layer, at, form.component);
    } else if (form.integer_coordinates) {
      const std::int32_t level = form.detail == Detail::level ? reg<std::int32_t>(c, op->r[9])[i] : 0;
      texel = fetch(texture, form.geometry, layer, whole, level);
    } else {
      float level = 0;
      if (form.detail == Detail::level) level = reg<float>(c, op->r[9])[i];
      if (more != nullptr) {
        float slopes[2][3] = {};
        for (unsigned k = 0; k < count; ++k) {
          slopes[0][k] = reg<float>(c, more->r[k])[i];
          slopes[1][k] = reg<float>(c, more->r[3 + k])[i];
        }
        level = level_of(texture, form.geometry, slopes[0], slopes[1]);
      }
      texel = sample(texture, form.geometry, layer, at, level);
    }
    for (unsigned k = 0; k < 4; ++k) d[k][i] = texel[k];
  });
  return op + (more != nullptr ? 2 : 1);
}

// Where a surface access goes; nullptr when it is to do nothing.
std::byte* surface_place(Context& c, const Op* op, const SurfaceForm& form, unsigned i) {
  const Image& image = object_of(c, op, reg<u64>(c, op->r[4])[i], true).levels[0];
  const std::int64_t bytes = std::int64_t{form.bytes} * form.count;
  const unsigned count = coordinates_of(form.geometry);
  std::int64_t at[3] = {};
  for (unsigned k = 0; k < count; ++k) at[k] = reg<std::int32_t>(c, op->r[6 + k])[i];
  if (layered(form.geometry)) at[2] = reg<std::int32_t>(c, op->r[5])[i];
  // The first coordinate counts bytes.
  const std::int64_t most[3] = {std::int64_t{image.width} * image.texel_bytes() - bytes,
                                std::int64_t{image.height} - 1, std::int64_t{image.depth} - 1};
  if (at[0] % bytes != 0) {
    raise_fault(c, op, Fault::misaligned_address, static_cast<u64>(at[0]),
                "a surface's byte coordinate is no multiple of the access's size");
  }
  for (unsigned k = 0; k < 3; ++k) {
    if (at[k] >= 0 && at[k] <= most[k]) continue;
    if (form.edge == Edge::trap || most[0] < 0) {
      raise_fault(c, op, Fault::illegal_address, static_cast<u64>(at[k]), "surface coordinate out of range");
    }
    if (form.edge == Edge::zero) return nullptr;
    at[k] = std::clamp<std::int64_t>(at[k], 0, most[k]);
  }
  const u64 address = image.base + static_cast<u64>(at[2]) * image.slice_pitch +
                      static_cast<u64>(at[1]) * image.row_pitch + static_cast<u64>(at[0]);
  return reinterpret_cast<std::byte*>(
      static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr)
}

// The elements of an access lie in r0-r3, of 2, 4 or 8 bytes each.
std::byte* element(Context& c, const Op* op, const SurfaceForm& form, unsigned n, unsigned i) {
  const u32 width = form.bytes < 2 ? 2 : form.bytes;
  return reg<std::byte>(c, op->r[n]) + std::size_t{i} * width;
}

const Op* run_surface_load(Context& c, const Op* op) {
  c.op = op;
  const auto form = std::bit_cast<SurfaceForm>(op->imm);
  for_lanes(c.mask, [&](unsigned i) {
    const std::byte* const from = surface_place(c, op, form, i);
    for (unsigned n = 0; n < form.count; ++n) {
      std::byte* const to = element(c, op, form, n, i);
      if (form.bytes == 1) to[1] = std::byte{0};
      if (from != nullptr) {
        std::memcpy(to, from + std::size_t{n} * form.bytes, form.bytes);
      } else {
        std::memset(to, 0, form.bytes);
      }
    }
  });
  return op + 1;
}

const Op* run_surface_store(Context& c, const Op* op) {
  c.op = op;
  const auto form = std::bit_cast<SurfaceForm>(op->imm);
  for_lanes(c.mask, [&](unsigned i) {
    std::byte* const to = surface_place(c, op, form, i);
    if (to == nullptr) return;
    for (unsigned n = 0; n < form.count; ++n) {
      std::memcpy(to + std::size_t{n} * form.bytes, element(c, op, form, n, i), form.bytes);
    }
  });
  return op + 1;
}

// r0: destination; r4: object; r9: level where aux is 2 or 3; aux bit 0: a surface.
const Op* run_query(Context& c, const Op* op) {
  c.op = op;
  u32* const d = reg<u32>(c, op->r[0]);
  for_lanes(c.mask, [&](unsigned i) {
    const Texture& texture = object_of(c, op, reg<u64>(c, op->r[4])[i], (op->aux & 1) != 0);
    const u32 level = (op->aux & 2) != 0 ? std::min(reg<u32>(c, op->r[9])[i], texture.level_count - 1) : 0;
    const Image& image = texture.levels[level];
    switch (static_cast<Query>(op->imm)) {
      case Query::width:
        d[i] = image.width;
        break;
      case Query::height:
        d[i] = image.height;
        break;
      case Query::depth:
      case Query::array_size:
        d[i] = image.depth;
        break;
      case Query::levels:
        d[i] = texture.level_count;
        break;
      case Query::normalized:
        d[i] = texture.normalized ? 1 : 0;
        break;
      case Query::filter:
        d[i] = texture.linear ? 1 : 0;
        break;
    }
  });
  return op + 1;
}

std::optional<Geometry> geometry_of(const Instruction& i) {
  static constexpr std::pair<std::string_view, Geometry> names[] = {
      {"1d", Geometry::d1},   {"2d", Geometry::d2},     {"3d", Geometry::d3},      {"a1d", Geometry::a1d},
      {"a2d", Geometry::a2d}, {"cube", Geometry::cube}, {"acube", Geometry::acube}};
  for (const auto& [name, geometry] : names)
    if (i.has(name)) return geometry;
  return std::nullopt;
}

std::vector<const ptx::Operand*> elements_of(const ptx::Operand& o) {
  std::vector<const ptx::Operand*> all;
  if (const auto* list = std::get_if<ptx::VectorOperand>(&o.value)) {
    for (const auto& e : list->elements) all.push_back(&e);
  } else {
    all.push_back(&o);
  }
  return all;
}

// The object's register and the coordinates of `[object, {x, y}]`.
struct Place {
  Vreg object = 0;
  std::vector<const ptx::Operand*> coordinates;
};
std::optional<Place> place_of(Builder& b, const ptx::Operand& o, std::size_t extras) {
  const auto* a = std::get_if<ptx::AddressOperand>(&o.value);
  const auto* name = a != nullptr ? std::get_if<std::string_view>(&a->base) : nullptr;
  if (name == nullptr || a->extra.size() != extras) {
    b.fail("this form of a texture or surface operand");
    return std::nullopt;
  }
  const Symbol s = b.lookup(*name);
  if (s.kind != Symbol::Kind::vreg || Builder::register_bytes(s.type) != 8 || a->offset != 0) {
    b.fail("texture and surface references of the module (not objects)");
    return std::nullopt;
  }
  Place place;
  place.object = static_cast<Vreg>(s.value);
  if (extras != 0) place.coordinates = elements_of(a->extra[0]);
  return place;
}

// Layer into r5, coordinates into r6...; false when there are too few.
struct Coordinates {
  Vreg layer = 0;
  Vreg at[3] = {};
};
std::optional<Coordinates> coordinates_in(Builder& b, const Place& place, Geometry geometry, bool is_float) {
  Coordinates result;
  const std::size_t first = layered(geometry) ? 1 : 0;
  const unsigned count = coordinates_of(geometry);
  if (place.coordinates.size() < first + count) {
    b.fail("too few coordinates");
    return std::nullopt;
  }
  if (first != 0) result.layer = b.in(*place.coordinates[0], 4);
  for (unsigned k = 0; k < count; ++k) result.at[k] = b.in(*place.coordinates[first + k], 4, is_float);
  return result;
}

void use_coordinates(Draft& d, const Coordinates& coordinates, Geometry geometry) {
  if (layered(geometry)) d.use(5, coordinates.layer);
  for (unsigned k = 0; k < coordinates_of(geometry); ++k) d.use(6 + k, coordinates.at[k]);
}

bool decode_fetch(Builder& b, const Instruction& i) {
  TextureForm form;
  form.gather = i.name() == "tld4";
  const auto geometry = geometry_of(i);
  if (!geometry) return b.fail("this texture geometry");
  form.geometry = *geometry;
  if (i.has("level")) form.detail = Detail::level;
  if (i.has("grad")) form.detail = Detail::gradient;
  if (form.gather) {
    static constexpr std::string_view components[] = {"r", "g", "b", "a"};
    for (std::uint8_t k = 0; k < 4; ++k)
      if (i.has(components[k])) form.component = k;
    if (coordinates_of(form.geometry) == 1 || form.geometry == Geometry::d3)
      return b.fail("a gather of this geometry");
  }
  const ptx::Type type = i.source_type();
  if (!i.has("v4") || ptx::size_of(type) != 4) return b.fail("a texture fetch of this type");
  if (i.type() != ptx::Type::f32 && i.type() != ptx::Type::s32)
    return b.fail("texture coordinates of this type");
  form.integer_coordinates = i.type() == ptx::Type::s32;
  const bool is_float = !form.integer_coordinates;
  const std::size_t wanted = form.detail == Detail::none ? 2 : form.detail == Detail::level ? 3 : 4;
  if (i.operands() != wanted) return b.fail("a texture fetch with this many operands");
  const auto* results = std::get_if<ptx::VectorOperand>(&i.operand(0).value);
  if (results == nullptr || results->elements.size() != 4)
    return b.fail("this destination of a texture fetch");
  const auto place = place_of(b, i.operand(1), 1);
  if (!place) return true;
  const auto coordinates = coordinates_in(b, *place, form.geometry, is_float);
  if (!coordinates) return true;
  Vreg detail = 0;
  if (form.detail == Detail::level) detail = b.in(i.operand(2), 4, is_float);
  Vreg slopes[2][3] = {};
  if (form.detail == Detail::gradient) {
    for (unsigned which = 0; which < 2; ++which) {
      const auto elements = elements_of(i.operand(2 + which));
      if (elements.size() < coordinates_of(form.geometry)) return b.fail("too few derivatives");
      for (unsigned k = 0; k < coordinates_of(form.geometry); ++k)
        slopes[which][k] = b.in(*elements[k], 4, true);
    }
  }
  Vreg out[4];
  for (unsigned k = 0; k < 4; ++k) out[k] = b.out(results->elements[k], 4);
  Draft& d = b.emit(run_texture).imm(std::bit_cast<u64>(form)).use(4, place->object);
  for (unsigned k = 0; k < 4; ++k) d.def(k, out[k]);
  use_coordinates(d, *coordinates, form.geometry);
  if (form.detail == Detail::level) d.use(9, detail);
  if (form.detail == Detail::gradient) {
    Draft& more = b.extend();
    for (unsigned which = 0; which < 2; ++which) {
      for (unsigned k = 0; k < coordinates_of(form.geometry); ++k) more.use(3 * which + k, slopes[which][k]);
    }
  }
  return true;
}

bool decode_surface(Builder& b, const Instruction& i) {
  const bool is_load = i.name() == "suld";
  const auto geometry = geometry_of(i);
  if (!i.has("b") || !geometry || *geometry == Geometry::cube || *geometry == Geometry::acube)
    return b.fail("this form of a surface access");
  SurfaceForm form;
  form.geometry = *geometry;
  form.edge = i.has("clamp") ? Edge::clamp : i.has("zero") ? Edge::zero : Edge::trap;
  const u32 bytes = i.has("b8") ? 1 : i.has("b16") ? 2 : i.has("b32") ? 4 : i.has("b64") ? 8 : 0;
  const auto elements = elements_of(i.operand(is_load ? 0 : 1));
  form.bytes = static_cast<std::uint8_t>(bytes);
  form.count = static_cast<std::uint8_t>(elements.size());
  if (bytes == 0 || i.operands() != 2 || (form.count != 1 && form.count != 2 && form.count != 4) ||
      bytes * form.count > 16)
    return b.fail("a surface access of this type");
  const auto place = place_of(b, i.operand(is_load ? 1 : 0), 1);
  if (!place) return true;
  const auto coordinates = coordinates_in(b, *place, form.geometry, false);
  if (!coordinates) return true;
  const u32 width = bytes < 2 ? 2 : bytes;
  Vreg v[4];
  for (unsigned k = 0; k < form.count; ++k)
    v[k] = is_load ? b.out(*elements[k], width) : b.in(*elements[k], width);
  Draft& d = b.emit(is_load ? run_surface_load : run_surface_store)
                 .imm(std::bit_cast<u64>(form))
                 .use(4, place->object);
  for (unsigned k = 0; k < form.count; ++k) {
    if (is_load) {
      d.def(k, v[k]);
    } else {
      d.use(k, v[k]);
    }
  }
  use_coordinates(d, *coordinates, form.geometry);
  return true;
}

bool decode_query(Builder& b, const Instruction& i) {
  static constexpr std::pair<std::string_view, Query> names[] = {{"width", Query::width},
                                                                 {"height", Query::height},
                                                                 {"depth", Query::depth},
                                                                 {"array_size", Query::array_size},
                                                                 {"num_mipmap_levels", Query::levels},
                                                                 {"normalized_coords", Query::normalized},
                                                                 {"filter_mode", Query::filter}};
  const bool with_level = i.has("level");
  const auto* query =
      std::find_if(std::begin(names), std::end(names), [&](const auto& n) { return i.has(n.first); });
  if (query == std::end(names) || i.operands() != (with_level ? 3 : 2)) return b.fail("this query");
  const auto place = place_of(b, i.operand(1), 0);
  if (!place) return true;
  Vreg level = 0;
  if (with_level) level = b.in(i.operand(2), 4);
  const Vreg out = b.out(i.operand(0), 4);
  Draft& d = b.emit(run_query)
                 .def(0, out)
                 .use(4, place->object)
                 .imm(static_cast<u64>(query->second))
                 .aux(static_cast<std::uint16_t>((i.name() == "suq" ? 1 : 0) | (with_level ? 2 : 0)));
  if (with_level) d.use(9, level);
  return true;
}

}  // namespace

bool decode_texture(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  if (name == "tex" || name == "tld4") return decode_fetch(b, i);
  if (name == "suld" || name == "sust") return decode_surface(b, i);
  if (name == "txq" || name == "suq") return decode_query(b, i);
  if (name == "sured") return b.fail("reductions in surfaces are not supported");
  return false;
}

}  // namespace softgpu::exec
