// Messages between client, broker and worker before and beside the channel. All are plain structs of fixed
// size whose first word is the type; strings are NUL-terminated. Nothing a client says here is believed
// except its hash; what it wishes for chooses among what it may have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vgpu {

inline constexpr std::uint64_t hello_magic = 0x4F4C4C4548445056;  // "VPDHELLO"
inline constexpr std::uint32_t handshake_version = 3;
inline constexpr std::size_t attribute_count = 192;      ///< CUdevice_attribute 0..191
inline constexpr std::size_t limit_count = 16;           ///< CUlimit 0..15
inline constexpr std::uint32_t most_client_devices = 8;  ///< that one client may have

enum class MessageType : std::uint32_t {
  hello = 1,
  welcome = 2,
  refused = 3,
  attach = 4,
  device_report = 5,
  host_region = 6,
  worker_failed = 7,
  status_query = 8,
  device_status = 9,
  console_text = 10,
  ipc_request = 11,  ///< protocol/ipc.hpp, as the next two
  ipc_answer = 12,
  ipc_again = 13,
};

/// Identity of the protocol this binary was built with: the call table, the records and the channel's layout.
std::uint64_t protocol_hash();

enum class WishKind : std::uint32_t {
  any = 0,      ///< CUDA_VISIBLE_DEVICES is not set
  nothing = 1,  ///< it hides every device
  index = 2,    ///< among the devices that the client may use, in the order of the configuration
  uuid = 3,     ///< or the beginning of one
};

/// Which devices a client asks for, in this order: the entries of its CUDA_VISIBLE_DEVICES
/// (visible_devices.hpp), as many as a client may have.
struct DeviceWish {
  WishKind kind = WishKind::any;
  std::uint32_t count = 0;  ///< entries, all of this kind: 0 of `any` and `nothing`
  std::uint32_t index[most_client_devices] = {};
  char uuid[most_client_devices][48] = {};  ///< "GPU-" and at least a digit of what follows
};

/// How the first message of a client of any version begins.
struct FirstWords {
  MessageType type;
  std::uint32_t version;
  std::uint64_t magic;
};

/// Client -> broker, first message.
struct Hello {
  static constexpr auto message_type = MessageType::hello;
  MessageType type = message_type;
  std::uint32_t version = handshake_version;
  std::uint64_t magic = hello_magic;
  std::uint64_t protocol_hash = 0;
  DeviceWish wish;
};

/// All that a client answers about its device without asking again. Written by the worker at its start.
struct DeviceReport {
  static constexpr auto message_type = MessageType::device_report;
  MessageType type = message_type;
  std::int32_t driver_version = 0;  ///< cuDriverGetVersion
  char name[256] = {};
  std::uint8_t uuid[16] = {};
  char pci_bus_id[32] = {};
  std::int32_t pci_domain = 0, pci_bus = 0, pci_device = 0;
  std::int32_t compute_major = 0, compute_minor = 0;
  std::int32_t least_priority = 0, greatest_priority = 0;
  std::uint32_t module_loading_mode = 0;  ///< cuModuleGetLoadingMode
  std::uint32_t context_api_version = 0;  ///< cuCtxGetApiVersion
  std::uint32_t software = 0;             ///< 1: the software GPU
  std::uint64_t total_memory = 0;         ///< bytes
  std::uint64_t attributes_valid[attribute_count / 64] = {};
  std::int32_t attributes[attribute_count] = {};
  std::uint32_t limits_valid = 0;
  std::uint32_t allocation_granularity_min = 0;  ///< cuMemGetAllocationGranularity, device-local, bytes
  std::uint32_t allocation_granularity_recommended = 0;  ///< bytes
  std::uint32_t reserved = 0;
  std::uint64_t limits[limit_count] = {};
};

/// Broker -> client: admitted. Comes with two descriptors: the channel's memfd, the client's end of the
/// direct socket. A DeviceReport follows for each device of the client's after the first.
struct Welcome {
  static constexpr auto message_type = MessageType::welcome;
  MessageType type = message_type;
  std::uint32_t device_count = 1;
  std::uint64_t session = 0;
  std::uint64_t memory_quota = 0;  ///< bytes, on each device; 0 = none
  DeviceReport device;             ///< the first
};

inline constexpr std::uint32_t most_listed_devices = 64;  ///< DeviceStatus::device_count

enum class RefusalCode : std::uint32_t {
  protocol = 1,     ///< another version of vgpud
  no_device = 2,    ///< no device for this client
  not_allowed = 3,  ///< policy
  busy = 4,         ///< too many clients
  internal = 5,
};

