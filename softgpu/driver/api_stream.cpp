// cuStream*: streams, their order and their waits. Capture's calls stand in api_capture.cpp.
#include <cstring>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/shared_event.hpp"

using namespace softgpu;

namespace {

CUresult create(CUstream* out, unsigned flags, int priority) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr || (flags & ~unsigned{CU_STREAM_NON_BLOCKING}) != 0) return CUDA_ERROR_INVALID_VALUE;
    auto stream = context.create_stream(Stream::Kind::created, flags, priority);
    *out = stream->handle();
    driver.streams.add(std::move(stream));
    return CUDA_SUCCESS;
  });
}

OperationRef tail_of(Driver& driver, const Stream& stream) {
  const std::unique_lock lock(driver.scheduler.mutex());
  if (stream.kind != Stream::Kind::legacy) return stream.tail;
  // The legacy stream's turn comes after all blocking streams: a join of them is its last operation.
  std::vector<OperationRef> before = stream.context.predecessors_locked(stream);
  if (before.empty()) return nullptr;
  if (before.size() == 1) return before.front();
  auto join = std::make_shared<Operation>(Lane::none, before.front()->queue(), nullptr);
  driver.scheduler.submit_locked(join, before);
  return join;
}

template <class Value>
bool usable_word(const Driver& driver, CUdeviceptr address) {
  return address % sizeof(Value) == 0 && driver.memory.accessible(address, sizeof(Value));
}

CUresult wait_value(CUstream handle, CUdeviceptr address, std::uint64_t value, unsigned flags, bool wide) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    constexpr unsigned known = 3U | CU_STREAM_WAIT_VALUE_FLUSH;
    if ((flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
    if ((flags & CU_STREAM_WAIT_VALUE_FLUSH) != 0) return CUDA_ERROR_NOT_SUPPORTED;
    const bool usable =
        wide ? usable_word<std::uint64_t>(driver, address) : usable_word<std::uint32_t>(driver, address);
    if (!usable) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, WaitValueWork{address, value, wide, flags});
  });
}

CUresult write_value(CUstream handle, CUdeviceptr address, std::uint64_t value, unsigned flags, bool wide) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if ((flags & ~unsigned{CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER}) != 0) return CUDA_ERROR_INVALID_VALUE;
    const bool usable =
        wide ? usable_word<std::uint64_t>(driver, address) : usable_word<std::uint32_t>(driver, address);
    if (!usable) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, WriteValueWork{address, value, wide});
  });
}

