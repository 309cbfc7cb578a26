#include "protocol/call_table.hpp"

#include <gtest/gtest.h>

#include <set>

#include "protocol/address_space.hpp"
#include "protocol/gate.hpp"
#include "protocol/handle.hpp"
#include "vgpu/records.hpp"

namespace vgpu {
namespace {

TEST(CallTable, NamesAreUniqueAndIdsInRange) {
  std::set<std::string_view> names;
  for (const CallInfo& call : call_table()) EXPECT_TRUE(names.insert(call.name).second) << call.name;
  EXPECT_EQ(call_table().size(), call_id_end);
  EXPECT_LE(std::size_t{call_id_end}, gate_call_slots);
}

TEST(CallTable, UnknownIdsHaveNoRow) {
  EXPECT_EQ(find_call(0), nullptr);
  EXPECT_EQ(find_call(call_id_end), nullptr);
  EXPECT_EQ(find_call(UINT16_MAX), nullptr);
  const CallInfo* const launch = find_call(static_cast<std::uint16_t>(CallId::cuLaunchKernel));
  ASSERT_NE(launch, nullptr);
  EXPECT_EQ(launch->name, "cuLaunchKernel");
  EXPECT_EQ(launch->kind, CallKind::async);
}

TEST(Records, HeaderNamesTheCall) {
  const record::cuMemAlloc_v2 record;
  EXPECT_EQ(record.header.call, static_cast<std::uint16_t>(CallId::cuMemAlloc_v2));
  EXPECT_TRUE(record::cuMemAlloc_v2::kWait);
  EXPECT_FALSE(record::cuLaunchKernel::kWait);
  EXPECT_TRUE(record::cuLaunchKernel::kTail);
}

TEST(Handles, KeepKindIndexAndGeneration) {
  const std::uint64_t handle = Handle::make(HandleKind::event, 123456, 4095);
  EXPECT_TRUE(Handle::is(handle, HandleKind::event));
  EXPECT_FALSE(Handle::is(handle, HandleKind::stream));
  EXPECT_EQ(Handle::index(handle), 123456u);
  EXPECT_EQ(Handle::generation(handle), 4095u);
  for (const std::uint64_t other :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, handle | 1, ~std::uint64_t{0}}) {
    EXPECT_FALSE(Handle::is_handle(other)) << other;
  }
}

TEST(HostWindow, RangesAreCheckedWithoutOverflow) {
  EXPECT_TRUE(in_host_window(host_window_base, host_window_size));
  EXPECT_FALSE(in_host_window(host_window_base, host_window_size + 1));
  EXPECT_FALSE(in_host_window(host_window_base - 1));
  EXPECT_FALSE(in_host_window(host_window_base + 4096, UINT64_MAX));
  EXPECT_FALSE(in_host_window(host_window_base, 0));
}

}  // namespace
}  // namespace vgpu
