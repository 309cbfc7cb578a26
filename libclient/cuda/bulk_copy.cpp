#include "libclient/cuda/bulk_copy.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "libclient/cuda/arena_block.hpp"
#include "protocol/copy_crew.hpp"
#include "protocol/futex.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Chunks that one thread has under way at once: enough that neither side waits for the other's wake-up.
constexpr std::size_t kWindow = 4;
// From here on helpers are worth waking.
constexpr std::uint64_t kShared = std::uint64_t{16} << 20;
// One thread copies at 8 to 10 GB/s, a PCIe 5 link moves 55: with four, a copy is about as fast as the
// driver's own. More would take CPUs from the program.
constexpr unsigned kHelpers = 3;

// The process's helpers. They may sleep in it for as long as the process lives: it is never destroyed.
CopyCrew& helpers() {
  static auto* const crew = new CopyCrew(many_cpus() ? kHelpers : 0);
  return *crew;
}

// One copy, worked on by one thread or several: each takes the next chunk that nobody has.
struct Transfer {
  Transfer(const Call& on_call, std::byte* host_side, CUdeviceptr device_side, std::uint64_t length,
           std::uint64_t on_stream)
      : call(on_call),
        connection(call.connection()),
        host(host_side),
        device(device_side),
        bytes(length),
        stream(on_stream) {
    call.prepare(header);
    // The software GPU copies by memcpy: blocks should stay in a core's cache, and be worth their records.
    // A GPU moves larger pieces while a chunk's record, event and completion are dealt with.
    constexpr std::uint64_t kSmallest = 512 << 10;
    constexpr std::uint64_t kLargest = 1 << 20;
    const std::uint64_t wanted =
        connection.devices().front().software != 0
            ? kSmallest
            : std::clamp<std::uint64_t>(bytes / 8 / 4096 * 4096, kSmallest, kLargest);
    chunk = std::min({wanted, connection.largest_block(), bytes});
  }

  // The next chunk's place, `bytes` when there is none or the copy has failed.
  std::uint64_t take() {
    if (result.load(std::memory_order_relaxed) != CUDA_SUCCESS) return bytes;
    if (next.load(std::memory_order_relaxed) >= bytes) return bytes;
    return std::min(next.fetch_add(chunk, std::memory_order_relaxed), bytes);
  }
  std::uint64_t size_at(std::uint64_t at) const { return std::min(chunk, bytes - at); }

  void fail(CUresult error) {
    CUresult none = CUDA_SUCCESS;
    result.compare_exchange_strong(none, error);
  }
  // The worker is gone.
  void gone() {
    const CUresult error = connection.error();
    fail(error != CUDA_SUCCESS ? error : CUDA_ERROR_DEVICE_UNAVAILABLE);
  }

  template <class Record>
  bool post(Record& record, ArenaLease& block, std::uint64_t size) {
    record.header.context = header.context;
    record.stream = stream;
    record.block = block.span(size);
    if (const CUresult error = connection.post(std::as_writable_bytes(std::span(&record, 1)), {},
                                               [this](std::uint64_t position) { call.reserved(position); });
        error != CUDA_SUCCESS) {
      block.discard();
      fail(error);
      return false;
    }
    return true;
  }

  const Call& call;
  Connection& connection;
  std::byte* host;
  CUdeviceptr device;
  std::uint64_t bytes;
  std::uint64_t stream;
  std::uint64_t chunk = 0;
  RecordHeader header{};
  std::atomic<std::uint64_t> next{0};
  std::atomic<CUresult> result{CUDA_SUCCESS};
};

// A thread waits for room in the arena only while it holds none of it: so somebody can always go on.
ArenaLease more_room(Transfer& transfer, bool hold_none) {
  return hold_none ? ArenaLease(transfer.connection, transfer.chunk)
                   : ArenaLease::if_room(transfer.connection, transfer.chunk);
}

void upload_lane(Transfer& transfer) {
  std::array<ArenaLease, kWindow> blocks;
  std::size_t held = 0;
  std::size_t turn = 0;
  for (std::uint64_t at = transfer.take(); at < transfer.bytes; at = transfer.take()) {
    bool fresh = false;
    if (held < kWindow) {
      blocks[held] = more_room(transfer, held == 0);
      if (blocks[held]) {
        turn = held++;
        fresh = true;
      } else if (held == 0) {
        return transfer.gone();
      }
    }
    if (!fresh) {
      turn = (turn + 1) % held;
      // The worker's error for that chunk is reported like any posted call's; here only its end counts.
      static_cast<void>(transfer.connection.wait(blocks[turn].header()));
      if (transfer.connection.error() != CUDA_SUCCESS) return transfer.gone();
      begin_block(blocks[turn].header());
    }
    const std::uint64_t size = transfer.size_at(at);
    std::memcpy(blocks[turn].data(), transfer.host + at, size);
    record::copy_to_device_block record;
    record.dst = transfer.device + at;
    if (!transfer.post(record, blocks[turn], size)) return;
  }
}

void download_lane(Transfer& transfer) {
  struct Chunk {
    ArenaLease block;
    std::uint64_t at = 0;
  };
  std::array<Chunk, kWindow> window;
  std::size_t oldest = 0;
  std::size_t asked = 0;
  for (;;) {
    while (asked < kWindow) {
      Chunk& chunk = window[(oldest + asked) % kWindow];
      // A block that an earlier chunk is done with serves again. Whoever waited for room with such a block in
      // hand could wait for ever, when all threads do.
      for (std::size_t i = asked + 1; i < kWindow && !chunk.block; ++i) {
        std::swap(chunk.block, window[(oldest + i) % kWindow].block);
      }
      const bool fresh = !chunk.block;
      if (fresh) {
        if (transfer.next.load(std::memory_order_relaxed) >= transfer.bytes) break;
        chunk.block = more_room(transfer, asked == 0);
        if (!chunk.block && asked == 0) return transfer.gone();
        if (!chunk.block) break;
      }
      chunk.at = transfer.take();
      if (chunk.at >= transfer.bytes) {
        // Nothing was asked of it.
        chunk.block.discard();
        break;
      }
      if (!fresh) begin_block(chunk.block.header());
      record::copy_from_device_block record;
      record.src = transfer.device + chunk.at;
      if (!transfer.post(record, chunk.block, transfer.size_at(chunk.at))) return;
      ++asked;
    }
    if (asked == 0) return;
    Chunk& chunk = window[oldest];
    if (const CUresult error = transfer.connection.wait(chunk.block.header()); error != CUDA_SUCCESS) {
      transfer.fail(error);
      return;
    }
    std::memcpy(transfer.host + chunk.at, chunk.block.data(), transfer.size_at(chunk.at));
    oldest = (oldest + 1) % kWindow;
    --asked;
  }
}

CUresult run(Transfer& transfer, void (*lane)(Transfer&)) {
  if (transfer.bytes >= kShared) {
    helpers().run([&] { lane(transfer); });
  } else {
    lane(transfer);
  }
  return transfer.result.load(std::memory_order_relaxed);
}

}  // namespace

CUresult upload_chunks(Call& call, CUdeviceptr target, const std::byte* source, std::uint64_t bytes,
                       std::uint64_t stream) {
  // Only read from.
  Transfer transfer(call, const_cast<std::byte*>(source), target, bytes, stream);
  return run(transfer, &upload_lane);
}

CUresult download_chunks(Call& call, std::byte* target, CUdeviceptr source, std::uint64_t bytes,
                         std::uint64_t stream) {
  Transfer transfer(call, target, source, bytes, stream);
  return run(transfer, &download_lane);
}

}  // namespace vgpu::client