/// Broker -> client: not admitted, with a sentence for the log.
struct Refused {
  static constexpr auto message_type = MessageType::refused;
  MessageType type = message_type;
  RefusalCode code = RefusalCode::internal;
  char text[248] = {};
};

/// Broker -> worker: serve this client. Comes with two descriptors: the channel's memfd, the worker's end of
/// the direct socket; of a process in a VM with a third, the VM's MemoryAccount.
struct Attach {
  static constexpr auto message_type = MessageType::attach;
  MessageType type = message_type;
  std::uint32_t further_count = 0;  ///< devices of the client's besides the worker's own
  std::uint64_t session = 0;
  std::uint64_t memory_quota = 0;  ///< bytes; 0 = none
  // Of a process in a VM, whose channel is a part of the VM's memory (stub_layout.hpp); else 0.
  std::uint64_t slot_offset = 0;                        ///< of the channel in the memory, bytes
  std::uint64_t arena_bytes = 0;                        ///< not 0: the channel lies at slot_offset
  std::uint64_t control_offset = 0;                     ///< of the slot's stub::SlotControl, bytes
  std::uint32_t account_place = 0;                      ///< in the VM's MemoryAccount
  std::uint32_t further[most_client_devices - 1] = {};  ///< their numbers with the driver
  // Who the client is, for display.
  std::int32_t pid = 0;
  std::uint32_t uid = 0;
  char program[64] = {};
};

/// Worker -> broker: it cannot serve (before its report), with a sentence. The worker then ends.
struct WorkerFailed {
  static constexpr auto message_type = MessageType::worker_failed;
  MessageType type = message_type;
  std::int32_t result = 0;  ///< CUresult, or 0
  char text[248] = {};
};

/// Client -> worker over the direct socket, with the sealed memfd of a host region; the record host_map that
/// names the same address follows in the ring.
struct HostRegion {
  static constexpr auto message_type = MessageType::host_region;
  MessageType type = message_type;
  std::uint32_t reserved = 0;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

/// Worker -> client over the direct socket: what kernels printed, in order, and what failed assertions said,
/// in ConsoleCode. See ReplyFlags::console.
struct ConsoleText {
  static constexpr auto message_type = MessageType::console_text;
  MessageType type = message_type;
  std::uint32_t bytes = 0;
  char text[16384] = {};
};

/// Asks the broker how a device is used, instead of Hello; makes no session. Which devices are listed depends
/// on the wish: those that the asker has or would get; where the wish is of indices, all up to the highest of
/// them, so that an index means the same in libcuda and in libnvidia-ml.
struct StatusQuery {
  static constexpr auto message_type = MessageType::status_query;
  MessageType type = message_type;
  std::uint32_t version = handshake_version;
  std::uint64_t magic = hello_magic;
  DeviceWish wish;
  std::uint32_t index = 0;  ///< which of the list
  std::uint32_t reserved = 0;
};

/// A process that uses the device.
struct ProcessUsage {
  std::int32_t pid = 0;
  std::uint32_t reserved = 0;
  std::uint64_t memory_used = 0;  ///< bytes
};

/// Broker -> asker: the answer to StatusQuery. Lists only processes that the asker may see.
struct DeviceStatus {
  static constexpr auto message_type = MessageType::device_status;
  MessageType type = message_type;
  std::uint32_t device_count = 0;  ///< length of the list
  std::uint32_t process_count = 0;
  std::uint32_t reserved = 0;
  std::uint64_t memory_quota = 0;        ///< bytes, of the asker's class; 0 = none
  std::uint64_t memory_used = 0;         ///< bytes, by sessions under the asker's quota
  std::uint64_t device_memory_used = 0;  ///< bytes, by all clients
  std::uint32_t gpu_busy_percent = 0;    ///< over the last second
  std::uint32_t memory_busy_percent = 0;
  ProcessUsage processes[64] = {};
  DeviceReport device;
};

/// Why a Hello is refused, or an empty string when it fits this build.
std::string hello_problem(const Hello& hello);
/// The same of a message that is not of this build's size; empty too when it is no client's first message.
std::string first_words_problem(std::span<const std::byte> message);

/// Copies text into a message's fixed field, cut off to fit, always terminated.
template <std::size_t N>
void set_text(char (&field)[N], const std::string& text) {
  const std::size_t length = text.copy(field, N - 1);
  field[length] = '\0';
}

}  // namespace vgpu
