// docs/vgpu-stub.md gives the offset and size of every word that the two sides share: here it is held against
// the headers.
#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "protocol/channel_layout.hpp"
#include "protocol/handshake.hpp"
#include "protocol/record.hpp"
#include "protocol/stub_layout.hpp"

namespace vgpu::stub {
namespace {

struct Word {
  std::size_t offset;
  std::size_t bytes;
  std::string name;

  friend bool operator==(const Word&, const Word&) = default;
  friend void PrintTo(const Word& word, std::ostream* out) {
    *out << "| " << word.offset << " | " << word.bytes << " | `" << word.name << "` |";
  }
};

struct Table {
  const char* name;
  std::vector<Word> words;
};

#define WORD(type, field) \
  { offsetof(type, field), sizeof(type::field), #field }

const std::vector<Table>& tables() {
  static const std::vector<Table> all = {
      {"HostPage",
       {WORD(HostPage, magic), WORD(HostPage, version), WORD(HostPage, slot_count),
        WORD(HostPage, memory_bytes), WORD(HostPage, slot_base), WORD(HostPage, slot_stride),
        WORD(HostPage, protocol_hash), WORD(HostPage, generation), WORD(HostPage, heartbeat),
        WORD(HostPage, host_peer), WORD(HostPage, vectors), WORD(HostPage, state), WORD(HostPage, doorbells),
        WORD(HostPage, reason)}},
      {"GuestPage",
       {WORD(GuestPage, generation), WORD(GuestPage, heartbeat), WORD(GuestPage, protocol_hash),
        WORD(GuestPage, version), WORD(GuestPage, name)}},
      {"SlotGuest",
       {WORD(SlotGuest, request), WORD(SlotGuest, kick), WORD(SlotGuest, identity), WORD(SlotGuest, pid),
        WORD(SlotGuest, uid), WORD(SlotGuest, program), WORD(SlotGuest, contended),
        WORD(SlotGuest, console_read)}},
      {"SlotHost",
       {WORD(SlotHost, state), WORD(SlotHost, answered), WORD(SlotHost, code), WORD(SlotHost, metered),
        WORD(SlotHost, session), WORD(SlotHost, memory_quota), WORD(SlotHost, reason),
        WORD(SlotHost, consumed_ns), WORD(SlotHost, kernel_ns), WORD(SlotHost, memory_used),
        WORD(SlotHost, memory_peak), WORD(SlotHost, backlogged), WORD(SlotHost, in_flight),
        WORD(SlotHost, progress), WORD(SlotHost, beats), WORD(SlotHost, console_written),
        WORD(SlotHost, device)}},
      {"DeviceReport",
       {WORD(DeviceReport, type),
        WORD(DeviceReport, driver_version),
        WORD(DeviceReport, name),
        WORD(DeviceReport, uuid),
        WORD(DeviceReport, pci_bus_id),
        WORD(DeviceReport, pci_domain),
        WORD(DeviceReport, pci_bus),
        WORD(DeviceReport, pci_device),
        WORD(DeviceReport, compute_major),
        WORD(DeviceReport, compute_minor),
        WORD(DeviceReport, least_priority),
        WORD(DeviceReport, greatest_priority),
        WORD(DeviceReport, module_loading_mode),
        WORD(DeviceReport, context_api_version),
        WORD(DeviceReport, software),
        WORD(DeviceReport, total_memory),
        WORD(DeviceReport, attributes_valid),
        WORD(DeviceReport, attributes),
        WORD(DeviceReport, limits_valid),
        WORD(DeviceReport, allocation_granularity_min),
        WORD(DeviceReport, allocation_granularity_recommended),
        WORD(DeviceReport, reserved),
        WORD(DeviceReport, limits)}},
      {"ChannelHeader",
       {WORD(ChannelHeader, magic), WORD(ChannelHeader, protocol_hash), WORD(ChannelHeader, arena_bytes)}},
      {"ChannelControl",
       {WORD(ChannelControl, reserved_units), WORD(ChannelControl, consumed_units),
        WORD(ChannelControl, consumer_sleeps), WORD(ChannelControl, consumer_fences),
        WORD(ChannelControl, space_waiters), WORD(ChannelControl, space_event), WORD(ChannelControl, closed),
        WORD(ChannelControl, sticky_error), WORD(ChannelControl, async_error), WORD(ChannelControl, prints),
        WORD(ChannelControl, upcall_event), WORD(ChannelControl, upcall_sleeps),
        WORD(ChannelControl, doorbells), WORD(ChannelControl, consumer_cpu),
        WORD(ChannelControl, waiter_cpu)}},
      {"ReplySlot",
       {WORD(ReplySlot, state), WORD(ReplySlot, result), WORD(ReplySlot, payload_size),
        WORD(ReplySlot, flags), WORD(ReplySlot, payload)}},
      {"ArenaBlock", {WORD(ArenaBlock, state), WORD(ArenaBlock, result)}},
      {"UpcallEntry",
       {WORD(UpcallEntry, state), WORD(UpcallEntry, status), WORD(UpcallEntry, kind),
        WORD(UpcallEntry, reserved), WORD(UpcallEntry, function), WORD(UpcallEntry, user),
        WORD(UpcallEntry, stream)}},
      {"RecordHeader",
       {WORD(RecordHeader, call), WORD(RecordHeader, flags), WORD(RecordHeader, size),
        WORD(RecordHeader, reply), WORD(RecordHeader, context), WORD(RecordHeader, reserved)}},
      {"channel",
       {{channel_offset::header, sizeof(ChannelHeader), "ChannelHeader"},
        {channel_offset::control, sizeof(ChannelControl), "ChannelControl"},
        {channel_offset::slots, reply_slot_count * sizeof(ReplySlot), "ReplySlot"},
        {channel_offset::upcalls, upcall_count * sizeof(UpcallEntry), "UpcallEntry"},
        {channel_offset::publish, ring_units * sizeof(std::uint32_t), "publish"},
        {channel_offset::data, ring_bytes, "ring"}}},
      {"slot control",
       {{offsetof(SlotControl, guest), sizeof(SlotGuest), "SlotGuest"},
        {offsetof(SlotControl, host), sizeof(SlotHost), "SlotHost"},
        {offsetof(SlotControl, console), sizeof(SlotControl::console), "console"}}},
  };
  return all;
}

#undef WORD

// The rows "| offset | bytes | `name` | ..." below the line that begins with **TABLE**, up to the next such
// line or heading.
std::vector<Word> documented(const std::string& table) {
  std::ifstream file(VGPU_STUB_DOCUMENT);
  std::vector<Word> words;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("**", 0) == 0 || line.rfind('#', 0) == 0) inside = line.rfind("**" + table + "**", 0) == 0;
    if (!inside || line.rfind("| ", 0) != 0) continue;
    std::istringstream row(line);
    std::string bar;
    Word word;
    if (!(row >> bar >> word.offset >> bar >> word.bytes >> bar >> word.name)) continue;
    if (word.name.size() > 2) word.name = word.name.substr(1, word.name.find('`', 1) - 1);
    words.push_back(word);
  }
  return words;
}

class LayoutDocument : public testing::TestWithParam<Table> {};

TEST_P(LayoutDocument, SaysWhereEachWordIs) {
  EXPECT_EQ(documented(GetParam().name), GetParam().words);
}

// A field that was added in between would leave a hole here, though no row of the page is wrong.
TEST_P(LayoutDocument, LeavesNoWordOut) {
  std::size_t end = 0;
  for (const Word& word : GetParam().words) {
    EXPECT_GE(word.offset, end) << word.name;
    const bool pages = word.offset % 4096 == 0;
    EXPECT_TRUE(pages || word.offset - end < 64) << "a hole before " << word.name;
    end = word.offset + word.bytes;
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, LayoutDocument, testing::ValuesIn(tables()), [](const auto& tested) {
  std::string name = tested.param.name;
  std::erase(name, ' ');
  return name;
});

}  // namespace
}  // namespace vgpu::stub
