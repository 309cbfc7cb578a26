// A library's variables get their first values again: over a driver whose device memory is this process's and
// whose libraries have the variables that a test says.
#include "daemon/worker/first_values.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/worker/session_fixture.hpp"
#include "protocol/handle.hpp"
#include "protocol/reply_slots.hpp"

namespace vgpu::worker {
namespace {

/// What an image says of a variable.
struct Declared {
  std::vector<std::byte> first;
  /// Words that hold an address, by their offset: of another variable, or of code where there is no name.
  std::map<std::size_t, std::pair<std::string, std::size_t>> addresses;
  bool left_out = false;
  std::size_t skew = 0;  ///< behind a word's beginning
};

struct Library {
  std::map<std::string, std::vector<std::byte>> memory;
  std::map<std::string, CUdeviceptr> places;
  const void* image = nullptr;
  bool preserved = false;
  CUdeviceptr code = 0;
};

/// The driver behind the table.
struct FakeDriver {
  std::map<std::string, Declared> declared;
  std::vector<std::unique_ptr<Library>> libraries;
  int loads = 0;
  int unloads = 0;
  int failing_load = 0;  // the number of the load that fails, from 1
  int lookups = 0;
  int failing_write = 0;
  int writes = 0;

  static FakeDriver& get() {
    static FakeDriver driver;
    return driver;
  }
  Library* load(const void* image, bool preserved) {
    libraries.push_back(std::make_unique<Library>());
    Library& made = *libraries.back();
    made.image = image;
    made.preserved = preserved;
    made.code = 0x700000000000 + 0x1000 * static_cast<CUdeviceptr>(++loads);
    for (const auto& [name, variable] : declared) {
      std::vector<std::byte>& memory = made.memory[name];
      memory.resize(variable.first.size() + 16);
      const CUdeviceptr begin = (reinterpret_cast<CUdeviceptr>(memory.data()) + 7) / 8 * 8 + variable.skew;
      made.places[name] = begin;
      std::memcpy(reinterpret_cast<void*>(begin), variable.first.data(), variable.first.size());
    }
    for (const auto& [name, variable] : declared) {
      for (const auto& [offset, of] : variable.addresses) {
        const CUdeviceptr address = (of.first.empty() ? made.code : made.places[of.first]) + of.second;
        std::memcpy(reinterpret_cast<void*>(made.places[name] + offset), &address, sizeof address);
      }
    }
    return &made;
  }
};

DriverTable table_of_libraries() {
  DriverTable table;
  table.cuLibraryLoadData = [](CUlibrary* library, const void* image, CUjit_option*, void**, unsigned,
                               CUlibraryOption* options, void**, unsigned count) {
    FakeDriver& driver = FakeDriver::get();
    if (driver.failing_load == driver.loads + 1) return CUDA_ERROR_OUT_OF_MEMORY;
    const bool preserved = count == 1 && options[0] == CU_LIBRARY_BINARY_IS_PRESERVED;
    *library = reinterpret_cast<CUlibrary>(driver.load(image, preserved));
    return CUDA_SUCCESS;
  };
  table.cuLibraryUnload = [](CUlibrary library) {
    FakeDriver& driver = FakeDriver::get();
    ++driver.unloads;
    std::erase_if(driver.libraries,
                  [&](const auto& known) { return known.get() == reinterpret_cast<Library*>(library); });
    return CUDA_SUCCESS;
  };
  table.cuLibraryGetKernel = [](CUkernel* kernel, CUlibrary, const char*) {
    *kernel = reinterpret_cast<CUkernel>(0x40);
    return CUDA_SUCCESS;
  };
  table.cuLibraryGetGlobal = [](CUdeviceptr* pointer, std::size_t* bytes, CUlibrary handle,
                                const char* name) {
    FakeDriver& driver = FakeDriver::get();
    ++driver.lookups;
    Library& library = *reinterpret_cast<Library*>(handle);
    const auto found = driver.declared.find(name);
    if (found == driver.declared.end() || found->second.left_out) return CUDA_ERROR_NOT_FOUND;
    *pointer = library.places[name];
    *bytes = found->second.first.size();
    return CUDA_SUCCESS;
  };
  table.cuMemcpyDtoH_v2 = [](void* to, CUdeviceptr from, std::size_t bytes) {
    std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return CUDA_SUCCESS;
  };
  table.cuMemcpyHtoD_v2 = [](CUdeviceptr to, const void* from, std::size_t bytes) {
    FakeDriver& driver = FakeDriver::get();
    if (++driver.writes == driver.failing_write) return CUDA_ERROR_UNKNOWN;
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    return CUDA_SUCCESS;
  };
  table.cuCtxSynchronize = [] { return CUDA_SUCCESS; };
  table.cuCtxSetCurrent = [](CUcontext) { return CUDA_SUCCESS; };
  table.cuDeviceGetAttribute = [](int* value, CUdevice_attribute which, CUdevice) {
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 0;
    return CUDA_SUCCESS;
  };
  return table;
}

std::vector<std::byte> bytes_of(std::size_t count, int value) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

const std::string head = ".version 8.0\n.target sm_75\n.address_size 64\n";

struct FirstValues : testing::Test {
  void SetUp() override { FakeDriver::get() = {}; }
  void TearDown() override { FakeDriver::get() = {}; }

