#include "softgpu/image/image.hpp"

#include <gtest/gtest.h>
#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <string>
#include <vector>

namespace softgpu {
namespace {

constexpr std::uint64_t lz4 = 0x2000, zstd = 0x8000;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string entry(std::uint16_t kind, std::uint32_t arch, std::string payload, std::uint64_t flags = 0,
                  std::uint64_t uncompressed = 0) {
  const auto compressed = static_cast<std::uint32_t>(flags != 0 ? payload.size() : 0);
  payload.resize((payload.size() + 7) / 8 * 8);
  std::string out;
  put<std::uint16_t>(out, kind);
  put<std::uint16_t>(out, 0x101);
  put<std::uint32_t>(out, 64);
  put<std::uint64_t>(out, payload.size());
  put<std::uint32_t>(out, compressed);
  put<std::uint32_t>(out, 0);
  put<std::uint32_t>(out, 0);
  put<std::uint32_t>(out, arch);
  put<std::uint64_t>(out, 0);
  put<std::uint64_t>(out, flags | 0x11);
  put<std::uint64_t>(out, 0);
  put<std::uint64_t>(out, uncompressed);
  return out + payload;
}

std::string fatbin(const std::string& body) {
  std::string out;
  put<std::uint32_t>(out, 0xBA55ED50);
  put<std::uint16_t>(out, 1);
  put<std::uint16_t>(out, 16);
  put<std::uint64_t>(out, body.size());
  return out + body;
}

std::string zstd_packed(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string lz4_packed(const std::string& text) {
  std::string out(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(text.size()))), '\0');
  const int size = LZ4_compress_default(text.data(), out.data(), static_cast<int>(text.size()),
                                        static_cast<int>(out.size()));
  out.resize(static_cast<std::size_t>(size));
  return out;
}

tl::expected<std::string, ImageError> ptx_of(const std::string& image) {
  return ptx_from_image(std::as_bytes(std::span(image)));
}

std::string accepted(const std::string& image) {
  auto result = ptx_of(image);
  EXPECT_TRUE(result) << result.error().reason;
  return result.value_or("");
}

ImageError::Kind refused(const std::string& image) {
  auto result = ptx_of(image);
  EXPECT_FALSE(result);
  return result ? ImageError::Kind::invalid : result.error().kind;
}

const std::string text = ".version 8.0\n.target sm_75\n.address_size 64\n" + std::string(500, ' ');

TEST(Image, TakesPlainTextUpToItsEnd) {
  EXPECT_EQ(accepted("\n// x\n.version 8.0"), "\n// x\n.version 8.0");
  EXPECT_EQ(accepted(std::string(".version 8.0\0junk", 17)), ".version 8.0");
}

TEST(Image, DecompressesAFatbinsText) {
  EXPECT_EQ(accepted(fatbin(entry(1, 75, text))), text);
  EXPECT_EQ(accepted(fatbin(entry(1, 75, zstd_packed(text), zstd, text.size()))), text);
  EXPECT_EQ(accepted(fatbin(entry(1, 75, lz4_packed(text), lz4, text.size()))), text);
}

TEST(Image, ChoosesTheHighestArchitectureItCanRun) {
  EXPECT_EQ(accepted(fatbin(entry(2, 75, "machine") + entry(1, 52, ".old") + entry(1, 75, ".best") +
                            entry(1, 60, ".middle") + entry(1, 90, ".new"))),
            ".best");
}

TEST(Image, SaysWhenThereIsNoTextForThisGpu) {
  EXPECT_EQ(refused(fatbin(entry(2, 75, "machine"))), ImageError::Kind::no_binary);
  EXPECT_EQ(refused(fatbin(entry(1, 80, ".new"))), ImageError::Kind::no_binary);
  EXPECT_EQ(refused(fatbin("")), ImageError::Kind::no_binary);
  EXPECT_EQ(refused("\x7f"
                    "ELF and so on"),
            ImageError::Kind::no_binary);
  EXPECT_NE(ptx_of(fatbin("")).error().reason.find("-rdc"), std::string::npos);
  EXPECT_NE(ptx_of(fatbin(entry(1, 80, "."))).error().reason.find("compute_80"), std::string::npos);
}

TEST(Image, RefusesWhatIsNoImage) {
  EXPECT_EQ(refused(""), ImageError::Kind::invalid);
  EXPECT_EQ(refused("hello"), ImageError::Kind::invalid);
  EXPECT_EQ(refused(fatbin(entry(1, 75, "no zstd frame", zstd, 100))), ImageError::Kind::invalid);
  EXPECT_EQ(refused(fatbin(entry(1, 75, "\xff\xff\xff no lz4", lz4, 100))), ImageError::Kind::invalid);
  EXPECT_EQ(refused(fatbin(entry(1, 75, zstd_packed(text), zstd, text.size() - 1))),
            ImageError::Kind::invalid);
  EXPECT_EQ(refused(fatbin(entry(1, 75, zstd_packed(text), zstd, UINT64_MAX))), ImageError::Kind::invalid);
}

TEST(Image, SurvivesEveryCutOfAFatbin) {
  const std::string whole = fatbin(entry(1, 75, zstd_packed(text), zstd, text.size()));
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(ptx_of(whole.substr(0, n))) << n;
}

}  // namespace
}  // namespace softgpu
