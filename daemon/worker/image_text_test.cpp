// image_text() over plain PTX, fatbins made by hand, and damaged ones.
#include "daemon/worker/image_text.hpp"

#include <gtest/gtest.h>
#include <zstd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace vgpu::worker {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <class T>
void put(std::vector<std::byte>& out, std::size_t at, T value) {
  std::memcpy(out.data() + at, &value, sizeof value);
}

/// A fatbin with one PTX entry for compute_75, zstd-compressed where `compressed`. The layout is that of
/// nvcc 13's output, as cudaabi/image.hpp reads it.
std::vector<std::byte> fatbin_of(const std::string& text, bool compressed) {
  std::vector<std::byte> payload;
  if (compressed) {
    payload.resize(ZSTD_compressBound(text.size()));
    payload.resize(ZSTD_compress(payload.data(), payload.size(), text.data(), text.size(), 3));
  } else {
    payload.assign(bytes_of(text).begin(), bytes_of(text).end());
  }
  const std::size_t padded = (payload.size() + 7) / 8 * 8;
  std::vector<std::byte> fatbin(16 + 64 + padded);
  put<std::uint32_t>(fatbin, 0, 0xBA55ED50);
  put<std::uint16_t>(fatbin, 4, 1);
  put<std::uint16_t>(fatbin, 6, 16);
  put<std::uint64_t>(fatbin, 8, 64 + padded);
  put<std::uint16_t>(fatbin, 16, 1);       // PTX
  put<std::uint16_t>(fatbin, 18, 0x101);   // version
  put<std::uint32_t>(fatbin, 20, 64);      // header
  put<std::uint64_t>(fatbin, 24, padded);  // body
  put<std::uint32_t>(fatbin, 32, compressed ? static_cast<std::uint32_t>(payload.size()) : 0);
  put<std::uint32_t>(fatbin, 44, 75);
  put<std::uint64_t>(fatbin, 56, compressed ? 0x8011 : 0x11);
  put<std::uint64_t>(fatbin, 72, compressed ? text.size() : 0);
  std::memcpy(fatbin.data() + 80, payload.data(), payload.size());
  return fatbin;
}

const std::string quiet = ".version 8.0\n.target sm_75\n.address_size 64\n.visible .entry k() { ret; }\n";
const std::string loud = quiet + ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n";

bool prints(std::span<const std::byte> image) {
  return image_text(image).prints;
}

TEST(ImageText, AssertionsAreNotPrints) {
  const std::string strict = quiet + ".extern .func __assertfail (.param .b64 a, .param .b64 b);\n";
  for (const bool compressed : {false, true}) {
    const auto image = fatbin_of(strict, compressed);
    EXPECT_FALSE(image_text(image).prints) << compressed;
    EXPECT_TRUE(image_text(image).asserts) << compressed;
    EXPECT_FALSE(image_text(fatbin_of(loud, compressed)).asserts) << compressed;
  }
  EXPECT_TRUE(image_text(bytes_of(strict)).asserts);
}

TEST(ImageText, VariablesAreSeen) {
  const std::string counting = quiet + ".global .u32 counter;\n";
  for (const bool compressed : {false, true}) {
    EXPECT_FALSE(image_text(fatbin_of(loud, compressed)).variables) << compressed;
    EXPECT_TRUE(image_text(fatbin_of(counting, compressed)).variables) << compressed;
  }
  EXPECT_TRUE(image_text(bytes_of(counting)).variables);
}

TEST(MayPrint, PlainText) {
  EXPECT_FALSE(prints(bytes_of(quiet)));
  EXPECT_TRUE(prints(bytes_of(loud)));
}

TEST(MayPrint, Fatbins) {
  for (const bool compressed : {false, true}) {
    EXPECT_FALSE(prints(fatbin_of(quiet, compressed))) << compressed;
    EXPECT_TRUE(prints(fatbin_of(loud, compressed))) << compressed;
  }
}

TEST(MayPrint, WhatCannotBeReadMayPrint) {
  std::vector<std::byte> fatbin = fatbin_of(quiet, true);
  std::memset(fatbin.data() + 84, 0x5A, 16);
  EXPECT_TRUE(prints(fatbin));
  // An entry that says it is larger than anything that is worth decompressing.
  fatbin = fatbin_of(quiet, true);
  put<std::uint64_t>(fatbin, 72, std::uint64_t{1} << 40);
  EXPECT_TRUE(prints(fatbin));
}

}  // namespace
}  // namespace vgpu::worker
