// What is remembered of managed memory, against a plain list of pages and rule by rule.
#include "cudaabi/managed_advice.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace cudaabi {
namespace {

constexpr std::uint64_t page = 4096;

CUmemLocation at(CUmemLocationType type, int id = 0) {
  CUmemLocation location{};
  location.type = type;
  location.id = id;
  return location;
}
const CUmemLocation device = at(CU_MEM_LOCATION_TYPE_DEVICE);
const CUmemLocation host = at(CU_MEM_LOCATION_TYPE_HOST, 99);

int ask(const ManagedAdvice& said, CUmem_range_attribute attribute, std::uint64_t offset,
        std::uint64_t bytes) {
  std::int32_t value = 12345;
  EXPECT_EQ(said.query(&value, sizeof value, attribute, offset, bytes), CUDA_SUCCESS);
  return value;
}

TEST(ManagedAdvice, NothingSaidIsNothingKnown) {
  const ManagedAdvice said;
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, 0, page), 0);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, 0, page), CU_DEVICE_INVALID);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE, 0, page), CU_MEM_LOCATION_TYPE_INVALID);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, 0, page), CU_DEVICE_INVALID);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, 0, page), CU_DEVICE_INVALID);
}

TEST(ManagedAdvice, NamesPlacesByNumberAndByType) {
  ManagedAdvice said;
  ASSERT_EQ(said.advise(0, page, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, at(CU_MEM_LOCATION_TYPE_HOST_NUMA)),
            CUDA_SUCCESS);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, 0, page), CU_DEVICE_CPU);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE, 0, page),
            CU_MEM_LOCATION_TYPE_HOST_NUMA);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID, 0, page), 0);
  ASSERT_EQ(said.prefetch(0, page, at(CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT, -1)), CUDA_SUCCESS);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE, 0, page),
            CU_MEM_LOCATION_TYPE_HOST_NUMA);
  EXPECT_GE(ask(said, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID, 0, page), 0);
  ASSERT_EQ(said.prefetch(0, page, device), CUDA_SUCCESS);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, 0, page), 0);
  ASSERT_EQ(said.prefetch(0, page, host), CUDA_SUCCESS);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, 0, page), CU_DEVICE_CPU);
}

TEST(ManagedAdvice, KnowsEachDeviceByItsNumber) {
  ManagedAdvice said(3);
  const auto last = at(CU_MEM_LOCATION_TYPE_DEVICE, 2);
  ASSERT_EQ(said.prefetch(0, page, last), CUDA_SUCCESS);
  EXPECT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, 0, page), 2);
  EXPECT_EQ(said.prefetch(0, page, at(CU_MEM_LOCATION_TYPE_DEVICE, 3)), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(said.prefetch(0, page, at(CU_MEM_LOCATION_TYPE_DEVICE, -1)), CUDA_ERROR_INVALID_DEVICE);
  ASSERT_EQ(said.advise(0, 2 * page, CU_MEM_ADVISE_SET_ACCESSED_BY, last), CUDA_SUCCESS);
  ASSERT_EQ(said.advise(0, page, CU_MEM_ADVISE_SET_ACCESSED_BY, device), CUDA_SUCCESS);
  const auto by = [&](std::uint64_t bytes) {
    std::vector<std::int32_t> who(4);
    EXPECT_EQ(said.query(who.data(), 16, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, 0, bytes), CUDA_SUCCESS);
    return who;
  };
  constexpr int none = CU_DEVICE_INVALID;
  EXPECT_EQ(by(page), (std::vector<std::int32_t>{0, 2, none, none}));
  EXPECT_EQ(by(2 * page), (std::vector<std::int32_t>{2, none, none, none})) << "who is said of all pages";
  ASSERT_EQ(said.advise(0, page, CU_MEM_ADVISE_UNSET_ACCESSED_BY, last), CUDA_SUCCESS);
  EXPECT_EQ(by(page), (std::vector<std::int32_t>{0, none, none, none}));
}

