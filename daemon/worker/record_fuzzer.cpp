// Feeds arbitrary records to the worker's session over a driver that does nothing. Input: one byte of flags,
// then records, each led by its length in 16 bits.
#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "daemon/worker/session.hpp"
#include "protocol/address_space.hpp"
#include "protocol/call_table.hpp"

namespace {

using namespace vgpu;

CUresult next_result = CUDA_SUCCESS;

template <class F>
struct Fake;
/// A driver function that touches nothing and gives what the input asked for.
template <class... Arguments>
struct Fake<CUresult (*)(Arguments...)> {
  static CUresult call(Arguments...) { return next_result; }
};

worker::DriverTable fake_table() {
  worker::DriverTable table;
  worker::for_each_function(table, [](auto& function, const char*) {
    function = &Fake<std::remove_reference_t<decltype(function)>>::call;
  });
  // Completions and the check of addresses must get answers.
  table.cuEventCreate = [](CUevent* event, unsigned) {
    static int some;
    *event = reinterpret_cast<CUevent>(&some);
    return CUDA_SUCCESS;
  };
  table.cuEventQuery = [](CUevent) { return CUDA_SUCCESS; };
  table.cuPointerGetAttribute = [](void* data, CUpointer_attribute attribute, CUdeviceptr) {
    if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) *static_cast<unsigned*>(data) = CU_MEMORYTYPE_DEVICE;
    return CUDA_SUCCESS;
  };
  return table;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const worker::DriverTable table = fake_table();
  static UniqueFd gate_fd;
  static const auto gate = std::move(*GateMapping::create(gate_fd));
  static const auto channel = [] {
    const auto fd = create_channel_memory(1 << 20);
    return std::move(*Channel::attach(fd->get()));
  }();
  static int place;
  gate->page().memory_used.store(0);
  next_result = (data[0] & 1) != 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  worker::Accounting accounting(gate->page(), nullptr, -1);
  worker::HostRegions regions(table);
  worker::Session session({table, nullptr, 0, reinterpret_cast<CUcontext>(&place), *channel, accounting,
                           regions, nullptr, -1, -1});
  std::vector<std::byte> buffer(max_record_bytes);
  for (std::size_t at = 1; at + 2 <= size;) {
    std::uint16_t length = 0;
    std::memcpy(&length, data + at, 2);
    at += 2;
    const std::size_t take = std::min<std::size_t>(length, size - at);
    if (take < sizeof(RecordHeader)) break;
    std::memcpy(buffer.data(), data + at, take);
    at += take;
    RecordHeader header;
    std::memcpy(&header, buffer.data(), sizeof header);
    header.call = static_cast<std::uint16_t>(header.call % (call_id_end + 2));
    header.context = static_cast<std::uint16_t>(header.context % 4);
    header.size = static_cast<std::uint32_t>(take);
    std::memcpy(buffer.data(), &header, sizeof header);
    session.run_record(std::span(buffer).first(take));
  }
  return 0;
}
