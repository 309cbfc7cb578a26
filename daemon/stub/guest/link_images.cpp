// LinkSession: images too large for the client's arena, which come in memfds. They go over in parts of any
// number, so that a slot need not hold one; the record that names the image follows them.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "daemon/stub/guest/image_places.hpp"
#include "daemon/stub/guest/link_session.hpp"
#include "protocol/arena.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/sealed_memory.hpp"

namespace vgpu::stub_guest {
namespace {

constexpr std::uint64_t kUnit = 4096;
constexpr std::uint64_t kLeastPart = 2 * kUnit;
constexpr std::uint64_t kMostPart = 512 << 10;
constexpr std::uint64_t kShare = 32;  // of what the client's arena leaves of the slot's

}  // namespace

std::uint64_t LinkSession::image_part_bytes(std::uint64_t arena_bytes, std::uint64_t local_bytes) {
  const std::uint64_t left = arena_bytes - std::min(arena_bytes, local_bytes);
  return std::clamp(left / kShare / kUnit * kUnit, kLeastPart, kMostPart);
}

// Takes the image over, and the record that is to follow it, unless it refuses them.
void LinkSession::begin_image(std::span<std::byte> bytes, const Waiting& waiting, const ImagePlaces& places) {
  RecordHeader header;
  std::uint64_t token = 0;
  ArenaSpan span;
  std::memcpy(&header, bytes.data(), sizeof header);
  std::memcpy(&token, bytes.data() + places.token, sizeof token);
  std::memcpy(&span, bytes.data() + places.image, sizeof span);
  UniqueFd fd = take_fd(token);
  if (span.bytes == 0 || sealed_bytes(fd.get()).value_or(0) < span.bytes) {
    refuse(header, CUDA_ERROR_INVALID_VALUE);
    return;
  }
  const auto source = static_cast<std::uint32_t>(ImageSource::parts);
  std::memcpy(bytes.data() + places.source, &source, sizeof source);
  image_.fd = std::move(fd);
  image_.bytes = span.bytes;
  image_.at = 0;
  image_.record.assign(bytes.begin(), bytes.end());
  image_.waiting = waiting;
}

// Sends the next part of image_, or behind the last one its record; false when it has to wait.
bool LinkSession::send_image_part() {
  if (!remote_ring_.has_room()) return false;
  if (image_.at == image_.bytes) {
    std::vector<std::byte> record = std::move(image_.record);
    Waiting waiting = image_.waiting;
    image_ = {};
    forward(record, waiting);
    if (remote_ring_.wants_doorbell()) kick();
    return true;
  }
  bool& used = image_parts_used_[image_next_part_];
  const std::uint64_t room = image_part_bytes(parts_.remote.arena().size(), parts_.local.arena().size());
  const std::uint64_t offset = parts_.local.arena().size() + image_next_part_ * room;
  const std::uint64_t size = std::min(room - sizeof(ArenaBlock), image_.bytes - image_.at);
  ArenaBlock* const block = block_at(parts_.remote.arena(), offset, size);
  RecordHeader header;
  std::memcpy(&header, image_.record.data(), sizeof header);
  if (block == nullptr) {
    image_ = {};
    refuse(header, CUDA_ERROR_OUT_OF_MEMORY);
    return true;
  }
  if (used && !block_done(*block)) return false;
  for (std::uint64_t at = 0; at < size;) {
    const ssize_t got =
        pread(image_.fd.get(), Arena::data(block) + at, size - at, static_cast<off_t>(image_.at + at));
    if (got <= 0) {
      image_ = {};
      refuse(header, CUDA_ERROR_OPERATING_SYSTEM);
      return true;
    }
    at += static_cast<std::uint64_t>(got);
  }
  used = true;
  begin_block(*block);
  record::image_part part;
  part.header.context = header.context;
  part.header.size = sizeof part;
  part.offset = image_.at;
  part.block = {offset, size};
  push(std::as_bytes(std::span(&part, 1)));
  count_alone(parts_.page.link_bytes_out, size);
  if (remote_ring_.wants_doorbell()) kick();
  image_.at += size;
  image_next_part_ ^= 1U;
  return true;
}

}  // namespace vgpu::stub_guest
