#include <cuda.h>
#include <elf.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "cudaabi/context_storage.hpp"
#include "cudaabi/export_tables.hpp"
#include "cudaabi/image.hpp"
#include "cudaabi/proc_address.hpp"
#include "cudaabi/runtime_hooks.hpp"
#include "cudaabi/symbol_table.hpp"
#include "cudaabi/unsupported.hpp"
#ifdef VGPU_INTEGRITY_HANDSHAKE
#include "cudaabi/integrity.hpp"
#include "cudaabi/md2.hpp"
#endif

namespace cudaabi {
namespace {

class FakeHooks : public RuntimeHooks {
 public:
  int driver_version() override { return 13000; }
  std::vector<DeviceIdentity> devices() override { return {}; }
  CUcontext current_context() override { return current; }
  CUresult primary_context(CUcontext* context, CUdevice) override {
    *context = current;
    return CUDA_SUCCESS;
  }
  CUresult context_id(CUcontext, std::uint64_t* id) override {
    *id = 7;
    return CUDA_SUCCESS;
  }
  CUresult stream_id(CUcontext, CUstream, std::uint64_t* id) override {
    *id = 8;
    return CUDA_SUCCESS;
  }
  CUresult load_module(CUmodule*, const void*) override { return CUDA_ERROR_INVALID_IMAGE; }
  CUresult module_functions(CUmodule module, std::vector<CUfunction>& functions) override {
    if (module != reinterpret_cast<CUmodule>(0x77)) return CUDA_ERROR_INVALID_HANDLE;
    functions = {reinterpret_cast<CUfunction>(0x1), reinterpret_cast<CUfunction>(0x2)};
    return CUDA_SUCCESS;
  }

