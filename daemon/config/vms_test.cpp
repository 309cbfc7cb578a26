// What a configuration says of VMs, on the host's side and on the guest's.
#include <gtest/gtest.h>

#include <array>

#include "daemon/config/load.hpp"

namespace vgpu::daemon {
namespace {

// All mistakes, each in a line with its place; empty: none.
std::string mistakes(const std::string& text) {
  const auto result = parse_config(text, "f.yaml");
  std::string all;
  if (!result) {
    for (const ConfigError& error : result.error()) all += error.text() + "\n";
  }
  return all;
}

std::string mistakes_of_two(const std::string& text, const std::string& drop_in) {
  const std::array<ConfigDocument, 2> documents{{{"f.yaml", text, true}, {"d/50-more.yaml", drop_in, false}}};
  const auto result = parse_config(documents);
  return result ? "" : result.error().front().text();
}

TEST(ConfigVms, AMemoryMustHoldItsSlots) {
  EXPECT_EQ(mistakes("vms: [{name: a, size: 64MiB, slots: 4}, {name: b}]"), "");
  EXPECT_EQ(mistakes("vms: [{name: a, size: 16MiB, slots: 64}]"),
            "f.yaml:1:7: a memory of 16 MiB has room for at most 4 slots, not 64\n");
  EXPECT_NE(mistakes("vms: [{name: a, size: 24MiB}]").find("a power of two"), std::string::npos);
  // Each document alone would not do; together they do, and the other way round.
  EXPECT_EQ(mistakes_of_two("vms: [{name: a, size: 16MiB}]", "vms: [{name: a, slots: 2}]"), "");
  EXPECT_EQ(mistakes_of_two("vms: [{name: a, size: 16MiB, slots: 2}]", "vms: [{name: a, slots: 16}]"),
            "d/50-more.yaml:1:7: a memory of 16 MiB has room for at most 4 slots, not 16");
}

TEST(ConfigVms, EachHasAPlaceOfItsOwn) {
  EXPECT_EQ(mistakes("vms: [{name: a, socket: /tmp/s}, {name: b, socket: /tmp/./s}]"),
            "f.yaml:1:34: /tmp/./s is the place of VM 'a' already\n");
  EXPECT_EQ(mistakes("vms: [{name: a, socket: /run/vgpud/vm/b.sock}, {name: b}]"),
            "f.yaml:1:48: /run/vgpud/vm/b.sock is the place of VM 'a' already\n");
  EXPECT_NE(mistakes("socket: /tmp/s\nvms: [{name: a, socket: /tmp/s}]").find("'socket' already"),
            std::string::npos);
  EXPECT_NE(mistakes("vms: [{name: a, pci_tree: /t}, {name: b, pci_tree: /t}]").find("VM 'a' already"),
            std::string::npos);
  EXPECT_EQ(mistakes("vms: [{name: a}, {name: b}, {name: c, pci_tree: /t}]"), "");
}

TEST(ConfigVms, PathsAndNamesAreThoseThatASocketCanHave) {
  EXPECT_NE(mistakes("vms: [{name: a, socket: /tmp/" + std::string(110, 'x') + "}]").find("107 characters"),
            std::string::npos);
  EXPECT_NE(mistakes("vms: [{name: .a}]").find("a VM needs a name"), std::string::npos);
  EXPECT_NE(mistakes("vms: [{name: " + std::string(65, 'a') + "}]").find("a VM needs a name"),
            std::string::npos);
}

TEST(ConfigGuest, IdsAreVendorAndDevice) {
  EXPECT_EQ(mistakes("devices: [{kind: stub, ids: [foo]}]"),
            "f.yaml:1:30: 'ids' holds vendor:device, each of four hexadecimal digits, such as 1af4:1110\n");
  EXPECT_NE(mistakes("devices: [{kind: stub, ids: ['1af4:1110', '5547']}]").find("'ids'"), std::string::npos);
  EXPECT_NE(mistakes("devices: [{kind: stub, ids: '0x1af4:0x1110'}]").find("'ids'"), std::string::npos);
  const auto config = parse_config("devices: [{kind: stub, ids: ['1D1D:5547', '1af4:1110']}]", "f.yaml");
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->devices.front().ids, (std::vector<std::string>{"1d1d:5547", "1af4:1110"}))
      << "sysfs has small letters";
}

TEST(ConfigGuest, AFunctionIsAPciAddress) {
  EXPECT_EQ(mistakes("devices: [{kind: stub, function: nonsense}]"),
            "f.yaml:1:34: 'function' must be the address of a PCI function, such as 0000:00:05.0\n");
  for (const char* wrong :
       {"00:05.0", "0000:00:05.8", "0000:00:25.0", "0000:00:05.0/..", "../0000:00:05.0"}) {
    EXPECT_NE(mistakes(std::string("devices: [{kind: stub, function: '") + wrong + "'}]"), "") << wrong;
  }
  EXPECT_EQ(mistakes("devices: [{kind: stub, function: '10000:e1:00.0'}]"), "");
  const auto config = parse_config("devices: [{kind: stub, function: '0000:0A:1F.7'}]", "f.yaml");
  ASSERT_TRUE(config) << config.error().front().text();
  EXPECT_EQ(config->devices.front().function, "0000:0a:1f.7");
}

}  // namespace
}  // namespace vgpu::daemon
