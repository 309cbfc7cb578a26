// Device memory, pools, virtual memory management and shared host memory; the client's quota.
#include <algorithm>

#include "daemon/worker/session.hpp"
#include "protocol/address_space.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/reply_slots.hpp"

namespace vgpu::worker {
namespace {
template <class Reply>
std::span<const std::byte> bytes_of(const Reply& reply) {
  return std::as_bytes(std::span(&reply, 1));
}
constexpr std::size_t max_waiting_fds = 64;
}  // namespace

CUresult Session::allocate(const std::function<CUresult(CUdeviceptr&)>& call, std::uint64_t bytes,
                           CUdeviceptr& pointer, const Allocation& of,
                           const std::optional<GraphObjects::Name>& graph) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (!of.accounting->charge(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = call(pointer);
  if (result != CUDA_SUCCESS) {
    of.accounting->refund(bytes);
    return result;
  }
  const Allocation made{bytes, of.accounting, of.context};
  if (graph) {
    graphs_.add_memory(*graph, pointer, made);
  } else {
    allocations_.add(pointer, made);
  }
  of.accounting->page().allocations.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemGetInfo_v2& record, reply::cuMemGetInfo_v2& reply, Tail) {
  if (driver_.cuMemGetInfo_v2 == nullptr) return unsupported(record.header.call);
  const auto ask = [this, &accounting = here(),
                    context = contexts_.current()](reply::cuMemGetInfo_v2& answer) {
    std::size_t free = 0;
    std::size_t total = 0;
    const CUresult result =
        contexts_.in_context(context, [&] { return driver_.cuMemGetInfo_v2(&free, &total); });
    const std::uint64_t quota = accounting.page().memory_quota.load(std::memory_order_relaxed);
    const std::uint64_t used = accounting.quota_used();
    // What lies on the device of others' can be moved out.
    if (residence_) free = room_left();
    if (quota != 0) {
      answer.free = std::min<std::uint64_t>(quota > used ? quota - used : 0, free);
      answer.total = std::min<std::uint64_t>(quota, total);
    } else {
      answer.free = free;
      answer.total = total;
    }
    return result;
  };
  if (pending_frees_.load() == 0) return ask(reply);
  // Frees that wait for running work would natively have happened by now.
  const PendingReply pending = defer();
  when_all_done_apart(
      [this, pending, ask](CUresult) {
        reply::cuMemGetInfo_v2 late;
        const CUresult result = ask(late);
        answer(pending, result, bytes_of(late));
      },
      {nullptr, &here()});
  return deferred;
}

CUresult Session::handle(const record::cuMemAlloc_v2& record, reply::cuMemAlloc_v2& reply, Tail) {
  if (driver_.cuMemAlloc_v2 == nullptr) return unsupported(record.header.call);
  if (movable_here()) {
    // What is being freed is not to be made room for at others' expense.
    if (pending_frees_.load() != 0 && !residence_->grant.covers(residence_->memory.growth(record.bytes))) {
      const PendingReply pending = defer();
      when_all_done_apart([this, pending, bytes = record.bytes](CUresult) {
        later_.post([this, pending, bytes] {
          reply::cuMemAlloc_v2 late;
          CUdeviceptr at = 0;
          CUresult result = need_memory(static_cast<std::uint16_t>(CallId::cuMemAlloc_v2));
          if (result == CUDA_SUCCESS) result = allocate_movable(bytes, at);
          late.dptr = at;
          answer(pending, result, bytes_of(late));
        });
      });
      return deferred;
    }
    CUdeviceptr at = 0;
    const CUresult result = allocate_movable(record.bytes, at);
    reply.dptr = at;
    return result;
  }
  const auto call = [this, bytes = record.bytes](CUdeviceptr& pointer) {
    return driver_.cuMemAlloc_v2(&pointer, bytes);
  };
  const Allocation of = allocation_here();
  CUdeviceptr pointer = 0;
  const CUresult result = allocate(call, record.bytes, pointer, of);
  reply.dptr = pointer;
  if (result != CUDA_ERROR_OUT_OF_MEMORY || pending_frees_.load() == 0) return result;
  // Memory that was freed behind running work comes back when the work has ended.
  const PendingReply pending = defer();
  when_all_done_apart(
      [this, pending, call, of, bytes = record.bytes, context = contexts_.current()](CUresult) {
        reply::cuMemAlloc_v2 late;
        CUdeviceptr at = 0;
        const CUresult second = contexts_.in_context(context, [&] { return allocate(call, bytes, at, of); });
        late.dptr = at;
        answer(pending, second, bytes_of(late));
      },
      {nullptr, &here()});
  return deferred;
}

CUresult Session::handle(const record::cuMemAllocPitch_v2& record, reply::cuMemAllocPitch_v2& reply, Tail) {
  if (driver_.cuMemAllocPitch_v2 == nullptr) return unsupported(record.header.call);
  // The pitch is the driver's choice; rows are at most 512 bytes longer on all devices known.
  __extension__ using Wide = unsigned __int128;
  const Wide bound = (static_cast<Wide>(record.width) + 512) * record.height;
  if (bound > UINT64_MAX / 2) return CUDA_ERROR_OUT_OF_MEMORY;
  std::size_t pitch = 0;
  CUdeviceptr pointer = 0;
  if (movable_here()) {
    if (record.element_bytes != 4 && record.element_bytes != 8 && record.element_bytes != 16) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    pitch = (record.width + 511) / 512 * 512;
    const CUresult result = allocate_movable(pitch * record.height, pointer);
    reply.dptr = pointer;
    reply.pitch = pitch;
    return result;
  }
  const CUresult result = allocate(
      [&](CUdeviceptr& at) {
        return driver_.cuMemAllocPitch_v2(&at, &pitch, record.width, record.height, record.element_bytes);
      },
      static_cast<std::uint64_t>(bound), pointer, allocation_here());
  if (result == CUDA_SUCCESS) {
    // Only what is really there may be copied to.
    const std::uint64_t bytes =
        std::min<std::uint64_t>(pitch * record.height, static_cast<std::uint64_t>(bound));
    allocations_.add(pointer, {bytes, &here(), contexts_.index()});
    here().refund(static_cast<std::uint64_t>(bound) - bytes);
  }
  reply.dptr = pointer;
  reply.pitch = pitch;
  return result;
}

CUresult Session::handle(const record::cuMemFree_v2& record, reply::cuMemFree_v2&, Tail) {
  if (driver_.cuMemFree_v2 == nullptr) return unsupported(record.header.call);
  if (record.dptr == 0) return CUDA_SUCCESS;
  if (!allocations_.begins(record.dptr)) return CUDA_ERROR_INVALID_VALUE;
  // A client waits for it where the graph's next launch would find the memory in use.
  free_after_work(record.dptr, record.header.reply != 0 ? defer() : PendingReply{});
  return CUDA_SUCCESS;
}

void Session::free_after_work(CUdeviceptr pointer, const PendingReply& pending) {
  // The driver's own free waits for the device, which the dispatcher must not.
  pending_frees_.fetch_add(1);
  // Work of another device need not end for it, and may wait for what the client has yet to send to this one.
  Scope scope{};
  CUcontext context = contexts_.current();
  const auto found = allocations_.find(pointer);
  if (const OwnDevice* const device = found ? contexts_.device_at(found->context) : nullptr) {
    scope.device = device->accounting;
    context = device->context;
  }
  when_all_done_apart(
      [this, pointer, pending, context](CUresult) {
        const CUresult result = contexts_.in_context(context, [&] { return free_device_memory(pointer); });
        pending_frees_.fetch_sub(1);
        if (pending.reference != 0) {
          answer(pending, result, {});
        } else {
          errors_.note_unwaited(result);
        }
      },
      scope);
}

UniqueFd Session::take_host_fd(std::uint64_t token, std::uint64_t bytes) {
  // The client sent the descriptor before the record, so it is here or in the socket by now.
  while (parts_.direct_socket >= 0 && host_fds_.size() < max_waiting_fds) {
    auto message = receive_message(parts_.direct_socket, 0);
    if (!message || message->none || message->closed) break;
    const auto* const region = message->as<HostRegion>();
    if (region == nullptr || message->fds.size() != 1 || region->bytes == 0) continue;
    host_fds_.emplace_back(region->address, std::move(message->fds.front()));
  }
  const auto found = std::find_if(host_fds_.begin(), host_fds_.end(),
                                  [token](const auto& entry) { return entry.first == token; });
  if (found == host_fds_.end() || bytes == 0) return UniqueFd();
  UniqueFd fd = std::move(found->second);
  host_fds_.erase(found);
  return fd;
}

CUresult Session::handle(const record::host_map& record, reply::host_map& reply, Tail) {
  if (record.memory.bytes != 0) {
    const ArenaSpan& span = record.memory;
    const std::uint64_t arena = channel_.arena().size();
    if (parts_.memory_fd < 0 || span.bytes != record.bytes || span.offset > arena ||
        arena - span.offset < span.bytes) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    CUdeviceptr pointer = 0;
    const CUresult result = parts_.regions.map_slot(parts_.memory_fd, parts_.arena_offset + span.offset,
                                                    record.address, record.bytes, pointer);
    reply.dptr = pointer;
    return result;
  }
  const UniqueFd fd = take_host_fd(record.address, record.bytes);
  if (!fd) return CUDA_ERROR_INVALID_VALUE;
  CUdeviceptr pointer = 0;
  const CUresult result = parts_.regions.map(fd.get(), record.address, record.bytes, pointer);
  reply.dptr = pointer;
  return result;
}

CUresult Session::handle(const record::host_unmap& record, reply::host_unmap&, Tail) {
  const PendingReply pending = defer();
  when_all_done_apart([this, pending, address = record.address](CUresult) {
    answer(pending, parts_.regions.unmap(address));
  });
  return deferred;
}

CUresult Session::handle(const record::cuMemAllocAsync& record, reply::cuMemAllocAsync& reply, Tail) {
  if (driver_.cuMemAllocAsync == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  CUdeviceptr pointer = 0;
  const CUresult result =
      allocate([&](CUdeviceptr& at) { return driver_.cuMemAllocAsync(&at, record.bytes, stream); },
               record.bytes, pointer, allocation_on(contexts_.device_of(stream)), captured_into(stream));
  if (result == CUDA_SUCCESS) note_stream_work(stream, 0);
  reply.dptr = pointer;
  return result;
}

CUresult Session::handle(const record::cuMemAllocFromPoolAsync& record, reply::cuMemAllocFromPoolAsync& reply,
                         Tail) {
  if (driver_.cuMemAllocFromPoolAsync == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  CUmemoryPool pool = nullptr;
  if (!resolve(record.stream, stream) || !resolve(record.pool, pool)) return CUDA_ERROR_INVALID_HANDLE;
  const auto known = pools_.find(record.pool);
  CUdeviceptr pointer = 0;
  const CUresult result = allocate(
      [&](CUdeviceptr& at) { return driver_.cuMemAllocFromPoolAsync(&at, record.bytes, pool, stream); },
      record.bytes, pointer, allocation_on(known != pools_.end() ? *known->second : contexts_.here()),
      captured_into(stream));
  if (result == CUDA_SUCCESS) note_stream_work(stream, 0);
  reply.dptr = pointer;
  return result;
}

CUresult Session::handle(const record::cuMemFreeAsync& record, reply::cuMemFreeAsync&, Tail) {
  if (driver_.cuMemFreeAsync == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (residence_ && residence_->memory.owns(record.dptr) && !capturing(stream)) {
    free_after_work(record.dptr, PendingReply{});
    return CUDA_SUCCESS;
  }
  const std::optional<GraphObjects::Name> graph = captured_into(stream);
  const CUresult result = driver_.cuMemFreeAsync(record.dptr, stream);
  if (result != CUDA_SUCCESS) return result;
  if (graph) {
    graphs_.add_free(*graph, record.dptr);
  } else {
    allocations_.remove(record.dptr);
  }
  note_stream_work(stream, 0);
  return result;
}

CUresult Session::handle(const record::cuMemPoolCreate& record, reply::cuMemPoolCreate&, Tail) {
  if (driver_.cuMemPoolCreate == nullptr) return unsupported(record.header.call);
  if (!can_bind(HandleKind::mem_pool, record.pool) ||
      Handle::index(record.pool) < contexts_.devices().size()) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUmemPoolProps props = record.props;
  OwnDevice* const owner = props.location.type == CU_MEM_LOCATION_TYPE_DEVICE
                               ? contexts_.device(props.location.id)
                               : &contexts_.here();
  if (owner == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  to_driver(props);
  props.win32SecurityAttributes = nullptr;
  CUmemoryPool pool = nullptr;
  const CUresult result = driver_.cuMemPoolCreate(&pool, &props);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::mem_pool, record.pool, pool);
  pools_[record.pool] = owner;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemPoolDestroy& record, reply::cuMemPoolDestroy&, Tail) {
  if (driver_.cuMemPoolDestroy == nullptr) return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  // The first are the devices' own pools.
  if (!resolve(record.pool, pool) || Handle::index(record.pool) < contexts_.devices().size())
    return CUDA_ERROR_INVALID_VALUE;
  handles_.forget(HandleKind::mem_pool, record.pool);
  pools_.erase(record.pool);
  told_thresholds_.erase(record.pool);
  shared_.withdraw(record.pool);
  return driver_.cuMemPoolDestroy(pool);
}

CUresult Session::handle(const record::cuMemPoolSetAttribute& record, reply::cuMemPoolSetAttribute&, Tail) {
  if (driver_.cuMemPoolSetAttribute == nullptr) return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  if (!resolve(record.pool, pool)) return CUDA_ERROR_INVALID_HANDLE;
  // What a pool keeps is charged to nobody: under a quota it keeps nothing, and the threshold is only told.
  if (record.attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD &&
      accounting_.page().memory_quota.load(std::memory_order_relaxed) != 0) {
    told_thresholds_[record.pool] = record.value;
    return CUDA_SUCCESS;
  }
  // All attributes are int or cuuint64_t; little-endian, so one buffer serves both.
  cuuint64_t value = record.value;
  return driver_.cuMemPoolSetAttribute(pool, static_cast<CUmemPool_attribute>(record.attribute), &value);
}

CUresult Session::handle(const record::cuMemPoolGetAttribute& record, reply::cuMemPoolGetAttribute& reply,
                         Tail) {
  if (driver_.cuMemPoolGetAttribute == nullptr) return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  if (!resolve(record.pool, pool)) return CUDA_ERROR_INVALID_HANDLE;
  const auto told = told_thresholds_.find(record.pool);
  if (record.attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD && told != told_thresholds_.end()) {
    reply.value = told->second;
    return CUDA_SUCCESS;
  }
  cuuint64_t value = 0;
  const CUresult result =
      driver_.cuMemPoolGetAttribute(pool, static_cast<CUmemPool_attribute>(record.attribute), &value);
  reply.value = value;
  return result;
}

CUresult Session::handle(const record::cuMemPoolSetAccess& record, reply::cuMemPoolSetAccess&, Tail) {
  if (driver_.cuMemPoolSetAccess == nullptr) return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  if (!resolve(record.pool, pool)) return CUDA_ERROR_INVALID_HANDLE;
  CUmemAccessDesc access = record.access;
  to_driver(access);
  return driver_.cuMemPoolSetAccess(pool, &access, 1);
}

CUresult Session::handle(const record::cuMemPoolGetAccess& record, reply::cuMemPoolGetAccess& reply, Tail) {
  if (driver_.cuMemPoolGetAccess == nullptr) return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  if (!resolve(record.pool, pool)) return CUDA_ERROR_INVALID_HANDLE;
  CUmemLocation location = record.location;
  to_driver(location);
  CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
  const CUresult result = driver_.cuMemPoolGetAccess(&flags, pool, &location);
  reply.flags = static_cast<std::int32_t>(flags);
  return result;
}

CUresult Session::handle(const record::cuMemCreate& record, reply::cuMemCreate&, Tail) {
  if (driver_.cuMemCreate == nullptr) return unsupported(record.header.call);
  if (!can_bind(HandleKind::mem_allocation, record.handle) || vmm_.contains(record.handle)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  constexpr unsigned exportable = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  if ((static_cast<unsigned>(record.prop.requestedHandleTypes) & ~exportable) != 0)
    return unsupported(record.header.call);
  CUmemAllocationProp prop = record.prop;
  const OwnDevice* const owner = prop.location.type == CU_MEM_LOCATION_TYPE_DEVICE
                                     ? contexts_.device(prop.location.id)
                                     : &contexts_.here();
  if (owner == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  Accounting& accounting = *owner->accounting;
  if (!accounting.charge(record.bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  to_driver(prop);
  prop.win32HandleMetaData = nullptr;
  CUmemGenericAllocationHandle made = 0;
  const CUresult result = driver_.cuMemCreate(&made, record.bytes, &prop, record.flags);
  if (result != CUDA_SUCCESS) {
    accounting.refund(record.bytes);
    return result;
  }
  bind(HandleKind::mem_allocation, record.handle, made);
  vmm_[record.handle] = std::make_shared<Charge>(accounting, record.bytes);
  accounting.page().allocations.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemRelease& record, reply::cuMemRelease&, Tail) {
  if (driver_.cuMemRelease == nullptr) return unsupported(record.header.call);
  CUmemGenericAllocationHandle allocation = 0;
  if (!resolve(record.handle, allocation)) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = driver_.cuMemRelease(allocation);
  if (result != CUDA_SUCCESS) return result;
  handles_.forget(HandleKind::mem_allocation, record.handle);
  vmm_.erase(record.handle);
  shared_.withdraw_released();
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemRetainAllocationHandle& record,
                         reply::cuMemRetainAllocationHandle&, Tail) {
  if (driver_.cuMemRetainAllocationHandle == nullptr) return unsupported(record.header.call);
  if (!can_bind(HandleKind::mem_allocation, record.handle) || vmm_.contains(record.handle)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  // Only of mappings of the client's: the nearest one at or below the address.
  auto after = mapped_.upper_bound(record.address);
  if (after == mapped_.begin()) return CUDA_ERROR_INVALID_VALUE;
  --after;
  if (!device_range(record.address, 1)) return CUDA_ERROR_INVALID_VALUE;
  CUmemGenericAllocationHandle made = 0;
  const CUresult result = driver_.cuMemRetainAllocationHandle(&made, reinterpret_cast<void*>(record.address));
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::mem_allocation, record.handle, made);
  vmm_[record.handle] = after->second;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemMap& record, reply::cuMemMap&, Tail) {
  if (driver_.cuMemMap == nullptr) return unsupported(record.header.call);
  CUmemGenericAllocationHandle allocation = 0;
  if (!resolve(record.handle, allocation)) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = driver_.cuMemMap(record.ptr, record.bytes, record.offset, allocation, record.flags);
  // A mapping keeps the memory when its handle has been released.
  if (const auto found = vmm_.find(record.handle); result == CUDA_SUCCESS && found != vmm_.end()) {
    mapped_[record.ptr] = found->second;
  }
  return result;
}

CUresult Session::handle(const record::cuMemUnmap& record, reply::cuMemUnmap&, Tail) {
  if (driver_.cuMemUnmap == nullptr) return unsupported(record.header.call);
  const CUresult result = driver_.cuMemUnmap(record.ptr, record.size);
  if (result != CUDA_SUCCESS) return result;
  auto it = mapped_.lower_bound(record.ptr);
  while (it != mapped_.end() && it->first - record.ptr < record.size) it = mapped_.erase(it);
  shared_.withdraw_released();
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemSetAccess& record, reply::cuMemSetAccess&, Tail) {
  if (driver_.cuMemSetAccess == nullptr) return unsupported(record.header.call);
  CUmemAccessDesc access = record.access;
  to_driver(access);
  return driver_.cuMemSetAccess(record.ptr, record.bytes, &access, 1);
}

CUresult Session::handle(const record::cuPointerGetAttribute& record, reply::cuPointerGetAttribute& reply,
                         Tail) {
  if (driver_.cuPointerGetAttribute == nullptr) return unsupported(record.header.call);
  // Attributes of at most 8 bytes only, and none that reveals or exports the worker's own objects.
  switch (record.attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
      break;
    default:
      return unsupported(record.header.call);
  }
  std::uint64_t value = 0;
  const CUresult result =
      driver_.cuPointerGetAttribute(&value, static_cast<CUpointer_attribute>(record.attribute), record.ptr);
  reply.value = value;
  return result;
}

}  // namespace vgpu::worker
