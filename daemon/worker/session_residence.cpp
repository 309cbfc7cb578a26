// Memory that can be moved out: when the session may take more, when its memory leaves the device and comes
// back. All moves are the dispatcher's, between two records, when nothing of the client's is under way.
#include <algorithm>

#include "daemon/worker/session.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint64_t wait_ns = 10'000'000;
constexpr std::uint64_t look_ns = 100'000;
// After so long without an answer the device is tried again: another program may have had its memory.
constexpr std::uint64_t try_again_ns = 200'000'000;

/// Whether a record can be run while the client's memory is not on the device: it ends, frees or only asks.
bool runs_without_memory(std::uint16_t call) {
  switch (static_cast<CallId>(call)) {
    case CallId::cuMemGetInfo_v2:
    case CallId::cuMemFree_v2:
    case CallId::cuCtxSynchronize:
    case CallId::cuStreamSynchronize:
    case CallId::cuStreamQuery:
    case CallId::cuStreamCreate:
    case CallId::cuStreamDestroy_v2:
    case CallId::cuEventCreate:
    case CallId::cuEventQuery:
    case CallId::cuEventSynchronize:
    case CallId::cuEventElapsedTime_v2:
    case CallId::cuEventDestroy_v2:
    case CallId::cuModuleUnload:
    case CallId::cuLibraryUnload:
    case CallId::cuGraphDestroy:
    case CallId::cuGraphExecDestroy:
    case CallId::cuDevicePrimaryCtxReset_v2:
    case CallId::host_map:
    case CallId::host_unmap:
    case CallId::client_refused:
    case CallId::image_part:
      return true;
    default:
      return false;
  }
}

void pause() {
  static const std::atomic<std::uint32_t> never{0};
  futex_wait(never, 0, look_ns);
}

}  // namespace

void Session::begin_residence() {
  if (accounting_.page().memory_movable.load() == 0) return;
  if (!MovableMemory::supported(driver_, device())) {
    // As a client whose memory cannot be moved: it counts, and asks nobody.
    accounting_.page().memory_movable.store(0);
    return;
  }
  residence_ = std::make_unique<Residence>(
      driver_, device(), parts_.context, accounting_.page(), [this] { accounting_.wake_broker(); },
      [this] { RingConsumer::wake(channel_); });
  accounting_.ask_for_room([this](std::uint64_t bytes) { return take_room(bytes, true, false); },
                           [this](std::uint64_t bytes) { residence_->grant.give_up(bytes, true); });
}

bool Session::quiesce(std::uint64_t patience_ns) {
  if (captures_ != 0 || residence_->grant.all_fixed() || errors_.sticky()) return false;
  settle_soon();
  fence_busy_streams();
  const std::uint64_t until = now_ns() + patience_ns;
  for (;;) {
    completions_.poll();
    if (pending_frees_.load() == 0 && held_.load() == 0 && blocking_.idle() && !ledger_.busy()) return true;
    if (now_ns() > until || !peers_alive()) return false;
    pause();
  }
}

void Session::obey_order() {
  if (!residence_) return;
  MemoryGrant& grant = residence_->grant;
  const std::uint64_t order = grant.order();
  if (order == 0) return;
  if (residence_->memory.out() && residence_->memory.bytes_out() == residence_->memory.bytes()) {
    return grant.obey(order);
  }
  // Its work may wait for what the client has yet to send: then the order waits, for longer each time.
  if (!quiesce(residence_->patience_ns)) {
    residence_->patience_ns = std::min(2 * residence_->patience_ns, Residence::longest_patience_ns);
    return grant.excuse(order);
  }
  residence_->patience_ns = Residence::first_patience_ns;
  GatePage& page = accounting_.page();
  const std::uint64_t began = now_ns();
  std::uint64_t bytes = 0;
  driver_.cuCtxSetCurrent(parts_.context);
  // What has left the device is somebody else's at once.
  const CUresult result = residence_->memory.move_out([&](std::uint64_t part) {
    bytes += part;
    grant.moved_out(part);
  });
  driver_.cuCtxSetCurrent(contexts_.current());
  if (result != CUDA_SUCCESS) return grant.excuse(order);
  const std::uint64_t took = now_ns() - began;
  page.moves_out.fetch_add(1, std::memory_order_relaxed);
  page.bytes_moved_out.fetch_add(bytes, std::memory_order_relaxed);
  page.move_out_ns.fetch_add(took, std::memory_order_relaxed);
  page.last_move_out_ns.store(took, std::memory_order_relaxed);
  ledger_.rest();
  grant.obey(order);
}

