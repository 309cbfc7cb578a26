// Carries one guest process's channel over a slot of BAR2: its records to the host's worker, the answers
// back.
//
// The slot holds a channel of the same layout, so a record goes over as it is: the same reply slots, the same
// offsets in the arena. What has to be carried along is what records point at: arena blocks
// (vgpu/arena_spans.inc), images in memfds, host memory (host_memory.hpp), host functions, printed text. Both
// sides are hostile: the client's records are copied, the host's answers bounded, and neither can make this
// process touch memory outside its mappings.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/stub/guest/host_memory.hpp"
#include "daemon/stub/guest/remote_ring.hpp"
#include "daemon/stub/guest/slot.hpp"
#include "protocol/channel.hpp"
#include "protocol/gate.hpp"
#include "protocol/ring.hpp"
#include "protocol/unique_fd.hpp"
#include "vgpu/call_ids.hpp"

namespace vgpu::stub_guest {

struct ImagePlaces;

/// What the session works with. All outlive it.
struct LinkParts {
  const PciFunction& function;
  Slot& slot;
  Channel& local;   ///< with the client
  Channel& remote;  ///< in the slot
  GatePage& page;
  int direct_socket = -1;
  int broker_socket = -1;
  int attention = -1;  ///< eventfd that tells the broker to look at the page
  std::function<void(const std::string&)> log;
};

enum class LinkEnd { client_gone, broker_gone, corrupt_ring, host_gone };

/// One thread.
class LinkSession {
 public:
  explicit LinkSession(const LinkParts& parts);

  /// Serves the client until one of the parties is gone.
  LinkEnd run();
  /// Why the host was given up, after LinkEnd::host_gone.
  const std::string& host_problem() const { return host_problem_; }

  /// Images go over in two parts of this size at a time, header included, which lie behind the client's arena
  /// of `local_bytes` in the slot's; host memory begins behind them.
  static std::uint64_t image_part_bytes(std::uint64_t arena_bytes, std::uint64_t local_bytes);

 private:
  static constexpr std::size_t most_spans = 2;
  /// Bytes of the arena that a record names.
  struct Span {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  /// A waited call on its way.
  struct Waiting {
    std::uint32_t reference = 0;
    std::uint16_t call = 0;
    std::uint16_t context = 0;
    std::uint64_t handle = 0;  ///< the stream or event that is waited for
    std::uint64_t order = 0;
    std::uint64_t since_ns = 0;
    std::array<Span, most_spans> back;  ///< to be copied to the client before it is answered
    std::uint64_t address = 0;          ///< of host_map and host_unmap
    std::uint64_t copy = 0;             ///< to host memory: its number (HostMemory::before_copy_to)
  };
  /// An arena block that a copy will complete.
  struct Block {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    bool back = false;
    std::uint64_t stream = 0;
    std::uint16_t context = 0;
    std::uint64_t order = 0;
  };
  /// A large copy between host memory and the device, of which bytes from `at` on are still to be sent.
  struct Copy {
    RecordHeader header;
    std::uint64_t to = 0;
    std::uint64_t from = 0;
    std::uint64_t bytes = 0;  ///< 0: there is none
    std::uint64_t at = 0;
    std::uint64_t part = 0;
    std::uint64_t stream = 0;
    std::uint64_t order = 0;
    bool back = false;           ///< to host memory
    bool answered = false;       ///< false: not before the answer to the first part
    std::uint64_t unmarked = 0;  ///< number of the first part, if that is to get its mark when it is answered
  };
  /// An image on its way in parts, of which bytes from `at` on are still to be sent.
  struct Image {
    UniqueFd fd;
    std::uint64_t bytes = 0;  ///< 0: there is none
    std::uint64_t at = 0;
    std::vector<std::byte> record;  ///< to be sent behind it
    Waiting waiting;
  };
  /// Stands in a stream behind a part of a copy to host memory: an arena block that the worker completes.
  struct Mark {
    unsigned index = 0;      ///< in the room for marks
    std::uint64_t copy = 0;  ///< the part's number (HostMemory::before_copy_to)
  };
  /// A point in a stream that an event stands for.
  struct Point {
    std::uint64_t stream = 0;
    std::uint64_t order = 0;
    std::uint16_t context = 0;
  };

  // Records.
  std::uint64_t bytes_out() const;  ///< sent so far, blocks and records
  bool take_records();
  bool may_send(std::uint16_t call);
  void send(std::span<std::byte> record);
  void forward(std::span<std::byte> record, Waiting& waiting);
  bool carry_spans(std::span<std::byte> record, Waiting& waiting);
  bool carry_region(std::span<std::byte> record, Waiting& waiting);
  void push(std::span<const std::byte> record);
  void keep_memory_equal(std::span<const std::byte> record, Waiting& waiting);
  void refuse(const RecordHeader& header, std::int32_t result);
  void tell_of_full_slot(std::uint64_t wanted);
  UniqueFd take_fd(std::uint64_t token);
  void count(std::span<const std::byte> record);
  void kick();

  // Large copies, in parts.
  bool begin_parts(std::span<const std::byte> record);
  bool send_part();
  bool may_mark();
  void send_mark(std::uint64_t copy, std::uint64_t from);
  ArenaBlock* mark_block(unsigned index) const;
  bool take_marks();

  // Large images, in parts.
  void begin_image(std::span<std::byte> record, const Waiting& waiting, const ImagePlaces& places);
  bool send_image_part();

  // Answers.
  bool take_replies();
  void answer(const Waiting& waiting);
  void learned(const Waiting& waiting, std::int32_t result);
  bool take_blocks();
  bool take_upcalls();
  bool forward_text();
  void mirror_words();

  // Scheduling and ends.
  void mirror_use();
  bool busy();
  bool device_busy();
  void rest(std::uint64_t idle_ns);
  void call_broker() const;
  static std::string_view find_name(std::uint16_t call);
  bool look_around(LinkEnd& end);

  LinkParts parts_;
  RingConsumer ring_;
  RemoteRing remote_ring_;
  CopyCrew crew_;
  HostMemory memory_;
  std::vector<std::byte> buffer_;
  bool corrupt_ = false;
  std::size_t held_ = 0;  ///< bytes of a record in buffer_ that may not be sent yet
  std::vector<Waiting> waiting_;
  std::vector<Block> blocks_;
  Copy copy_;
  Image image_;
  std::array<bool, 2> image_parts_used_{};
  unsigned image_next_part_ = 0;
  std::vector<Mark> marks_;
  std::optional<std::uint64_t> marks_room_;  ///< of host memory; while there are marks
  std::uint64_t free_marks_ = ~std::uint64_t{0};
  std::vector<std::pair<std::uint64_t, UniqueFd>> fds_;
  std::unordered_map<std::uint64_t, Point> events_;
  std::uint64_t order_ = 0;
  std::uint64_t upcalls_begun_ = 0;
  std::uint64_t upcalls_ended_ = 0;
  bool host_functions_ = false;
  bool flags_in_memory_ = false;  ///< streams wait for or write words of host memory
  unsigned captures_ = 0;
  std::uint32_t async_error_ = 0;
  std::uint64_t text_read_ = 0;
  std::uint64_t pending_spin_ns_;
  SpinTime idle_spin_;  // while nothing may come from the host
  std::uint64_t asleep_since_ = 0;
  bool contended_ = false;  ///< as the host was told
  std::uint64_t looked_around_ns_ = 0;
  std::uint64_t compared_ns_ = 0;
  std::string host_problem_;
  bool told_of_full_slot_ = false;
};

}  // namespace vgpu::stub_guest