  CUcontext current = reinterpret_cast<CUcontext>(std::uintptr_t{0x1000});
};

FakeHooks& fake_hooks() {
  static FakeHooks hooks;
  install_runtime_hooks(hooks);
  return hooks;
}

void* address_of(std::string_view exported) {
  for (const Symbol& symbol : symbol_table()) {
    if (exported == symbol.exported) return symbol.address;
  }
  return nullptr;
}

void* lookup(const char* name, int version, cuuint64_t flags = 0) {
  void* function = nullptr;
  EXPECT_EQ(get_proc_address(name, &function, version, flags, nullptr), CUDA_SUCCESS);
  return function;
}

TEST(ProcAddress, PicksTheNewestAbiThatTheVersionKnows) {
  EXPECT_EQ(lookup("cuMemAlloc", 2000), address_of("cuMemAlloc"));
  EXPECT_EQ(lookup("cuMemAlloc", 3020), address_of("cuMemAlloc_v2"));
  EXPECT_EQ(lookup("cuMemAlloc", 13000), address_of("cuMemAlloc_v2"));
  EXPECT_EQ(lookup("cuCtxCreate", 11050), address_of("cuCtxCreate_v3"));
}

TEST(ProcAddress, PerThreadVariantOnlyWhenAskedFor) {
  EXPECT_EQ(lookup("cuLaunchKernel", 13000), address_of("cuLaunchKernel"));
  EXPECT_EQ(lookup("cuLaunchKernel", 13000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM),
            address_of("cuLaunchKernel_ptsz"));
  EXPECT_EQ(lookup("cuInit", 13000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM), address_of("cuInit"));
}

TEST(ProcAddress, UnknownNamesAndTooOldVersionsAreToldApart) {
  void* function = &function;
  CUdriverProcAddressQueryResult status{};
  EXPECT_EQ(get_proc_address("cuNoSuchThing", &function, 13000, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(function, nullptr);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  EXPECT_EQ(get_proc_address("cuLaunchKernelEx", &function, 11000, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(function, nullptr);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  EXPECT_EQ(get_proc_address(nullptr, &function, 13000, 0, &status), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(get_proc_address("cuInit", &function, 13000, 1u << 20, &status), CUDA_ERROR_INVALID_VALUE);
}

TEST(Stubs, AnUnimplementedFunctionIsRefusedAndCountedByName) {
  auto* function = reinterpret_cast<int (*)()>(lookup("cuArrayCreate", 13000));
  ASSERT_NE(function, nullptr);
  EXPECT_EQ(function(), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(function(), CUDA_ERROR_NOT_SUPPORTED);
  std::map<std::string, std::uint64_t> counts;
  for (const auto& [name, count] : unsupported_counts()) counts[std::string(name)] = count;
  EXPECT_EQ(counts["cuArrayCreate_v2"], 2U);
}

TEST(ContextStorage, AThreadThatFoundAValueSeesWhatAnotherPutsInItsPlace) {
  const auto context = reinterpret_cast<CUcontext>(std::uintptr_t{0x30});
  int key = 0, first = 0, second = 0;
  const auto found = [&] {
    void* value = nullptr;
    return context_storage_get(context, &key, &value) == CUDA_SUCCESS ? value : nullptr;
  };
  context_storage_put(context, &key, &first, nullptr);
  EXPECT_EQ(found(), &first);
  std::thread([&] { context_storage_put(context, &key, &second, nullptr); }).join();
  EXPECT_EQ(found(), &second);
  std::thread([&] { context_storage_delete(context, &key); }).join();
  EXPECT_EQ(found(), nullptr);
  context_storage_put(context, &key, &first, nullptr);
  EXPECT_EQ(found(), &first);
  std::thread([&] { context_storage_drop(context); }).join();
  EXPECT_EQ(found(), nullptr);
}

TEST(ContextStorage, KeysThatShareAnEntryKeepApart) {
  const auto context = reinterpret_cast<CUcontext>(std::uintptr_t{0x40});
  const auto key = [](int i) {
    return reinterpret_cast<void*>(static_cast<std::uintptr_t>(0x1000 * (i + 1)));
  };
  int values[3] = {};
  for (int i = 0; i < 3; ++i) context_storage_put(context, key(i), &values[i], nullptr);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 3; ++i) {
      void* value = nullptr;
      EXPECT_EQ(context_storage_get(context, key(i), &value), CUDA_SUCCESS);
      EXPECT_EQ(value, &values[i]);
    }
  }
  context_storage_drop(context);
}

TEST(ContextStorage, KeepsValuesByContextAndKeyAndDropsThemWithTheContext) {
  static int dropped = 0;
  const auto first = reinterpret_cast<CUcontext>(std::uintptr_t{0x10});
  const auto second = reinterpret_cast<CUcontext>(std::uintptr_t{0x20});
  int key = 0, value = 0, other = 0;
  context_storage_put(first, &key, &value, [](CUcontext, void*, void*) { ++dropped; });
  context_storage_put(second, &key, &other, nullptr);
  void* found = nullptr;
  EXPECT_EQ(context_storage_get(first, &key, &found), CUDA_SUCCESS);
  EXPECT_EQ(found, &value);
  EXPECT_EQ(context_storage_get(first, &value, &found), CUDA_ERROR_INVALID_HANDLE);
  context_storage_drop(first);
  EXPECT_EQ(dropped, 1);
  EXPECT_EQ(context_storage_get(first, &key, &found), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(context_storage_get(second, &key, &found), CUDA_SUCCESS);
  EXPECT_EQ(found, &other);
  EXPECT_EQ(context_storage_delete(second, &key), CUDA_SUCCESS);
  EXPECT_EQ(context_storage_delete(second, &key), CUDA_ERROR_INVALID_HANDLE);
}

CUuuid uuid(std::initializer_list<unsigned char> bytes) {
  CUuuid id{};
  std::memcpy(id.bytes, bytes.begin(), bytes.size());
  return id;
}

TEST(ExportTables, SizedTablesStateTheirSizeAndHaveNoEmptySlot) {
  fake_hooks();
  const CUuuid id =
      uuid({0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9});
  const void* table = nullptr;
  ASSERT_EQ(get_export_table(&table, &id), CUDA_SUCCESS);
  const auto* words = static_cast<const std::uintptr_t*>(table);
  EXPECT_EQ(words[0], 104U);
  for (unsigned i = 1; i < 13; ++i) EXPECT_NE(words[i], 0U) << i;
  auto* unknown = reinterpret_cast<CUresult (*)()>(words[3]);
  EXPECT_EQ(unknown(), CUDA_ERROR_NOT_SUPPORTED);
}

TEST(ExportTables, WhatCublasLtCallsUnaskedIsThereAndRefuses) {
  fake_hooks();
  const CUuuid id =
      uuid({0x17, 0x34, 0xdc, 0x26, 0x80, 0x0d, 0x47, 0x45, 0x87, 0x26, 0xc0, 0xf1, 0xe7, 0xdd, 0x8b, 0xca});
  const void* table = nullptr;
  ASSERT_EQ(get_export_table(&table, &id), CUDA_SUCCESS);
  const auto* words = static_cast<const std::uintptr_t*>(table);
  EXPECT_EQ(words[0], 136U);
  for (unsigned i = 1; i < 17; ++i)
    EXPECT_EQ(reinterpret_cast<CUresult (*)()>(words[i])(), CUDA_ERROR_NOT_SUPPORTED);
}

TEST(ExportTables, AModulesFunctionsAreVisitedAndCounted) {
  fake_hooks();
  const CUuuid id =
      uuid({0x6e, 0x16, 0x3f, 0xbe, 0xb9, 0x58, 0x44, 0x4d, 0x83, 0x5c, 0xe1, 0x82, 0xaf, 0xf1, 0x99, 0x1e});
  const void* table = nullptr;
  ASSERT_EQ(get_export_table(&table, &id), CUDA_SUCCESS);
  using Visit = unsigned (*)(CUcontext, CUmodule, void (*)(void*, CUfunction), void*);
  const auto visit = reinterpret_cast<Visit>(static_cast<void* const*>(table)[7]);
  std::vector<CUfunction> seen;
  const auto note = [](void* user, CUfunction function) {
    static_cast<std::vector<CUfunction>*>(user)->push_back(function);
  };
  EXPECT_EQ(visit(nullptr, reinterpret_cast<CUmodule>(0x77), note, &seen), 2U);
  EXPECT_EQ(seen, (std::vector{reinterpret_cast<CUfunction>(0x1), reinterpret_cast<CUfunction>(0x2)}));
  EXPECT_EQ(visit(nullptr, reinterpret_cast<CUmodule>(0x78), note, &seen), 0U);
  EXPECT_EQ(seen.size(), 2U);
}

TEST(ExportTables, AnUnknownTableIsRefused) {
  fake_hooks();
  const CUuuid id = uuid({1, 2, 3});
  const void* table = &id;
  EXPECT_EQ(get_export_table(&table, &id), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(table, nullptr);
}

std::vector<std::byte> fatbin_with(std::span<const std::byte> payload, std::uint32_t compressed,
                                   std::uint64_t flags) {
  std::vector<std::byte> bytes(16 + 64 + payload.size());
  const auto put = [&](std::size_t at, auto value) { std::memcpy(bytes.data() + at, &value, sizeof value); };
  put(0, std::uint32_t{0xBA55ED50});
  put(4, std::uint16_t{1});
  put(6, std::uint16_t{16});
  put(8, std::uint64_t{64 + payload.size()});
  put(16, std::uint16_t{1});
  put(20, std::uint32_t{64});
  put(24, std::uint64_t{payload.size()});
  put(32, compressed);
  put(44, std::uint32_t{75});
  put(56, flags);
  put(72, std::uint64_t{1000});
  std::memcpy(bytes.data() + 80, payload.data(), payload.size());
  return bytes;
}

TEST(Image, FatbinEntriesAreWalkedAndPaddingIsLeftOut) {
  const std::array<std::byte, 8> payload{std::byte{1}, std::byte{2}};
  const auto bytes = fatbin_with(payload, 5, 0x8000);
  const auto entries = fatbin_entries(bytes);
  ASSERT_TRUE(entries.has_value());
  ASSERT_EQ(entries->size(), 1U);
  EXPECT_EQ((*entries)[0].arch, 75U);
  EXPECT_EQ((*entries)[0].payload.size(), 5U);
  EXPECT_EQ((*entries)[0].compression, FatbinEntry::Compression::zstd);
  EXPECT_EQ((*entries)[0].uncompressed_size, 1000U);
  const auto extent = image_extent(bytes.data());
  ASSERT_TRUE(extent.has_value());
  EXPECT_EQ(extent->size, bytes.size());
}

TEST(Image, EveryTruncatedOrCorruptedFatbinIsRefusedOrStaysInside) {
  const std::array<std::byte, 8> payload{};
  const auto bytes = fatbin_with(payload, 0, 0);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(fatbin_entries(std::span(bytes).first(size)).has_value()) << size;
  }
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    auto broken = bytes;
    broken[at] ^= std::byte{0xff};
    const auto entries = fatbin_entries(broken);
    if (!entries) continue;
    for (const FatbinEntry& entry : *entries) {
      if (entry.payload.empty()) continue;
      EXPECT_GE(entry.payload.data(), broken.data());
      EXPECT_LE(entry.payload.data() + entry.payload.size(), broken.data() + broken.size());
    }
  }
}

TEST(Image, TextEndsAtItsZeroAndOtherBytesAreNoImage) {
  const char ptx[] = "\n// c\n.version 9.0\n";
  const auto extent = image_extent(ptx);
  ASSERT_TRUE(extent.has_value());
  EXPECT_EQ(extent->kind, ImageKind::ptx);
  EXPECT_EQ(extent->size, sizeof ptx);
  EXPECT_FALSE(image_extent("hello").has_value());
  EXPECT_FALSE(image_extent(nullptr).has_value());
}

#ifdef VGPU_INTEGRITY_HANDSHAKE
std::string hex(const Md2Digest& digest) {
  std::string text;
  for (const std::uint8_t byte : digest) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", byte);
    text += two;
  }
  return text;
}

std::span<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

TEST(Md2, MatchesTheVectorsOfRfc1319) {
  EXPECT_EQ(hex(md2(bytes_of(""))), "8350e5a3e24c153df2275c9f80692773");
  EXPECT_EQ(hex(md2(bytes_of("a"))), "32ec01ec4a6dac72c0ab96fb34c0b5d1");
  EXPECT_EQ(hex(md2(bytes_of("abc"))), "da853b0d3f88d99b30283a69e6ded6bb");
  EXPECT_EQ(hex(md2(bytes_of("message digest"))), "ab4f496bfb2a530b219ff33031fe06b0");
  EXPECT_EQ(hex(md2(bytes_of("abcdefghijklmnopqrstuvwxyz"))), "4e8ddff3650292ab5a4108c3aa47940b");
  EXPECT_EQ(
      hex(md2(bytes_of("12345678901234567890123456789012345678901234567890123456789012345678901234567890"))),
      "d5976f79d83d3a0dc9806c3c66f3efd8");
}

TEST(Integrity, ConstantsForTwoVersionsAndADigestThatDependsOnEveryFieldForTheOthers) {
  IntegrityQuestion question;
  question.driver_version = 13000;
  question.version = 13000;
  EXPECT_EQ(answer_integrity(question, {})[0], 0x3341181C03CB675CU);
  question.version = 13001;
  EXPECT_EQ(answer_integrity(question, {})[0], 0x1841181C03CB675CU);
  question.version = 13002;
  const auto answer = answer_integrity(question, {});
  question.pid = 1;
  EXPECT_NE(answer_integrity(question, {}), answer);
  question.pid = 0;
  DeviceIdentity device;
  EXPECT_NE(answer_integrity(question, std::span(&device, 1)), answer);
  EXPECT_EQ(answer_integrity(question, {}), answer);
}
#endif

}  // namespace
}  // namespace cudaabi