bool Session::await_room(std::uint64_t more, bool fixed, bool short_of, std::uint64_t enough) {
  MemoryGrant& grant = residence_->grant;
  const std::uint64_t began = now_ns();
  grant.ask(grant.claimed() + residence_->memory.bytes_out() + more, grant.fixed() + (fixed ? more : 0),
            short_of);
  bool granted = false;
  while (peers_alive()) {
    const std::uint32_t turn = grant.turn();
    const MemoryGrant::Answer answer = grant.answer();
    granted = answer == MemoryGrant::Answer::granted;
    if (answer != MemoryGrant::Answer::none) break;
    // A part of it may have come.
    if (enough != 0 && !short_of && grant.covers(enough)) {
      accounting_.page().memory_wait_ns.fetch_add(now_ns() - began, std::memory_order_relaxed);
      return true;
    }
    // What it waits for may be what another client has been told to give, and the other way round.
    obey_order();
    if (captures_ == 0) {
      settle_soon();
      fence_busy_streams();
    }
    completions_.poll();
    completions_.hand_off();
    ledger_.rest();
    grant.wait(turn, wait_ns);
    if (short_of && now_ns() - began > try_again_ns) {
      granted = true;
      break;
    }
  }
  grant.withdraw();
  accounting_.page().memory_wait_ns.fetch_add(now_ns() - began, std::memory_order_relaxed);
  return granted;
}

bool Session::take_room(std::uint64_t bytes, bool fixed, bool short_of) {
  MemoryGrant& grant = residence_->grant;
  // Memory that cannot be moved must leave room for all others, whatever was granted.
  for (bool asks = short_of || (fixed && !grant.may_fix(bytes));; asks = false) {
    if (!asks && grant.claim(bytes, fixed)) return true;
    // Only the dispatcher can wait: orders are its to obey.
    if (std::this_thread::get_id() != dispatcher_ || !await_room(bytes, fixed, short_of)) return false;
    short_of = false;
    // It may have been moved out while it waited.
    if (residence_->memory.out() && bring_back() != CUDA_SUCCESS) return false;
  }
}

CUresult Session::bring_back() {
  MemoryGrant& grant = residence_->grant;
  MovableMemory& memory = residence_->memory;
  GatePage& page = accounting_.page();
  std::uint64_t took = 0;
  bool short_of = false;
  while (memory.out()) {
    const std::uint64_t bytes = memory.next_in();
    if (short_of || !grant.claim(bytes, false)) {
      if (!await_room(0, false, short_of, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
      short_of = false;
      continue;
    }
    const std::uint64_t began = now_ns();
    driver_.cuCtxSetCurrent(parts_.context);
    const CUresult result = memory.move_in(grant.keep());
    driver_.cuCtxSetCurrent(contexts_.current());
    took += now_ns() - began;
    if (result == CUDA_SUCCESS) {
      page.bytes_moved_in.fetch_add(bytes, std::memory_order_relaxed);
      grant.came_back(memory.bytes_out());
      continue;
    }
    grant.give_up(bytes, false);
    if (result != CUDA_ERROR_OUT_OF_MEMORY) {
      // Its memory cannot be had back: as after a fault, nothing of the client's can be right any more.
      errors_.note(CUDA_ERROR_LAUNCH_FAILED);
      return CUDA_ERROR_LAUNCH_FAILED;
    }
    short_of = true;
  }
  grant.withdraw();
  page.moves_in.fetch_add(1, std::memory_order_relaxed);
  page.move_in_ns.fetch_add(took, std::memory_order_relaxed);
  page.last_move_in_ns.store(took, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult Session::need_memory(std::uint16_t call) {
  if (!residence_ || !residence_->memory.out() || runs_without_memory(call)) return CUDA_SUCCESS;
  return bring_back();
}

void Session::stay_on_device() {
  if (residence_) residence_->grant.fix_all();
}

CUresult Session::allocate_movable(std::uint64_t bytes, CUdeviceptr& pointer) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (!accounting_.charge_quota(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  for (bool short_of = false;; short_of = true) {
    const std::uint64_t growth = residence_->memory.growth(bytes);
    if (!take_room(growth, false, short_of)) break;
    result = residence_->memory.allocate(bytes, pointer);
    if (result == CUDA_SUCCESS) {
      allocations_.add(pointer, {bytes, &accounting_, 0});
      accounting_.page().allocations.fetch_add(1, std::memory_order_relaxed);
      return CUDA_SUCCESS;
    }
    residence_->grant.give_up(growth, false);
    if (result != CUDA_ERROR_OUT_OF_MEMORY) break;
  }
  accounting_.refund_quota(bytes);
  return result;
}

CUresult Session::free_device_memory(CUdeviceptr pointer) {
  if (!residence_ || !residence_->memory.owns(pointer)) {
    const CUresult result = driver_.cuMemFree_v2(pointer);
    if (result == CUDA_SUCCESS) allocations_.remove(pointer);
    return result;
  }
  std::uint64_t less = 0;
  const std::uint64_t out_before = residence_->memory.bytes_out();
  const CUresult result = residence_->memory.release(pointer, less);
  if (result != CUDA_SUCCESS) return result;
  const std::uint64_t out_less = out_before - residence_->memory.bytes_out();
  if (out_less != 0) residence_->grant.shrank(residence_->memory.bytes_out());
  if (less != out_less) residence_->grant.give_up(less - out_less, false);
  allocations_.remove(pointer, true);
  return CUDA_SUCCESS;
}

std::uint64_t Session::room_left() const {
  const MemoryGrant& grant = residence_->grant;
  const std::uint64_t held = grant.claimed() + residence_->memory.bytes_out();
  const std::uint64_t most = grant.most();
  return most > held ? most - held : 0;
}

}  // namespace vgpu::worker