CUresult batch_item(CUstream stream, const CUstreamBatchMemOpParams& item) {
  switch (item.operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      return wait_value(stream, item.waitValue.address, item.waitValue.value, item.waitValue.flags, false);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      return wait_value(stream, item.waitValue.address, item.waitValue.value64, item.waitValue.flags, true);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      return write_value(stream, item.writeValue.address, item.writeValue.value, item.writeValue.flags,
                         false);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      return write_value(stream, item.writeValue.address, item.writeValue.value64, item.writeValue.flags,
                         true);
    case CU_STREAM_MEM_OP_BARRIER:
      return CUDA_SUCCESS;  // operations of a stream are ordered anyway
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

SOFTGPU_API cuStreamCreate(CUstream* stream, unsigned flags) {
  return create(stream, flags, 0);
}

SOFTGPU_API cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) {
  return create(stream, flags, 0);
}

SOFTGPU_API cuStreamDestroy_v2(CUstream handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (handle == nullptr || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
      return CUDA_ERROR_INVALID_HANDLE;
    }
    const auto stream = driver.streams.find(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    abandon_capture(*stream);
    driver.streams.remove(handle);
    stream->context.forget_stream(*stream);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuStreamSynchronize(CUstream handle) {
  return on_stream(handle, [&](Driver& driver, Context& context, Stream& stream) -> CUresult {
    if (const CUresult error = refuse_capturing(stream); error != CUDA_SUCCESS) return error;
    const auto help =
        stream.kind == Stream::Kind::legacy ? Scheduler::Help::any_queue : Scheduler::Help::same_queue;
    driver.scheduler.wait(tail_of(driver, stream), help);
    flush_printf();
    return context.error();
  });
}

SOFTGPU_API cuStreamSynchronize_ptsz(CUstream stream) {
  return cuStreamSynchronize(per_thread(stream));
}

SOFTGPU_API cuStreamQuery(CUstream handle) {
  return on_stream(handle, [&](Driver& driver, Context& context, Stream& stream) -> CUresult {
    if (const CUresult error = refuse_capturing(stream); error != CUDA_SUCCESS) return error;
    const OperationRef tail = tail_of(driver, stream);
    if (tail != nullptr && !tail->done()) return CUDA_ERROR_NOT_READY;
    flush_printf();
    return context.error();
  });
}

SOFTGPU_API cuStreamQuery_ptsz(CUstream stream) {
  return cuStreamQuery(per_thread(stream));
}

SOFTGPU_API cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
  return on_stream(handle, [&](Driver& driver, Context& context, Stream& stream) -> CUresult {
    const auto event = driver.events.find(event_handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if ((flags & ~unsigned{CU_EVENT_WAIT_EXTERNAL}) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (event->shared != nullptr && stream.capturing.load(std::memory_order_acquire))
      return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    CUresult result = CUDA_SUCCESS;
    if (capture_event_wait(stream, event, (flags & CU_EVENT_WAIT_EXTERNAL) != 0, result)) return result;
    if (const CUresult error = refuse_implicit(stream); error != CUDA_SUCCESS) return error;
    const std::unique_lock lock(driver.scheduler.mutex());
    if (event->shared != nullptr) {
      const std::uint64_t number = event->shared->recorded();
      if (event->shared->passed(number)) return CUDA_SUCCESS;
      context.submit_locked(stream, std::make_shared<Operation>(
                                        Lane::poll, &stream, [&context, shared = event->shared, number] {
                                          return shared->passed(number) || context.error() != CUDA_SUCCESS;
                                        }));
      return CUDA_SUCCESS;
    }
    if (event->point == nullptr || event->point->done()) return CUDA_SUCCESS;
    context.submit_locked(stream, std::make_shared<Operation>(Lane::none, &stream, nullptr), {event->point});
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned flags) {
  return cuStreamWaitEvent(per_thread(stream), event, flags);
}

SOFTGPU_API cuStreamWaitValue32_v2(CUstream s, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return wait_value(s, address, value, flags, false);
}
SOFTGPU_API cuStreamWaitValue64_v2(CUstream s, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  return wait_value(s, address, value, flags, true);
}
SOFTGPU_API cuStreamWriteValue32_v2(CUstream s, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return write_value(s, address, value, flags, false);
}
SOFTGPU_API cuStreamWriteValue64_v2(CUstream s, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  return write_value(s, address, value, flags, true);
}
SOFTGPU_API cuStreamWaitValue32_v2_ptsz(CUstream s, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return wait_value(per_thread(s), address, value, flags, false);
}
SOFTGPU_API cuStreamWaitValue64_v2_ptsz(CUstream s, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  return wait_value(per_thread(s), address, value, flags, true);
}
SOFTGPU_API cuStreamWriteValue32_v2_ptsz(CUstream s, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return write_value(per_thread(s), address, value, flags, false);
}
SOFTGPU_API cuStreamWriteValue64_v2_ptsz(CUstream s, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  return write_value(per_thread(s), address, value, flags, true);
}
SOFTGPU_API cuStreamWaitValue32(CUstream s, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return wait_value(s, address, value, flags, false);
}
SOFTGPU_API cuStreamWaitValue64(CUstream s, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  return wait_value(s, address, value, flags, true);
}
SOFTGPU_API cuStreamWriteValue32(CUstream s, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  return write_value(s, address, value, flags, false);
}
SOFTGPU_API cuStreamWriteValue64(CUstream s, CUdeviceptr address, cuuint64_t value, unsigned flags) {
  return write_value(s, address, value, flags, true);
}

SOFTGPU_API cuStreamBatchMemOp_v2(CUstream stream, unsigned count, CUstreamBatchMemOpParams* items,
                                  unsigned flags) {
  if (flags != 0 || (count != 0 && items == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    if (const CUresult error = batch_item(stream, items[i]); error != CUDA_SUCCESS) return error;
  }
  return CUDA_SUCCESS;
}

SOFTGPU_API cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned count, CUstreamBatchMemOpParams* items,
                                       unsigned flags) {
  return cuStreamBatchMemOp_v2(per_thread(stream), count, items, flags);
}

SOFTGPU_API cuStreamGetPriority(CUstream handle, int* priority) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (priority == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *priority = stream.priority;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamGetPriority_ptsz(CUstream s, int* priority) {
  return cuStreamGetPriority(per_thread(s), priority);
}

SOFTGPU_API cuStreamGetFlags(CUstream handle, unsigned* flags) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *flags = stream.flags;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamGetFlags_ptsz(CUstream s, unsigned* flags) {
  return cuStreamGetFlags(per_thread(s), flags);
}

SOFTGPU_API cuStreamGetId(CUstream handle, unsigned long long* id) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *id = stream.id;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamGetId_ptsz(CUstream s, unsigned long long* id) {
  return cuStreamGetId(per_thread(s), id);
}

SOFTGPU_API cuStreamGetCtx(CUstream handle, CUcontext* out) {
  return on_stream(handle, [&](Driver&, Context& context, Stream&) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = context.handle();
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamGetCtx_ptsz(CUstream s, CUcontext* out) {
  return cuStreamGetCtx(per_thread(s), out);
}

SOFTGPU_API cuStreamGetCtx_v2(CUstream s, CUcontext* out, CUgreenCtx* green) {
  if (green != nullptr) *green = nullptr;
  return cuStreamGetCtx(s, out);
}
SOFTGPU_API cuStreamGetCtx_v2_ptsz(CUstream s, CUcontext* out, CUgreenCtx* green) {
  return cuStreamGetCtx_v2(per_thread(s), out, green);
}

SOFTGPU_API cuStreamGetDevice(CUstream handle, CUdevice* device) {
  return on_stream(handle, [&](Driver&, Context& context, Stream&) -> CUresult {
    if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *device = context.device;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamGetDevice_ptsz(CUstream s, CUdevice* device) {
  return cuStreamGetDevice(per_thread(s), device);
}

SOFTGPU_API cuStreamAttachMemAsync(CUstream handle, CUdeviceptr address, std::size_t, unsigned flags) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    constexpr unsigned known = CU_MEM_ATTACH_GLOBAL | CU_MEM_ATTACH_HOST | CU_MEM_ATTACH_SINGLE;
    const auto found = driver.memory.find(address);
    if ((flags & ~known) != 0 || !found || found->kind != MemoryKind::managed)
      return CUDA_ERROR_INVALID_VALUE;
    // Attachment restricts who may touch the memory; this device lets everybody, always.
    return enqueue(stream, EmptyWork{});
  });
}
SOFTGPU_API cuStreamAttachMemAsync_ptsz(CUstream s, CUdeviceptr address, std::size_t bytes, unsigned flags) {
  return cuStreamAttachMemAsync(per_thread(s), address, bytes, flags);
}

SOFTGPU_API cuStreamSetAttribute(CUstream handle, CUstreamAttrID attribute, const CUstreamAttrValue* value) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (value == nullptr || attribute < 0 ||
        static_cast<std::size_t>(attribute) >= stream.attributes.size()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const std::unique_lock lock(driver.graph_mutex);
    stream.attributes[static_cast<std::size_t>(attribute)] = *value;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamSetAttribute_ptsz(CUstream s, CUstreamAttrID attribute, const CUstreamAttrValue* value) {
  return cuStreamSetAttribute(per_thread(s), attribute, value);
}

SOFTGPU_API cuStreamGetAttribute(CUstream handle, CUstreamAttrID attribute, CUstreamAttrValue* value) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (value == nullptr || attribute < 0 ||
        static_cast<std::size_t>(attribute) >= stream.attributes.size()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const std::unique_lock lock(driver.graph_mutex);
    *value = stream.attributes[static_cast<std::size_t>(attribute)];
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamGetAttribute_ptsz(CUstream s, CUstreamAttrID attribute, CUstreamAttrValue* value) {
  return cuStreamGetAttribute(per_thread(s), attribute, value);
}

SOFTGPU_API cuStreamCopyAttributes(CUstream to, CUstream from) {
  return on_stream(to, [&](Driver& driver, Context& context, Stream& target) -> CUresult {
    const auto source = find_stream(driver, context, from);
    if (source == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const std::unique_lock lock(driver.graph_mutex);
    target.attributes = source->attributes;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamCopyAttributes_ptsz(CUstream to, CUstream from) {
  return cuStreamCopyAttributes(per_thread(to), per_thread(from));
}