TEST(ManagedAdvice, RefusesPlacesThatAreNone) {
  ManagedAdvice said;
  const auto other = at(CU_MEM_LOCATION_TYPE_DEVICE, 1);
  EXPECT_EQ(said.prefetch(0, page, other), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(said.prefetch(0, page, at(CU_MEM_LOCATION_TYPE_INVALID)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(said.prefetch(0, page, at(CU_MEM_LOCATION_TYPE_HOST_NUMA, 4000)), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(said.advise(0, page, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, other), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(said.advise(0, page, CU_MEM_ADVISE_SET_ACCESSED_BY, at(CU_MEM_LOCATION_TYPE_HOST_NUMA)),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(said.advise(0, page, static_cast<CUmem_advise>(7), device), CUDA_ERROR_INVALID_VALUE);
  // These do not look at the place.
  EXPECT_EQ(said.advise(0, page, CU_MEM_ADVISE_SET_READ_MOSTLY, other), CUDA_SUCCESS);
  EXPECT_EQ(said.advise(0, page, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, other), CUDA_SUCCESS);
}

TEST(ManagedAdvice, ListsWhoAccessesAllOfIt) {
  ManagedAdvice said;
  ASSERT_EQ(said.advise(0, 2 * page, CU_MEM_ADVISE_SET_ACCESSED_BY, device), CUDA_SUCCESS);
  ASSERT_EQ(said.advise(0, page, CU_MEM_ADVISE_SET_ACCESSED_BY, host), CUDA_SUCCESS);
  std::int32_t list[3] = {5, 5, 5};
  const auto query = [&](std::size_t bytes, std::uint64_t of) {
    return said.query(list, bytes, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, 0, of);
  };
  ASSERT_EQ(query(12, page), CUDA_SUCCESS);
  EXPECT_EQ(std::vector(list, list + 3), (std::vector<std::int32_t>{0, CU_DEVICE_CPU, CU_DEVICE_INVALID}));
  ASSERT_EQ(query(8, 2 * page), CUDA_SUCCESS);
  EXPECT_EQ(std::vector(list, list + 2), (std::vector<std::int32_t>{0, CU_DEVICE_INVALID}));
  list[1] = 5;
  ASSERT_EQ(query(4, page), CUDA_SUCCESS);
  EXPECT_EQ(list[1], 5) << "written behind the end";
  EXPECT_EQ(query(0, page), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(query(6, page), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(said.query(list, 8, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, 0, page), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(said.query(list, 4, static_cast<CUmem_range_attribute>(15), 0, page), CUDA_ERROR_INVALID_VALUE);
}

TEST(ManagedAdvice, AgreesWithAListOfPages) {
  constexpr std::uint64_t pages = 24;
  std::mt19937 random(7);
  ManagedAdvice said;
  std::vector<int> preferred(pages, CU_DEVICE_INVALID);
  for (int round = 0; round < 4000; ++round) {
    const std::uint64_t offset = random() % (pages * page);
    const std::uint64_t bytes = 1 + random() % (pages * page - offset);
    const std::uint64_t first = offset / page;
    const std::uint64_t last = (offset + bytes - 1) / page;
    const int what = static_cast<int>(random() % 3);
    const auto advice =
        what == 0 ? CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION : CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
    ASSERT_EQ(said.advise(offset, bytes, advice, what == 1 ? device : host), CUDA_SUCCESS);
    const int now = what == 0 ? CU_DEVICE_INVALID : what == 1 ? 0 : CU_DEVICE_CPU;
    for (std::uint64_t i = first; i <= last; ++i) preferred[i] = now;

    const std::uint64_t from = random() % (pages * page);
    const std::uint64_t size = 1 + random() % (pages * page - from);
    int wanted = preferred[from / page];
    for (std::uint64_t i = from / page; i <= (from + size - 1) / page; ++i) {
      if (preferred[i] != wanted) wanted = CU_DEVICE_INVALID;
    }
    ASSERT_EQ(ask(said, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, from, size), wanted) << round;
  }
}

}  // namespace
}  // namespace cudaabi
