// Launches of kernels, graphs and host functions, and the occupancy questions that take a launch
// configuration.
#include "daemon/worker/launch_attributes.hpp"
#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint32_t launch_cooperative = 1;
constexpr std::uint32_t max_attributes = 32;

/// Puts the driver's event in the place of the client's handle, where an attribute names one.
bool resolve_event(const Session& session, CUlaunchAttribute& attribute) {
  CUevent* const event = attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT
                             ? &attribute.value.programmaticEvent.event
                         : attribute.id == CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT
                             ? &attribute.value.launchCompletionEvent.event
                             : nullptr;
  return event != nullptr && session.resolve(reinterpret_cast<std::uint64_t>(*event), *event);
}

CUresult read_attributes(const Session& session, std::uint32_t count, Session::Tail& tail,
                         std::vector<CUlaunchAttribute>& attributes) {
  if (count > max_attributes || tail.size() < count * sizeof(CUlaunchAttribute))
    return CUDA_ERROR_INVALID_VALUE;
  attributes.resize(count);
  if (count != 0) std::memcpy(attributes.data(), tail.data(), count * sizeof(CUlaunchAttribute));
  tail = tail.subspan(count * sizeof(CUlaunchAttribute));
  for (CUlaunchAttribute& attribute : attributes) {
    if (!attribute_allowed(attribute.id) && !resolve_event(session, attribute))
      return CUDA_ERROR_NOT_SUPPORTED;
  }
  return CUDA_SUCCESS;
}

template <class Record>
CUlaunchConfig config_of(const Record& record, CUstream stream, std::vector<CUlaunchAttribute>& attributes) {
  CUlaunchConfig config{};
  config.gridDimX = record.grid_x;
  config.gridDimY = record.grid_y;
  config.gridDimZ = record.grid_z;
  config.blockDimX = record.block_x;
  config.blockDimY = record.block_y;
  config.blockDimZ = record.block_z;
  config.sharedMemBytes = record.dynamic_shared;
  config.hStream = stream;
  config.attrs = attributes.data();
  config.numAttrs = static_cast<unsigned>(attributes.size());
  return config;
}

}  // namespace

void Session::note_stream_work(CUstream stream, std::uint64_t expected_ns) {
  if (captures_ != 0 && capturing(stream)) return;
  ledger_.submitted(contexts_.key_of(stream));
  const bool known = expected_ns != no_limit_ns;
  contexts_.device_of(stream).accounting->expect(known ? expected_ns : 0, known);
}

void Session::note_held(CUstream stream) {
  if (captures_ != 0 && capturing(stream)) {
    graphs_hold_ = true;
    return;
  }
  ledger_.held(contexts_.key_of(stream));
}

