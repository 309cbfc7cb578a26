// What the variables of modules take: PTX as ptxas 13 reads it, machine code, fatbins of several images.
#include "daemon/worker/image_variables.hpp"

#include <elf.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <cstring>
#include <string>
#include <vector>

namespace vgpu::worker {
namespace {

using Bytes = std::vector<std::byte>;

std::optional<std::uint64_t> of(const std::string& declarations) {
  return ptx_variable_bytes(".version 8.0\n.target sm_75\n.address_size 64\n" + declarations +
                            "\n.visible .entry k() { ret; }\n");
}

template <class T>
void append(Bytes& out, const T& value) {
  const auto* const bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

Bytes payload_of(const std::string& text) {
  const auto* const data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

struct Section {
  std::string name;
  std::uint32_t type = SHT_NOBITS;
  std::uint64_t size = 0;
  std::uint64_t flags = SHF_ALLOC | SHF_WRITE;
};

/// An ELF file of section headers and their names alone.
Bytes elf_of(const std::vector<Section>& sections) {
  std::string names(1, '\0');
  std::vector<Elf64_Shdr> table(1);
  for (const Section& section : sections) {
    Elf64_Shdr made{};
    made.sh_name = static_cast<Elf64_Word>(names.size());
    made.sh_type = section.type;
    made.sh_size = section.size;
    made.sh_flags = section.flags;
    names += section.name + '\0';
    table.push_back(made);
  }
  Elf64_Shdr strings{};
  strings.sh_type = SHT_STRTAB;
  strings.sh_offset = sizeof(Elf64_Ehdr);
  strings.sh_size = names.size();
  table.push_back(strings);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = static_cast<Elf64_Half>(table.size());
  header.e_shstrndx = static_cast<Elf64_Half>(table.size() - 1);
  header.e_shoff = sizeof header + names.size();
  Bytes out;
  append(out, header);
  for (const char c : names) append(out, c);
  for (const Elf64_Shdr& one : table) append(out, one);
  return out;
}

struct Entry {
  std::uint16_t kind = 1;  // PTX
  std::uint32_t arch = 75;
  Bytes payload;
  bool compressed = false;
};

Bytes fatbin_of(const std::vector<Entry>& entries) {
  Bytes body;
  for (const Entry& entry : entries) {
    Bytes stored = entry.payload;
    if (entry.compressed) {
      stored.resize(ZSTD_compressBound(entry.payload.size()));
      stored.resize(
          ZSTD_compress(stored.data(), stored.size(), entry.payload.data(), entry.payload.size(), 3));
    }
    const auto size = static_cast<std::uint32_t>(stored.size());
    stored.resize((stored.size() + 7) / 8 * 8);
    append(body, entry.kind);
    append(body, std::uint16_t{0x101});
    append(body, std::uint32_t{64});
    append(body, std::uint64_t{stored.size()});
    append(body, entry.compressed ? size : 0U);
    append(body, std::uint64_t{0});
    append(body, entry.arch);
    append(body, std::uint64_t{0});
    append(body, entry.compressed ? std::uint64_t{0x8011} : std::uint64_t{0x11});
    append(body, std::uint64_t{0});
    append(body, entry.compressed ? std::uint64_t{entry.payload.size()} : std::uint64_t{0});
    body.insert(body.end(), stored.begin(), stored.end());
  }
  Bytes out;
  append(out, std::uint32_t{0xBA55ED50});
  append(out, std::uint16_t{1});
  append(out, std::uint16_t{16});
  append(out, std::uint64_t{body.size()});
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

TEST(PtxVariables, AreCountedByTypeAndDimensions) {
  EXPECT_EQ(of(""), 0U);
  EXPECT_EQ(of(".visible .global .align 4 .b8 a[1073741824];"), 1U << 30);
  EXPECT_EQ(of(".visible .global .u32 a;"), 4U);
  EXPECT_EQ(of(".global .b8 a[16][4];"), 64U);
  EXPECT_EQ(of(".global .v4 .f32 a[3];"), 48U);
  EXPECT_EQ(of(".global .b128 a[2];"), 32U);
  EXPECT_EQ(of(".global .f16x2 a[4];"), 16U);
  EXPECT_EQ(of(".global .align 4096 .b8 a[1];"), 4096U) << "what it keeps others from using";
  EXPECT_EQ(of(".visible .const .b8 a[1000];"), 1000U);
  EXPECT_EQ(of(".global .attribute(.managed) .align 4 .b8 a[4096];"), 4096U);
  EXPECT_EQ(of(".global .attribute(.managed, .unified(1,2)) .b8 a[40];"), 40U);
  EXPECT_EQ(of(".global .b32 a[4], b[5];"), 36U);
  EXPECT_EQ(of(".extern .global .b8 a[1000];"), 1000U) << "ptxas makes it";
  EXPECT_EQ(of(".global .b8 a[0x400U]; .global .b8 b[0b100]; .global .b8 c[010]; .global .b8 d[WARP_SZ];"),
            1024U + 4 + 8 + 32);
  EXPECT_EQ(of(".global .b8 a[0];"), 1U);
  EXPECT_EQ(of(".func f() { .global .b8 kept[2048]; ret; }"), 2048U);
}

TEST(PtxVariables, AreCountedByTheirValuesWhereNoDimensionIsGiven) {
  EXPECT_EQ(of(".global .b8 a[] = {1, 2, 3};"), 3U);
  EXPECT_EQ(of(".global .b32 a[][2] = {{1, 2}, {3, 4}};"), 32U) << "more than there is, not less";
  EXPECT_EQ(of(".global .b8 a[64] = {1, 2, 3};"), 64U);
  EXPECT_EQ(of(".global .u64 p = generic(a)+4;"), 8U);
  EXPECT_EQ(of(".global .u64 p[2] = {generic(a), generic(b)}, q;"), 24U);
}

TEST(PtxVariables, AreFoundHoweverTheyAreWritten) {
  EXPECT_EQ(of(".visible.global.b8 a[100];"), 100U);
  EXPECT_EQ(of(".global/* ; */.b8 // .global .b8 x[9];\n a [ 100 ] ;"), 100U);
  EXPECT_EQ(of("/* .global .b8 a[100]; */"), 0U);
  EXPECT_EQ(of(".file 1 \"a.cu; .global .b8 a[100];\""), 0U);
}

TEST(PtxVariables, AreNotPointersAndLoads) {
  EXPECT_EQ(
      of(".visible .entry f(.param .u64 .ptr .global .align 8 p) {\n .reg .b64 %rd<2>; .reg .b32 %r<2>;\n"
         " ld.param.u64 %rd1, [p];\n cvta.to.global.u64 %rd1, %rd1;\n ld.global.u32 %r1, [%rd1];\n"
         " ld.const.u32 %r1, [%rd1];\n ret; }"),
      0U);
}

TEST(PtxVariables, WhatCannotBeReadIsNotGuessed) {
  for (const char* const text :
       {".global .b8 a[1024*4];", ".global .b8 a[N];", ".global .b8 a<4>;", ".global a[4];",
        ".global .b8 a[4", ".global", ".global .b8", ".global .nonsense a;", ".global .align x .b8 a[4];"}) {
    EXPECT_FALSE(ptx_variable_bytes(text)) << text;
  }
  // Sums beyond all measure stay large.
  EXPECT_GE(of(".global .b8 a[4294967296][4294967296][4294967296];").value_or(0), std::uint64_t{1} << 40);
}

TEST(ElfVariables, AreTheSectionsThatAreAllocated) {
  EXPECT_EQ(variable_bytes(elf_of({{".nv.global", SHT_NOBITS, 1U << 30},
                                   {".nv.global.init", SHT_PROGBITS, 100},
                                   {".nv.constant3", SHT_PROGBITS, 20},
                                   {".nv.shared.k", SHT_NOBITS, 5000},
                                   {".text.k", SHT_PROGBITS, 7000},
                                   {".debug", SHT_NOBITS, 9000, 0},
                                   {".odd", SHT_NOBITS, 3}}),
                           90),
            (1U << 30) + 100 + 20 + 3);
  EXPECT_EQ(variable_bytes(elf_of({}), 90), 0U);
  EXPECT_GE(variable_bytes(elf_of({{".nv.global", SHT_NOBITS, UINT64_MAX}}), 90).value_or(0),
            std::uint64_t{1} << 40);
}

TEST(ElfVariables, DamageIsNotGuessed) {
  Bytes whole = elf_of({{".nv.global", SHT_NOBITS, 100}});
  for (std::size_t size = 5; size < whole.size(); ++size) {
    EXPECT_FALSE(variable_bytes(std::span(whole).first(size), 90)) << size;
  }
  Elf64_Ehdr header;
  std::memcpy(&header, whole.data(), sizeof header);
  header.e_shoff = UINT64_MAX - 4;
  std::memcpy(whole.data(), &header, sizeof header);
  EXPECT_FALSE(variable_bytes(whole, 90));
}

std::optional<std::vector<ImageVariable>> named(const std::string& declarations) {
  return image_variables(payload_of(".version 8.0\n" + declarations), 90);
}

TEST(PtxVariables, AreKnownByName) {
  EXPECT_EQ(named(".visible .global .align 4 .u32 a = 1; .const .f32 b[2], _c[4];"),
            (std::vector<ImageVariable>{{"a"}, {"b"}, {"_c"}}));
  EXPECT_EQ(named(".global .attribute(.managed) .align 4 .u32 a;"),
            (std::vector<ImageVariable>{{"a", true}}));
  EXPECT_EQ(named(".global .texref t; .global .b8 $str$1[4]; .const .b8 __cudart_i2opi_f[24];"
                  " .global .u64 _ZTV1A[3]; .entry k() { .global .u32 _ZZ1kE1x; }"),
            (std::vector<ImageVariable>{{"_ZZ1kE1x"}}))
      << "without what nothing writes to";
  EXPECT_FALSE(named(".global .b8 a<4>;"));
}

TEST(PtxVariables, AreSeenWithoutReadingAll) {
  for (const char* const text : {".global .u32 a;", ".visible.global.b8 a;", "\n\t.const .f32 a[4] = {0};",
                                 "ret; } .weak .global .u32 a;", ".global\n.u32 a;", ".global .odd a;",
                                 ".global .b8 $str[2]; .global .u32 a;", ".global .b8 a"}) {
    EXPECT_TRUE(ptx_declares(text)) << text;
  }
  for (const char* const text :
       {"", "ld.global.u32 %r1, [%rd1];", "ld.const.u32 %r1, [%rd1];", "isspacep.global p, %rd1;",
        ".param .u64 .ptr .global .align 8 p", ".param .u64 .ptr.global p", "cvta.to.global.u64 a, b;",
        ".global .align 1 .b8 $str[6];"}) {
    EXPECT_FALSE(ptx_declares(text)) << text;
  }
}

struct Symbol {
  std::string name;
  std::uint16_t section = 1;  // of elf_of_symbols()
  unsigned char other = 0;
  unsigned char type = STT_OBJECT;
};

/// Machine code with .nv.global, .text.k and .nv.constant3 as sections 1 to 3.
Bytes elf_of_symbols(const std::vector<Symbol>& symbols) {
  Bytes out = elf_of({{".nv.global", SHT_NOBITS, 64},
                      {".text.k", SHT_PROGBITS, 64},
                      {".nv.constant3", SHT_PROGBITS, 64},
                      {".strtab", SHT_STRTAB, 0, 0},
                      {".symtab", SHT_SYMTAB, 0, 0}});
  std::string names(1, '\0');
  Bytes table;
  for (const Symbol& symbol : symbols) {
    Elf64_Sym made{};
    made.st_name = static_cast<Elf64_Word>(names.size());
    made.st_info = static_cast<unsigned char>(ELF64_ST_INFO(STB_LOCAL, symbol.type));
    made.st_other = symbol.other;
    made.st_shndx = symbol.section;
    names += symbol.name + '\0';
    append(table, made);
  }
  Elf64_Ehdr header;
  std::memcpy(&header, out.data(), sizeof header);
  const auto place = [&](std::size_t index, std::size_t bytes, auto change) {
    Elf64_Shdr section;
    std::byte* const at = out.data() + header.e_shoff + index * sizeof section;
    std::memcpy(&section, at, sizeof section);
    section.sh_offset = out.size();
    section.sh_size = bytes;
    change(section);
    std::memcpy(at, &section, sizeof section);
  };
  place(4, names.size(), [](Elf64_Shdr&) {});
  for (const char c : names) append(out, c);
  place(5, table.size(), [](Elf64_Shdr& section) {
    section.sh_link = 4;
    section.sh_entsize = sizeof(Elf64_Sym);
  });
  out.insert(out.end(), table.begin(), table.end());
  return out;
}

TEST(ElfVariables, AreSymbolsOfTheirSections) {
  const Bytes image = elf_of_symbols(
      {{"a"}, {"m", 1, 4}, {"k", 2, 0, STT_FUNC}, {"t", 2}, {"c", 3}, {"$str", 1}, {"far", 999}, {"a"}});
  EXPECT_EQ(image_variables(image, 90), (std::vector<ImageVariable>{{"a"}, {"m", true}, {"c"}}));
  EXPECT_TRUE(declares_variables(image));
  EXPECT_FALSE(declares_variables(elf_of_symbols({{"k", 2, 0, STT_FUNC}, {"$str", 1}})));
  for (std::size_t size = 5; size < image.size(); ++size) {
    EXPECT_FALSE(image_variables(std::span(image).first(size), 90)) << size;
    EXPECT_TRUE(declares_variables(std::span(image).first(size))) << size;
  }
}

TEST(FatbinVariables, AreThoseOfAllImagesThatMayRun) {
  const Entry old{1, 75, payload_of(".version 8.0\n.global .u32 a; .global .u32 b;"), true};
  const Entry code{2, 90, elf_of_symbols({{"b"}, {"c"}})};
  EXPECT_EQ(image_variables(fatbin_of({old, code}), 90), (std::vector<ImageVariable>{{"a"}, {"b"}, {"c"}}));
  EXPECT_EQ(image_variables(fatbin_of({old, code}), 80), (std::vector<ImageVariable>{{"a"}, {"b"}}));
}

TEST(FatbinVariables, AreThoseOfTheLargestImageThatMayRun) {
  const Entry small{1, 75, payload_of(".version 8.0\n.global .b8 a[100];")};
  const Entry large{1, 90, payload_of(".version 8.0\n.global .b8 a[5000];"), true};
  const Entry code{2, 90, elf_of({{".nv.global", SHT_NOBITS, 3000}})};
  EXPECT_EQ(variable_bytes(fatbin_of({small, large, code}), 75), 100U);
  EXPECT_EQ(variable_bytes(fatbin_of({small, large, code}), 90), 5000U);
  EXPECT_EQ(variable_bytes(fatbin_of({small, code}), 90), 3000U);
  EXPECT_EQ(variable_bytes(fatbin_of({small, code}), 100), 100U) << "machine code of another generation";
  EXPECT_EQ(variable_bytes(fatbin_of({}), 90), 0U);
  Bytes damaged = fatbin_of({large});
  std::memset(damaged.data() + 84, 0x5A, 16);
  EXPECT_FALSE(variable_bytes(damaged, 90));
}

}  // namespace
}  // namespace vgpu::worker