  /// The text of an image that declares these and the fake driver's variables.
  static std::string image_of(const std::string& further = {}) {
    std::string text = head + further;
    for (const auto& [name, variable] : FakeDriver::get().declared)
      text += ".global .b8 " + name + "[" + std::to_string(variable.first.size()) + "];\n";
    return text;
  }
  CUresult restore(const std::string& image) {
    return restore_first_values(table, reinterpret_cast<CUlibrary>(own), std::as_bytes(std::span(image)), 90);
  }
  void load() { own = FakeDriver::get().load(nullptr, false); }
  std::byte* at(const std::string& name) { return reinterpret_cast<std::byte*>(own->places[name]); }
  CUdeviceptr word(const std::string& name, std::size_t offset) {
    CUdeviceptr value = 0;
    std::memcpy(&value, at(name) + offset, sizeof value);
    return value;
  }

  const DriverTable table = table_of_libraries();
  Library* own = nullptr;
};

TEST_F(FirstValues, ReplaceWhatWasWritten) {
  auto& declared = FakeDriver::get().declared;
  declared["small"] = {bytes_of(3, 7), {}};
  declared["large"] = {bytes_of((3 << 20) + 5, 9), {}, false, 4};
  declared["gone"] = {bytes_of(8, 1), {}, true};
  load();
  std::memset(at("small"), 0, 3);
  std::memset(at("large"), 1, (3 << 20) + 5);
  EXPECT_EQ(restore(image_of()), CUDA_SUCCESS);
  EXPECT_EQ(std::memcmp(at("small"), declared["small"].first.data(), 3), 0);
  EXPECT_EQ(std::memcmp(at("large"), declared["large"].first.data(), (3 << 20) + 5), 0);
  EXPECT_EQ(FakeDriver::get().libraries.size(), 1U) << "the copies are gone";
}

TEST_F(FirstValues, AddressesAreTheLibrarysOwn) {
  auto& declared = FakeDriver::get().declared;
  declared["data"] = {bytes_of(64, 5), {}};
  declared["table"] = {bytes_of((1 << 20) + 64, 3),
                       {{4, {"data", 0}},
                        {12, {"data", 60}},
                        {20, {"", 0x40}},
                        {28, {"table", 12}},
                        {(1 << 20) + 4, {"data", 64}}},
                       false,
                       4};
  load();
  const CUdeviceptr function = word("table", 20);
  std::memset(at("table"), 0, 20);
  std::memset(at("table") + 28, 0, (1 << 20) + 36);
  EXPECT_EQ(restore(image_of()), CUDA_SUCCESS);
  EXPECT_EQ(word("table", 4), own->places["data"]);
  EXPECT_EQ(word("table", 12), own->places["data"] + 60);
  EXPECT_EQ(word("table", 20), function) << "where the function lies is not known, so it stays";
  EXPECT_EQ(word("table", 28), own->places["table"] + 12);
  EXPECT_EQ(word("table", (1 << 20) + 4), own->places["data"] + 64) << "the end of one";
  EXPECT_EQ(at("table")[0], std::byte{3});
  EXPECT_EQ(at("table")[36], std::byte{3});
  EXPECT_EQ(at("table")[(1 << 20) + 63], std::byte{3});
}

TEST_F(FirstValues, ManagedVariablesStay) {
  FakeDriver::get().declared["shared"] = {bytes_of(8, 1), {}};
  load();
  std::memset(at("shared"), 2, 8);
  const std::string managed = head + ".global .attribute(.managed) .b8 shared[8];\n";
  EXPECT_EQ(restore(managed), CUDA_SUCCESS);
  EXPECT_EQ(FakeDriver::get().loads, 1) << "there is nothing to load for";
  FakeDriver::get().declared["other"] = {bytes_of(8, 1), {{0, {"shared", 4}}}};
  load();
  std::memset(at("shared"), 2, 8);
  EXPECT_EQ(restore(managed + ".global .u64 other;\n"), CUDA_SUCCESS);
  EXPECT_EQ(at("shared")[0], std::byte{2});
  EXPECT_EQ(word("other", 0), own->places["shared"] + 4);
}

TEST_F(FirstValues, FailuresAreToldAndLeaveNoCopy) {
  FakeDriver::get().declared["a"] = {bytes_of(8, 1), {}};
  load();
  for (const int load : {2, 3}) {
    FakeDriver::get().loads = 1;
    FakeDriver::get().failing_load = load;
    EXPECT_EQ(restore(image_of()), CUDA_ERROR_OUT_OF_MEMORY) << load;
    EXPECT_EQ(FakeDriver::get().libraries.size(), 1U);
  }
  FakeDriver::get().failing_load = 0;
  FakeDriver::get().failing_write = 1;
  EXPECT_EQ(restore(image_of()), CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(FakeDriver::get().libraries.size(), 1U);
  EXPECT_EQ(restore(head + ".global .b8 a<3>;"), CUDA_ERROR_NOT_SUPPORTED) << "nobody knows its variables";
}

/// The same as a client sees it; its records are run by the test.
struct ResetLibraries : FirstValues, OwnSession {
  void SetUp() override {
    FirstValues::SetUp();
    start_session(table);
  }
  template <class Record>
  CUresult ask(Record record, const std::string& tail = {}) {
    ReplySlot& slot = channel->slots()[0];
    record.header.size = static_cast<std::uint32_t>(sizeof record + tail.size());
    record.header.reply = begin_reply(slot, 0, ++ticket);
    std::vector<std::byte> bytes(record.header.size);
    std::memcpy(bytes.data(), &record, sizeof record);
    std::memcpy(bytes.data() + sizeof record, tail.data(), tail.size());
    session->run_record(bytes);
    EXPECT_TRUE(await_reply(slot, ticket, 0, 1'000'000'000));
    return static_cast<CUresult>(slot.result);
  }
  CUresult load_library(std::uint32_t index, const std::string& text) {
    ArenaBlock* const block = arena->allocate(text.size());
    std::memcpy(Arena::data(block), text.data(), text.size());
    record::cuLibraryLoadData load;
    load.library = handle(index);
    load.image = {arena->offset(block), text.size()};
    const CUresult result = ask(load);
    std::memset(Arena::data(block), 0xFF, text.size());  // the client may use it for something else
    if (result == CUDA_SUCCESS) own = FakeDriver::get().libraries.back().get();
    return result;
  }
  CUresult get_kernel(std::uint32_t index) {
    record::cuLibraryGetKernel kernel;
    kernel.library = handle(index);
    kernel.kernel = Handle::make(HandleKind::kernel, index, 1);
    return ask(kernel, "k");
  }
  CUresult reset(std::uint32_t variables = 1) {
    record::cuDevicePrimaryCtxReset_v2 record;
    record.variables = variables;
    return ask(record);
  }
  static std::uint64_t handle(std::uint32_t index) { return Handle::make(HandleKind::library, index, 1); }

  std::uint32_t ticket = 0;
};

TEST_F(ResetLibraries, ImagesAreKeptForThoseWithVariablesOnly) {
  ASSERT_EQ(load_library(0, head + ".visible .entry k(.param .u64 .ptr .global .align 4 p) { ret; }\n"),
            CUDA_SUCCESS);
  EXPECT_FALSE(own->preserved);
  EXPECT_EQ(get_kernel(0), CUDA_SUCCESS);
  ASSERT_EQ(load_library(1, head + ".global .align 1 .b8 $str[4] = {1, 2, 3};\n"), CUDA_SUCCESS);
  EXPECT_FALSE(own->preserved) << "nothing writes to a string";
  EXPECT_EQ(get_kernel(1), CUDA_SUCCESS);
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(FakeDriver::get().loads, 2);
  FakeDriver::get().declared["a"] = {bytes_of(8, 1), {}};
  ASSERT_EQ(load_library(2, image_of()), CUDA_SUCCESS);
  EXPECT_TRUE(own->preserved);
  EXPECT_EQ(std::memcmp(own->image, head.data(), head.size()), 0) << "the worker has a copy";
  record::cuLibraryUnload unload;
  unload.library = handle(2);
  EXPECT_EQ(get_kernel(2), CUDA_SUCCESS);
  EXPECT_EQ(ask(unload), CUDA_SUCCESS);
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(FakeDriver::get().loads, 3) << "what is unloaded needs no values";
}

TEST_F(ResetLibraries, WhatNobodyUsedIsNotLoadedAgain) {
  FakeDriver::get().declared["a"] = {bytes_of(8, 1), {}};
  ASSERT_EQ(load_library(0, image_of()), CUDA_SUCCESS);
  EXPECT_EQ(load_library(0, image_of()), CUDA_ERROR_INVALID_HANDLE) << "its image is in use";
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(FakeDriver::get().loads, 1);
  record::cuLibraryGetGlobal find;
  find.library = handle(0);
  EXPECT_EQ(ask(find, "b"), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(FakeDriver::get().loads, 1);
  EXPECT_EQ(ask(find, "a"), CUDA_SUCCESS);
  std::memset(at("a"), 2, 8);
  EXPECT_EQ(reset(0), CUDA_SUCCESS) << "the context's end";
  EXPECT_EQ(FakeDriver::get().loads, 1);
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(FakeDriver::get().loads, 3);
  EXPECT_EQ(at("a")[0], std::byte{1});
}

TEST_F(ResetLibraries, AFailureIsTheResetsAnswerAndOthersAreRenewed) {
  FakeDriver::get().declared["a"] = {bytes_of(8, 1), {}};
  Library* libraries[2] = {};
  for (std::uint32_t i = 0; i < 2; ++i) {
    ASSERT_EQ(load_library(i, image_of()), CUDA_SUCCESS);
    ASSERT_EQ(get_kernel(i), CUDA_SUCCESS);
    libraries[i] = own;
    std::memset(at("a"), 2, 8);
  }
  FakeDriver::get().failing_write = 1;
  EXPECT_EQ(reset(), CUDA_ERROR_UNKNOWN);
  int renewed = 0;
  for (Library* const library : libraries) {
    own = library;
    renewed += at("a")[0] == std::byte{1} ? 1 : 0;
  }
  EXPECT_EQ(renewed, 1);
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(at("a")[0], std::byte{1});
}

TEST_F(ResetLibraries, CopiesCountForTheQuotaWhileTheyAreThere) {
  gate->page().memory_quota.store(1 << 20);
  FakeDriver::get().declared["a"] = {bytes_of(400 << 10, 1), {}};
  ASSERT_EQ(load_library(0, image_of()), CUDA_SUCCESS);
  ASSERT_EQ(get_kernel(0), CUDA_SUCCESS);
  EXPECT_EQ(gate->page().memory_used.load(), 400U << 10);
  std::memset(at("a"), 2, 8);
  EXPECT_EQ(reset(), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(at("a")[0], std::byte{2});
  EXPECT_EQ(gate->page().memory_used.load(), 400U << 10);
  EXPECT_EQ(FakeDriver::get().loads, 1);
  gate->page().memory_quota.store(1200 << 10);
  EXPECT_EQ(reset(), CUDA_SUCCESS);
  EXPECT_EQ(at("a")[0], std::byte{1});
  EXPECT_EQ(gate->page().memory_used.load(), 400U << 10);
}

}  // namespace
}  // namespace vgpu::worker