CUresult Session::handle(const record::cuLaunchKernel& record, reply::cuLaunchKernel&, Tail tail) {
  CUfunction function = nullptr;
  CUstream stream = nullptr;
  if (!resolve(record.function, function) || !resolve(record.stream, stream))
    return CUDA_ERROR_INVALID_HANDLE;
  std::vector<CUlaunchAttribute> attributes;
  if (const CUresult result = read_attributes(*this, record.attribute_count, tail, attributes);
      result != CUDA_SUCCESS) {
    return result;
  }
  if (tail.size() < record.param_bytes) return CUDA_ERROR_INVALID_VALUE;
  std::size_t size = record.param_bytes;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(tail.data()),
                   CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
  void** const parameters = size != 0 ? extra : nullptr;
  // Launches of one kernel in one shape take about the same time.
  std::uint64_t shape = mix_key(record.function, record.grid_x);
  for (const std::uint32_t part : {record.grid_y, record.grid_z, record.block_x, record.block_y,
                                   record.block_z, record.dynamic_shared}) {
    shape = mix_key(shape, part);
  }
  const Prediction prediction = admit_kind(stream, shape, {1, 0});
  const CommandTimers::Started began = begin_timing(stream, prediction, true);
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  if (attributes.empty() && (record.flags & launch_cooperative) == 0) {
    if (driver_.cuLaunchKernel == nullptr) {
      timers_.drop(began, prediction.key);
      return unsupported(record.header.call);
    }
    result = driver_.cuLaunchKernel(function, record.grid_x, record.grid_y, record.grid_z, record.block_x,
                                    record.block_y, record.block_z, record.dynamic_shared, stream, nullptr,
                                    parameters);
  } else {
    if (driver_.cuLaunchKernelEx == nullptr) {
      timers_.drop(began, prediction.key);
      return unsupported(record.header.call);
    }
    if ((record.flags & launch_cooperative) != 0) {
      CUlaunchAttribute cooperative{};
      cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
      cooperative.value.cooperative = 1;
      attributes.push_back(cooperative);
    }
    const CUlaunchConfig config = config_of(record, stream, attributes);
    result = driver_.cuLaunchKernelEx(&config, function, nullptr, parameters);
  }
  if (result != CUDA_SUCCESS) {
    timers_.drop(began, prediction.key);
    // What is not supported the software GPU names in the log.
    return result == CUDA_ERROR_NOT_SUPPORTED ? unsupported(record.header.call) : result;
  }
  count_alone(contexts_.device_of(stream).accounting->page().launches);
  end_timing(began, stream, prediction);
  submitted_command(stream, prediction);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphLaunch& record, reply::cuGraphLaunch&, Tail) {
  if (driver_.cuGraphLaunch == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  CUstream stream = nullptr;
  if (!resolve(record.hGraphExec, exec) || !resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  const Prediction prediction = admit_kind(stream, mix_key(record.hGraphExec, 0), {1, 0});
  const CommandTimers::Started began = begin_timing(stream, prediction);
  const CUresult result = driver_.cuGraphLaunch(exec, stream);
  if (result != CUDA_SUCCESS) {
    timers_.drop(began, prediction.key);
    return result;
  }
  count_alone(contexts_.device_of(stream).accounting->page().graph_launches);
  graphs_.launched(record.hGraphExec);
  end_timing(began, stream, prediction);
  submitted_command(stream, prediction);
  if (graphs_hold_) note_held(stream);
  return CUDA_SUCCESS;
}

HostCalls::Call* Session::host_call(CUstream stream, const Upcall& upcall) {
  // Asked of the driver each time: a call that is deleted although a graph holds it would be run again.
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
  const bool keep = driver_.cuStreamIsCapturing == nullptr ||
                    driver_.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS ||
                    status != CU_STREAM_CAPTURE_STATUS_NONE;
  return host_calls_.for_stream(upcall, keep);
}

CUresult Session::handle(const record::cuLaunchHostFunc& record, reply::cuLaunchHostFunc&, Tail) {
  if (driver_.cuLaunchHostFunc == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  HostCalls::Call* const call = host_call(stream, Upcall{0, 0, record.function, record.user, record.stream});
  const CUresult result = driver_.cuLaunchHostFunc(stream, &HostCalls::run, call);
  if (result != CUDA_SUCCESS) {
    HostCalls::refused(call);
    return result;
  }
  note_stream_work(stream, 0);
  note_held(stream);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuStreamAddCallback& record, reply::cuStreamAddCallback&, Tail) {
  if (driver_.cuStreamAddCallback == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  HostCalls::Call* const call = host_call(stream, Upcall{1, 0, record.function, record.user, record.stream});
  const CUresult result = driver_.cuStreamAddCallback(stream, &HostCalls::run_callback, call, record.flags);
  if (result != CUDA_SUCCESS) {
    HostCalls::refused(call);
    return result;
  }
  note_stream_work(stream, 0);
  note_held(stream);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuOccupancyMaxActiveClusters& record,
                         reply::cuOccupancyMaxActiveClusters& reply, Tail tail) {
  if (driver_.cuOccupancyMaxActiveClusters == nullptr) return unsupported(record.header.call);
  CUfunction function = nullptr;
  if (!resolve(record.function, function)) return CUDA_ERROR_INVALID_HANDLE;
  std::vector<CUlaunchAttribute> attributes;
  if (const CUresult result = read_attributes(*this, record.attribute_count, tail, attributes);
      result != CUDA_SUCCESS) {
    return result;
  }
  const CUlaunchConfig config = config_of(record, nullptr, attributes);
  return driver_.cuOccupancyMaxActiveClusters(&reply.clusters, function, &config);
}

CUresult Session::handle(const record::cuOccupancyMaxPotentialClusterSize& record,
                         reply::cuOccupancyMaxPotentialClusterSize& reply, Tail tail) {
  if (driver_.cuOccupancyMaxPotentialClusterSize == nullptr) return unsupported(record.header.call);
  CUfunction function = nullptr;
  if (!resolve(record.function, function)) return CUDA_ERROR_INVALID_HANDLE;
  std::vector<CUlaunchAttribute> attributes;
  if (const CUresult result = read_attributes(*this, record.attribute_count, tail, attributes);
      result != CUDA_SUCCESS) {
    return result;
  }
  const CUlaunchConfig config = config_of(record, nullptr, attributes);
  return driver_.cuOccupancyMaxPotentialClusterSize(&reply.size, function, &config);
}

CUresult Session::handle(const record::extension_blas& record, reply::extension_blas&, Tail tail) {
  cudaabi::BlasDescriptor descriptor;
  if (tail.size() != sizeof descriptor) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(&descriptor, tail.data(), sizeof descriptor);
  if (!matrices_.find()) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  std::uint64_t shape = tail.size();
  for (std::size_t at = 0; at + sizeof shape <= tail.size(); at += sizeof shape) {
    std::uint64_t word = 0;
    std::memcpy(&word, tail.data() + at, sizeof word);
    shape = mix_key(shape, word);
  }
  const Prediction prediction = admit_kind(stream, shape, {1, 0});
  const CommandTimers::Started began = begin_timing(stream, prediction);
  const CUresult result = matrices_.enqueue(contexts_.current(), stream, descriptor);
  if (result != CUDA_SUCCESS) {
    timers_.drop(began, prediction.key);
    return result;
  }
  count_alone(contexts_.device_of(stream).accounting->page().launches);
  end_timing(began, stream, prediction);
  submitted_command(stream, prediction);
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
