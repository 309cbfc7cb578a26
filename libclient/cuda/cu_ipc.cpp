// Memory and events shared between processes: cuIpc*, shareable handles of VMM allocations and of pools. What
// the program passes to another process is a token of the broker's (protocol/ipc.hpp); a shareable handle is
// the descriptor of a sealed file that holds one. Never: sees the driver's own handles.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/unique_fd.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

/// From now on another process may look at memory of this one's: before the worker hears of it.
void share_memory(const Call& call) {
  call.process().shares_memory.store(true, std::memory_order_release);
}

CUresult open_memory(CUdeviceptr* out, const CUipcMemHandle& handle, unsigned flags) {
  if (out == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  record::cuIpcOpenMemHandle_v2 record;
  record.handle = handle;
  record.flags = flags;
  reply::cuIpcOpenMemHandle_v2 reply;
  share_memory(call);
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  MemoryRange range;
  range.base = reply.dptr;
  range.size = reply.bytes;
  range.kind = MemoryKind::imported;
  range.context = call.context()->handle;
  range.ordinal = call.context()->device;
  call.process().memory.insert(range);
  *out = reply.dptr;
  return CUDA_SUCCESS;
}

// A sealed file with these bytes; none when there is no memory.
UniqueFd file_of(const CUipcMemHandle& token) {
  UniqueFd fd(memfd_create("vgpud-handle", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || write(fd.get(), &token, sizeof token) != static_cast<ssize_t>(sizeof token)) return {};
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return {};
  return fd;
}

// Hands such a file to the program as a shareable handle.
CUresult put_file(void* shareable, const CUipcMemHandle& token) {
  UniqueFd fd = file_of(token);
  if (!fd) return CUDA_ERROR_OPERATING_SYSTEM;
  const int number = fd.release();
  std::memcpy(shareable, &number, sizeof number);
  return CUDA_SUCCESS;
}

// The token in the file behind a shareable handle; false when there is none.
bool read_file(void* shareable, CUipcMemHandle& token) {
  return pread(static_cast<int>(bits(shareable)), &token, sizeof token, 0) ==
         static_cast<ssize_t>(sizeof token);
}

CUresult check_type(CUmemAllocationHandleType type) {
  if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_SUCCESS;
  return static_cast<CUresult>(cudaabi::note_unsupported("memory shared by anything but a file descriptor"));
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle* pHandle, CUdeviceptr dptr) {
  if (pHandle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto range = call.process().memory.find(dptr);
  if (!range || range->kind != MemoryKind::device) return CUDA_ERROR_INVALID_VALUE;
  record::cuIpcGetMemHandle record;
  record.dptr = dptr;
  reply::cuIpcGetMemHandle reply;
  share_memory(call);
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *pHandle = reply.handle;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuIpcOpenMemHandle(CUdeviceptr* pdptr, CUipcMemHandle handle, unsigned int Flags) {
  return open_memory(pdptr, handle, Flags);
}
VGPU_EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* pdptr, CUipcMemHandle handle, unsigned int Flags) {
  return open_memory(pdptr, handle, Flags);
}

VGPU_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr dptr) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto range = call.process().memory.find(dptr);
  if (!range || range->kind != MemoryKind::imported || range->base != dptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuIpcCloseMemHandle record;
  record.dptr = dptr;
  reply::cuIpcCloseMemHandle reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  if (reply.left == 0) call.process().memory.remove(dptr);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuIpcGetEventHandle(CUipcEventHandle* pHandle, CUevent event) {
  if (pHandle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const Event* const known = call.process().events.find(bits(event));
  if (known == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if ((known->flags & CU_EVENT_INTERPROCESS) == 0) return CUDA_ERROR_INVALID_VALUE;
  record::cuIpcGetEventHandle record;
  record.event = bits(event);
  reply::cuIpcGetEventHandle reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *pHandle = reply.handle;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuIpcOpenEventHandle(CUevent* phEvent, CUipcEventHandle handle) {
  if (phEvent == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto [event, made] = call.process().events.create();
  if (event == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  event->context = call.context()->handle;
  event->flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
  record::cuIpcOpenEventHandle record;
  record.event = made;
  record.handle = handle;
  return hand_out(call.process().events, made, call.ask(record), phEvent);
}

VGPU_EXPORT CUresult cuMemExportToShareableHandle(void* shareableHandle, CUmemGenericAllocationHandle handle,
                                                  CUmemAllocationHandleType handleType,
                                                  unsigned long long flags) {
  if (shareableHandle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().allocations.find(handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_type(handleType); result != CUDA_SUCCESS) return result;
  record::cuMemExportToShareableHandle record;
  record.handle = handle;
  record.type = handleType;
  reply::cuMemExportToShareableHandle reply;
  share_memory(call);
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  return put_file(shareableHandle, reply.token);
}

VGPU_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* osHandle,
                                                    CUmemAllocationHandleType shHandleType) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = check_type(shHandleType); result != CUDA_SUCCESS) return result;
  record::cuMemImportFromShareableHandle record;
  if (!read_file(osHandle, record.token)) return CUDA_ERROR_INVALID_VALUE;
  record.handle = call.mint(vgpu::HandleKind::mem_allocation);
  record.type = shHandleType;
  share_memory(call);
  return hand_out(call.process().allocations, record.handle, call.ask(record), handle);
}

VGPU_EXPORT CUresult cuMemPoolExportToShareableHandle(void* handle_out, CUmemoryPool pool,
                                                      CUmemAllocationHandleType handleType,
                                                      unsigned long long flags) {
  if (handle_out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().pools.find(bits(pool)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_type(handleType); result != CUDA_SUCCESS) return result;
  record::cuMemPoolExportToShareableHandle record;
  record.pool = bits(pool);
  record.type = handleType;
  reply::cuMemPoolExportToShareableHandle reply;
  share_memory(call);
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  return put_file(handle_out, reply.token);
}

VGPU_EXPORT CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool* pool_out, void* handle,
                                                        CUmemAllocationHandleType handleType,
                                                        unsigned long long flags) {
  if (pool_out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = check_type(handleType); result != CUDA_SUCCESS) return result;
  record::cuMemPoolImportFromShareableHandle record;
  if (!read_file(handle, record.token)) return CUDA_ERROR_INVALID_VALUE;
  record.pool = call.mint(vgpu::HandleKind::mem_pool);
  record.type = handleType;
  share_memory(call);
  return hand_out(call.process().pools, record.pool, call.ask(record), pool_out);
}

VGPU_EXPORT CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData* shareData_out, CUdeviceptr ptr) {
  if (shareData_out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  const auto range = call.process().memory.find(ptr);
  if (!range || range->kind != MemoryKind::async || range->base != ptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuMemPoolExportPointer record;
  record.ptr = ptr;
  reply::cuMemPoolExportPointer reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  static_assert(sizeof *shareData_out == sizeof reply.data);
  std::memcpy(shareData_out, &reply.data, sizeof reply.data);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemPoolImportPointer(CUdeviceptr* ptr_out, CUmemoryPool pool,
                                            CUmemPoolPtrExportData* shareData) {
  if (ptr_out == nullptr || shareData == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (call.process().pools.find(bits(pool)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuMemPoolImportPointer record;
  record.pool = bits(pool);
  std::memcpy(&record.data, shareData, sizeof record.data);
  reply::cuMemPoolImportPointer reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  // It is freed as memory of a pool is.
  MemoryRange range;
  range.base = reply.ptr;
  range.size = reply.bytes;
  range.kind = MemoryKind::async;
  range.context = call.context()->handle;
  range.ordinal = call.context()->device;
  range.owner = bits(pool);
  call.process().memory.insert(range);
  *ptr_out = reply.ptr;
  return CUDA_SUCCESS;
}
