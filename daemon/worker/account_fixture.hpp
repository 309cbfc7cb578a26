// For tests of what is charged: an account of its own gate page.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "daemon/worker/accounting.hpp"
#include "protocol/gate.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::worker {

struct AccountFixture : testing::Test {
  void SetUp() override {
    gate = std::move(*GateMapping::create(fd));
    accounting = std::make_unique<Accounting>(gate->page(), nullptr, -1);
  }
  std::uint64_t used() const { return gate->page().memory_used.load(); }

  UniqueFd fd;
  std::unique_ptr<GateMapping> gate;
  std::unique_ptr<Accounting> accounting;
};

}  // namespace vgpu::worker
