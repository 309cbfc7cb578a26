// Contexts: the primary one and those that a program makes itself.
#include <algorithm>
#include <utility>

#include "daemon/worker/session.hpp"

namespace vgpu::worker {
void Session::forget_foreign_waits(std::uint16_t context) {
  foreign_waits_.forget_context(
      context, [this](std::uint64_t handle) { return handles_.find(HandleKind::event, handle) != nullptr; });
}

CUresult Session::handle(const record::cuCtxCreate_v4& record, reply::cuCtxCreate_v4&, Tail) {
  if (driver_.cuCtxCreate_v4 == nullptr) return unsupported(record.header.call);
  if (const CUresult free = contexts_.may_add(record.index); free != CUDA_SUCCESS) return free;
  CUcontext context = nullptr;
  const CUresult result = driver_.cuCtxCreate_v4(&context, nullptr, record.flags, device());
  if (result != CUDA_SUCCESS) return result;
  contexts_.add(record.index, context);
  // Creation made it current in this thread.
  contexts_.became_current(record.index);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuCtxDestroy_v2& record, reply::cuCtxDestroy_v2&, Tail) {
  if (driver_.cuCtxDestroy_v2 == nullptr) return unsupported(record.header.call);
  const CUcontext context = contexts_.at(record.index);
  if (contexts_.primary(record.index) || context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return end_context(record.index, [this, context] { return driver_.cuCtxDestroy_v2(context); });
}

CUresult Session::end_context(std::uint16_t index, std::function<CUresult()> destroy) {
  const CUcontext context = contexts_.at(index);
  contexts_.remove(index);
  matrices_.forget(context);
  const auto of_context = [index](const auto& entry) { return entry.first.first == index; };
  std::erase_if(limits_, of_context);
  std::erase_if(usual_limits_, of_context);
  shared_.forget_opened(index, nullptr);
  if (contexts_.index() == index) {
    if (const CUresult result = contexts_.switch_to(0); result != CUDA_SUCCESS) return result;
  }
  for (const HandleKind kind :
       {HandleKind::stream, HandleKind::event, HandleKind::module, HandleKind::function}) {
    handles_.forget_if(kind, [index](std::uint64_t, std::uint64_t, std::uint16_t of) { return of == index; });
  }
  forget_foreign_waits(index);
  contexts_.remove_streams(context);
  // Waiters must be through with its events before it goes, and its modules' memory is there until then.
  const PendingReply pending = defer();
  const auto finish = [this, pending, context, destroy = std::move(destroy),
                       charges = take_lost_charges()](CUresult) mutable {
    completions_.forget_context(context);
    ledger_.forget_context(context);
    const CUresult result = destroy();
    charges.clear();
    answer(pending, result);
  };
  when_all_done_apart(finish, {context, nullptr});
  return deferred;
}

CUresult Session::handle(const record::cuCtxRecordEvent& record, reply::cuCtxRecordEvent&, Tail) {
  if (driver_.cuCtxRecordEvent == nullptr) return unsupported(record.header.call);
  CUevent event = nullptr;
  if (!resolve(record.event, event)) return CUDA_ERROR_INVALID_HANDLE;
  foreign_waits_.recorded(record.event);
  return driver_.cuCtxRecordEvent(contexts_.current(), event);
}

CUresult Session::handle(const record::cuCtxWaitEvent& record, reply::cuCtxWaitEvent&, Tail) {
  if (driver_.cuCtxWaitEvent == nullptr) return unsupported(record.header.call);
  CUevent event = nullptr;
  if (!resolve(record.event, event)) return CUDA_ERROR_INVALID_HANDLE;
  return driver_.cuCtxWaitEvent(contexts_.current(), event);
}

CUresult Session::handle(const record::cuDeviceGetGraphMemAttribute& record,
                         reply::cuDeviceGetGraphMemAttribute& reply, Tail) {
  if (driver_.cuDeviceGetGraphMemAttribute == nullptr) return unsupported(record.header.call);
  if (record.attribute < CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT ||
      record.attribute > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  cuuint64_t value = 0;
  const CUresult result = driver_.cuDeviceGetGraphMemAttribute(
      device(), static_cast<CUgraphMem_attribute>(record.attribute), &value);
  reply.value = value;
  return result;
}

CUresult Session::handle(const record::cuDeviceSetGraphMemAttribute& record,
                         reply::cuDeviceSetGraphMemAttribute&, Tail) {
  if (driver_.cuDeviceSetGraphMemAttribute == nullptr) return unsupported(record.header.call);
  // The two that may be set, and only to zero.
  const bool resettable = record.attribute == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH ||
                          record.attribute == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
  if (!resettable || record.value != 0) return CUDA_ERROR_INVALID_VALUE;
  cuuint64_t value = 0;
  return driver_.cuDeviceSetGraphMemAttribute(device(), static_cast<CUgraphMem_attribute>(record.attribute),
                                              &value);
}

CUresult Session::handle(const record::cuCtxSynchronize& record, reply::cuCtxSynchronize&, Tail) {
  if (captures_ != 0) {
    // The driver itself says what is not allowed during a capture.
    if (driver_.cuCtxSynchronize == nullptr) return unsupported(record.header.call);
    return driver_.cuCtxSynchronize();
  }
  const PendingReply pending = defer();
  // The contexts that share the device are waited for together: green ones count as part of the primary.
  when_all_done([this, pending](CUresult result) { answer(pending, result); }, {nullptr, &here()});
  return deferred;
}

CUresult Session::handle(const record::cuCtxEnablePeerAccess& record, reply::cuCtxEnablePeerAccess&, Tail) {
  if (driver_.cuCtxEnablePeerAccess == nullptr) return unsupported(record.header.call);
  const CUcontext peer = contexts_.at(record.peer);
  if (peer == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return driver_.cuCtxEnablePeerAccess(peer, record.flags);
}

CUresult Session::handle(const record::cuCtxDisablePeerAccess& record, reply::cuCtxDisablePeerAccess&, Tail) {
  if (driver_.cuCtxDisablePeerAccess == nullptr) return unsupported(record.header.call);
  const CUcontext peer = contexts_.at(record.peer);
  if (peer == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return driver_.cuCtxDisablePeerAccess(peer);
}

CUresult Session::handle(const record::cuDeviceCanAccessPeer& record, reply::cuDeviceCanAccessPeer& reply,
                         Tail) {
  if (driver_.cuDeviceCanAccessPeer == nullptr) return unsupported(record.header.call);
  const OwnDevice* const peer = contexts_.device(record.peer);
  if (peer == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  return driver_.cuDeviceCanAccessPeer(&reply.can, device(), peer->device);
}

CUresult Session::handle(const record::cuDeviceGetP2PAttribute& record, reply::cuDeviceGetP2PAttribute& reply,
                         Tail) {
  if (driver_.cuDeviceGetP2PAttribute == nullptr) return unsupported(record.header.call);
  const OwnDevice* const peer = contexts_.device(record.peer);
  if (peer == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  return driver_.cuDeviceGetP2PAttribute(&reply.value, static_cast<CUdevice_P2PAttribute>(record.attribute),
                                         device(), peer->device);
}

CUresult Session::handle(const record::cuCtxSetLimit& record, reply::cuCtxSetLimit&, Tail) {
  if (driver_.cuCtxSetLimit == nullptr) return unsupported(record.header.call);
  const auto attribute = [this](CUdevice_attribute which) {
    int value = 0;
    if (driver_.cuDeviceGetAttribute == nullptr ||
        driver_.cuDeviceGetAttribute(&value, which, device()) != CUDA_SUCCESS) {
      return std::uint64_t{1};
    }
    return static_cast<std::uint64_t>(std::max(value, 1));
  };
  // These limits are device memory that the driver sets aside.
  std::uint64_t each = 0;
  switch (record.limit) {
    case CU_LIMIT_MALLOC_HEAP_SIZE:
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      each = 1;
      break;
    case CU_LIMIT_STACK_SIZE:
      each = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) *
             attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
      break;
    default:
      break;
  }
  const auto limit = static_cast<CUlimit>(record.limit);
  if (each == 0) return driver_.cuCtxSetLimit(limit, record.value);
  // Only what goes beyond the driver's own choice is the client's.
  std::size_t before = 0;
  if (driver_.cuCtxGetLimit != nullptr) driver_.cuCtxGetLimit(&before, limit);
  const auto [usual, first] = usual_limits_.try_emplace({contexts_.index(), record.limit}, before);
  const std::uint64_t beyond = record.value > usual->second ? record.value - usual->second : 0;
  if (beyond > (UINT64_MAX >> 1) / each) return CUDA_ERROR_OUT_OF_MEMORY;
  std::shared_ptr<Charge>& charge = limits_[{contexts_.index(), record.limit}];
  const std::uint64_t bytes = beyond * each;
  const std::uint64_t held = charge ? charge->bytes() : 0;
  if (bytes > held && !here().charge(bytes - held)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = driver_.cuCtxSetLimit(limit, record.value);
  if (result != CUDA_SUCCESS) {
    if (bytes > held) here().refund(bytes - held);
    return result;
  }
  // The charge for the whole replaces the one held.
  if (charge) {
    if (bytes < held) here().refund(held - bytes);
    charge->resize(bytes);
  } else {
    charge = std::make_shared<Charge>(here(), bytes);
  }
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
