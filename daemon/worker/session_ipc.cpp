// Memory, pools and events shared with other clients of the same user. The driver of this worker exports and
// opens; between two workers the broker stands (ipc_link.hpp). What was opened is charged to nobody here: its
// maker pays for it.
#include <algorithm>

#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {

template <class Handle>
NativeHandle native_of(const Handle& handle) {
  static_assert(sizeof handle == sizeof(NativeHandle));
  NativeHandle native;
  std::memcpy(native.data(), &handle, sizeof native);
  return native;
}

template <class Handle>
void put_native(Handle& handle, const NativeHandle& native) {
  std::memcpy(&handle, native.data(), sizeof native);
}

template <class Handle>
void put_token(Handle& handle, const IpcToken& token, IpcKind kind) {
  NativeHandle bytes{};
  write_ipc_handle(token, kind, bytes);
  put_native(handle, bytes);
}

template <class Handle>
std::optional<IpcToken> token_of(const Handle& handle, IpcKind kind) {
  return read_ipc_handle(native_of(handle), kind);
}

}  // namespace

CUresult Session::handle(const record::cuIpcGetMemHandle& record, reply::cuIpcGetMemHandle& reply, Tail) {
  if (driver_.cuIpcGetMemHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  const auto around = allocations_.around(record.dptr);
  if (!around) return CUDA_ERROR_INVALID_VALUE;
  const auto& [base, allocation] = *around;
  const std::size_t owner = contexts_.place_of(*contexts_.device_at(allocation.context));
  // Such memory is not the driver's own allocation, and cannot be opened as one.
  if (residence_ && residence_->memory.owns(base)) return unsupported(record.header.call);
  if (const auto known = allocations_.offered(IpcKind::memory, base)) {
    put_token(reply.handle, *known, IpcKind::memory);
    return CUDA_SUCCESS;
  }
  CUipcMemHandle native{};
  if (const CUresult result = driver_.cuIpcGetMemHandle(&native, base); result != CUDA_SUCCESS) return result;
  IpcToken token{};
  if (const CUresult result = ipc_.offer(IpcKind::memory, owner, native_of(native), UniqueFd(), token);
      result != CUDA_SUCCESS) {
    return result;
  }
  put_token(reply.handle, token, IpcKind::memory);
  allocations_.offer(IpcKind::memory, base, token);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuIpcOpenMemHandle_v2& record, reply::cuIpcOpenMemHandle_v2& reply,
                         Tail) {
  if (driver_.cuIpcOpenMemHandle_v2 == nullptr || driver_.cuMemGetAddressRange_v2 == nullptr)
    return unsupported(record.header.call);
  stay_on_device();
  const auto token = token_of(record.handle, IpcKind::memory);
  if (!token) return CUDA_ERROR_INVALID_VALUE;
  NativeHandle found{};
  UniqueFd none;
  if (const CUresult result = ipc_.resolve(IpcKind::memory, *token, found, none); result != CUDA_SUCCESS)
    return result;
  CUipcMemHandle native{};
  put_native(native, found);
  CUdeviceptr pointer = 0;
  CUresult result = driver_.cuIpcOpenMemHandle_v2(&pointer, native, record.flags);
  if (result != CUDA_SUCCESS) return result;
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  result = driver_.cuMemGetAddressRange_v2(&base, &bytes, pointer);
  if (result != CUDA_SUCCESS || base != pointer) {
    driver_.cuIpcCloseMemHandle(pointer);
    return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_HANDLE;
  }
  shared_.opened(pointer, contexts_.index());
  reply.dptr = pointer;
  reply.bytes = bytes;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuIpcCloseMemHandle& record, reply::cuIpcCloseMemHandle& reply, Tail) {
  if (driver_.cuIpcCloseMemHandle == nullptr) return unsupported(record.header.call);
  const std::optional<std::uint32_t> left = shared_.closed(record.dptr);
  if (!left) return CUDA_ERROR_INVALID_VALUE;
  reply.left = *left;
  if (*left != 0) return driver_.cuIpcCloseMemHandle(record.dptr);
  // The driver's own close may wait for the device, which the dispatcher must not.
  const PendingReply pending = defer();
  when_all_done_apart([this, pending, pointer = record.dptr](CUresult) {
    const reply::cuIpcCloseMemHandle late{};
    answer(pending, driver_.cuIpcCloseMemHandle(pointer), std::as_bytes(std::span(&late, 1)));
  });
  return deferred;
}

CUresult Session::handle(const record::cuIpcGetEventHandle& record, reply::cuIpcGetEventHandle& reply, Tail) {
  if (driver_.cuIpcGetEventHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  CUevent event = nullptr;
  if (!resolve(record.event, event)) return CUDA_ERROR_INVALID_HANDLE;
  std::optional<IpcToken> known = shared_.offered(record.event);
  if (!known) {
    CUipcEventHandle native{};
    if (const CUresult result = driver_.cuIpcGetEventHandle(&native, event); result != CUDA_SUCCESS)
      return result;
    IpcToken token{};
    if (const CUresult result = ipc_.offer(IpcKind::event, place(), native_of(native), UniqueFd(), token);
        result != CUDA_SUCCESS) {
      return result;
    }
    shared_.offer(record.event, token);
    known = token;
  }
  put_token(reply.handle, *known, IpcKind::event);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuIpcOpenEventHandle& record, reply::cuIpcOpenEventHandle&, Tail) {
  if (driver_.cuIpcOpenEventHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  if (!can_bind(HandleKind::event, record.event)) return CUDA_ERROR_INVALID_HANDLE;
  const auto token = token_of(record.handle, IpcKind::event);
  if (!token) return CUDA_ERROR_INVALID_VALUE;
  NativeHandle found{};
  UniqueFd none;
  std::uint64_t maker = 0;
  if (const CUresult result = ipc_.resolve(IpcKind::event, *token, found, none, &maker);
      result != CUDA_SUCCESS) {
    return result;
  }
  CUipcEventHandle native{};
  put_native(native, found);
  CUevent event = nullptr;
  const CUresult result = driver_.cuIpcOpenEventHandle(&event, native);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::event, record.event, event);
  foreign_waits_.opened(record.event, maker);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemPoolExportToShareableHandle& record,
                         reply::cuMemPoolExportToShareableHandle& reply, Tail) {
  if (driver_.cuMemPoolExportToShareableHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  if (record.type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  if (!resolve(record.pool, pool)) return CUDA_ERROR_INVALID_VALUE;
  std::optional<IpcToken> known = shared_.offered(record.pool);
  if (!known) {
    int fd = -1;
    const CUresult exported = driver_.cuMemPoolExportToShareableHandle(
        &fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, record.flags);
    if (exported != CUDA_SUCCESS) return exported;
    IpcToken token{};
    if (const CUresult result = ipc_.offer(IpcKind::pool, place(), {}, UniqueFd(fd), token);
        result != CUDA_SUCCESS)
      return result;
    shared_.offer(record.pool, token);
    known = token;
  }
  put_token(reply.token, *known, IpcKind::pool);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemPoolImportFromShareableHandle& record,
                         reply::cuMemPoolImportFromShareableHandle&, Tail) {
  if (driver_.cuMemPoolImportFromShareableHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  if (record.type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return unsupported(record.header.call);
  if (!can_bind(HandleKind::mem_pool, record.pool)) return CUDA_ERROR_INVALID_HANDLE;
  const auto token = token_of(record.token, IpcKind::pool);
  if (!token) return CUDA_ERROR_INVALID_VALUE;
  NativeHandle none{};
  UniqueFd fd;
  if (const CUresult result = ipc_.resolve(IpcKind::pool, *token, none, fd); result != CUDA_SUCCESS)
    return result;
  if (!fd) return CUDA_ERROR_INVALID_HANDLE;
  CUmemoryPool pool = nullptr;
  const CUresult result = driver_.cuMemPoolImportFromShareableHandle(
      &pool,
      reinterpret_cast<void*>(static_cast<std::intptr_t>(fd.get())),  // NOLINT(performance-no-int-to-ptr)
      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, record.flags);
  if (result == CUDA_SUCCESS) {
    bind(HandleKind::mem_pool, record.pool, pool);
    pools_[record.pool] = &contexts_.here();
  }
  return result;
}

CUresult Session::handle(const record::cuMemPoolExportPointer& record, reply::cuMemPoolExportPointer& reply,
                         Tail) {
  if (driver_.cuMemPoolExportPointer == nullptr) return unsupported(record.header.call);
  stay_on_device();
  if (!allocations_.exportable(record.ptr)) return CUDA_ERROR_INVALID_VALUE;
  if (const auto known = allocations_.offered(IpcKind::pool_pointer, record.ptr)) {
    put_token(reply.data, *known, IpcKind::pool_pointer);
    return CUDA_SUCCESS;
  }
  CUmemPoolPtrExportData native{};
  if (const CUresult result = driver_.cuMemPoolExportPointer(&native, record.ptr); result != CUDA_SUCCESS)
    return result;
  IpcToken token{};
  if (const CUresult result =
          ipc_.offer(IpcKind::pool_pointer, place(), native_of(native), UniqueFd(), token);
      result != CUDA_SUCCESS) {
    return result;
  }
  put_token(reply.data, token, IpcKind::pool_pointer);
  allocations_.offer(IpcKind::pool_pointer, record.ptr, token);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemPoolImportPointer& record, reply::cuMemPoolImportPointer& reply,
                         Tail) {
  if (driver_.cuMemPoolImportPointer == nullptr || driver_.cuMemGetAddressRange_v2 == nullptr)
    return unsupported(record.header.call);
  CUmemoryPool pool = nullptr;
  if (!resolve(record.pool, pool)) return CUDA_ERROR_INVALID_VALUE;
  const auto token = token_of(record.data, IpcKind::pool_pointer);
  if (!token) return CUDA_ERROR_INVALID_VALUE;
  NativeHandle found{};
  UniqueFd none;
  if (const CUresult result = ipc_.resolve(IpcKind::pool_pointer, *token, found, none);
      result != CUDA_SUCCESS) {
    return result;
  }
  CUmemPoolPtrExportData native{};
  put_native(native, found);
  CUdeviceptr pointer = 0;
  if (const CUresult result = driver_.cuMemPoolImportPointer(&pointer, pool, &native); result != CUDA_SUCCESS)
    return result;
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  const CUresult result = driver_.cuMemGetAddressRange_v2(&base, &bytes, pointer);
  if (result != CUDA_SUCCESS || base != pointer) {
    if (driver_.cuMemFree_v2 != nullptr) driver_.cuMemFree_v2(pointer);
    return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_HANDLE;
  }
  allocations_.add_import(pointer, {bytes, &here(), contexts_.index()});
  reply.ptr = pointer;
  reply.bytes = bytes;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemExportToShareableHandle& record,
                         reply::cuMemExportToShareableHandle& reply, Tail) {
  if (driver_.cuMemExportToShareableHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  if (record.type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return unsupported(record.header.call);
  CUmemGenericAllocationHandle allocation = 0;
  const auto charge = vmm_.find(record.handle);
  if (!resolve(record.handle, allocation) || charge == vmm_.end()) return CUDA_ERROR_INVALID_VALUE;
  if (const auto known = shared_.offered(charge->second)) {
    put_token(reply.token, *known, IpcKind::allocation);
    return CUDA_SUCCESS;
  }
  int fd = -1;
  const CUresult exported = driver_.cuMemExportToShareableHandle(
      &fd, allocation, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, record.flags);
  if (exported != CUDA_SUCCESS) return exported;
  IpcToken token{};
  if (const CUresult result = ipc_.offer(IpcKind::allocation, place(), {}, UniqueFd(fd), token);
      result != CUDA_SUCCESS) {
    return result;
  }
  shared_.offer(charge->second, token);
  put_token(reply.token, token, IpcKind::allocation);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuMemImportFromShareableHandle& record,
                         reply::cuMemImportFromShareableHandle&, Tail) {
  if (driver_.cuMemImportFromShareableHandle == nullptr) return unsupported(record.header.call);
  stay_on_device();
  if (record.type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return unsupported(record.header.call);
  if (!can_bind(HandleKind::mem_allocation, record.handle) || vmm_.contains(record.handle)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const auto token = token_of(record.token, IpcKind::allocation);
  if (!token) return CUDA_ERROR_INVALID_VALUE;
  NativeHandle none{};
  UniqueFd fd;
  if (const CUresult result = ipc_.resolve(IpcKind::allocation, *token, none, fd); result != CUDA_SUCCESS)
    return result;
  if (!fd) return CUDA_ERROR_INVALID_HANDLE;
  CUmemGenericAllocationHandle made = 0;
  const CUresult result = driver_.cuMemImportFromShareableHandle(
      &made,
      reinterpret_cast<void*>(static_cast<std::intptr_t>(fd.get())),  // NOLINT(performance-no-int-to-ptr)
      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::mem_allocation, record.handle, made);
  vmm_[record.handle] = std::make_shared<Charge>(accounting_, 0);
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
