#include "softgpu/driver/work.hpp"

#include <atomic>
#include <cstring>
#include <string>

#include "softgpu/blas/execute.hpp"
#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/memory_pool.hpp"
#include "softgpu/driver/module.hpp"
#include "softgpu/memory/guarded_access.hpp"

namespace softgpu {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

std::byte* at(std::uint64_t address) {
  return reinterpret_cast<std::byte*>(
      static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr)
}

CUresult error_of(Fault fault) {
  switch (fault) {
    case Fault::none:
      return CUDA_SUCCESS;
    case Fault::illegal_address:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case Fault::misaligned_address:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case Fault::illegal_instruction:
    case Fault::unsupported:
      return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    case Fault::trap:
      return CUDA_ERROR_LAUNCH_FAILED;
    case Fault::assert_failed:
      return CUDA_ERROR_ASSERT;
    case Fault::stack_overflow:
      return CUDA_ERROR_HARDWARE_STACK_ERROR;
    case Fault::launch_timeout:
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    case Fault::out_of_memory:
      return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  }
  return CUDA_ERROR_LAUNCH_FAILED;
}

void run_kernel(Context& context, const KernelWork& work) {
  Launch launch;
  launch.kernel = work.function->kernel;
  launch.grid = work.grid;
  launch.block = work.block;
  launch.dynamic_shared = work.dynamic_shared;
  launch.params = work.params;
  launch.cooperative = work.cooperative;
  launch.cancel = &context.cancel;
  Driver& driver = Driver::get();
  const LaunchResult result = driver.executor.run(launch);
  driver.device(work.function->device).busy_ns.fetch_add(result.busy_ns, std::memory_order_relaxed);
  if (driver.kernel_counts != nullptr)
    driver.kernel_counts->add(work.function->name, result.busy_ns, result.lane_instructions);
  if (result.fault == Fault::none) return;
  log_line("kernel " + work.function->name + " failed: " + result.reason);
  context.fail(error_of(result.fault));
}

CUresult error_of(blas::Status status) {
  switch (status) {
    case blas::Status::ok:
      return CUDA_SUCCESS;
    case blas::Status::illegal_address:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case blas::Status::out_of_memory:
      return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    case blas::Status::invalid:
    case blas::Status::unsupported:
      return CUDA_ERROR_LAUNCH_FAILED;
  }
  return CUDA_ERROR_LAUNCH_FAILED;
}

void run_blas(Context& context, const BlasWork& work) {
  Driver& driver = Driver::get();
  const std::uint64_t start = now_ns();
  const blas::Status status = blas::execute(work.descriptor, [&](std::uint64_t address, std::uint64_t bytes) {
    return driver.memory.accessible(address, bytes);
  });
  const std::uint64_t spent = now_ns() - start;
  driver.blas_ns.fetch_add(spent, std::memory_order_relaxed);
  driver.device(context.device).busy_ns.fetch_add(spent, std::memory_order_relaxed);
  if (status != blas::Status::ok) context.fail(error_of(status));
}

void copy(const CopyWork& work) {
  const std::size_t row = work.width;
  const bool rows_touch = work.height == 1 || (work.source_pitch == row && work.destination_pitch == row);
  for (std::size_t z = 0; z < work.depth; ++z) {
    const std::uint64_t source = work.source + z * work.source_slice;
    const std::uint64_t destination = work.destination + z * work.destination_slice;
    if (rows_touch) {
      std::memmove(at(destination), at(source), row * work.height);
      continue;
    }
    for (std::size_t y = 0; y < work.height; ++y) {
      std::memmove(at(destination + y * work.destination_pitch), at(source + y * work.source_pitch), row);
    }
  }
}

template <class Element>
void fill_row(std::uint64_t destination, std::uint32_t value, std::size_t count) {
  auto* const row = reinterpret_cast<Element*>(at(destination));
  for (std::size_t i = 0; i < count; ++i) row[i] = static_cast<Element>(value);
}

void fill(const MemsetWork& work) {
  for (std::size_t y = 0; y < work.height; ++y) {
    const std::uint64_t row = work.destination + y * work.pitch;
    if (work.element == 1) std::memset(at(row), static_cast<int>(work.value & 0xff), work.width);
    if (work.element == 2) fill_row<std::uint16_t>(row, work.value, work.width);
    if (work.element == 4) fill_row<std::uint32_t>(row, work.value, work.width);
  }
}

template <class Word>
bool holds(const WaitValueWork& work) {
  const Word now =
      std::atomic_ref<Word>(*reinterpret_cast<Word*>(at(work.address))).load(std::memory_order_acquire);
  const Word wanted = static_cast<Word>(work.value);
  using Signed = std::make_signed_t<Word>;
  switch (work.flags & 3) {
    case CU_STREAM_WAIT_VALUE_GEQ:
      return static_cast<Signed>(now - wanted) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
      return now == wanted;
    case CU_STREAM_WAIT_VALUE_AND:
      return (now & wanted) != 0;
    default:
      return static_cast<Word>(~(now | wanted)) != 0;
  }
}

void write(const WriteValueWork& work) {
  if (work.wide) {
    std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(at(work.address)))
        .store(work.value, std::memory_order_release);
  } else {
    std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(at(work.address)))
        .store(static_cast<std::uint32_t>(work.value), std::memory_order_release);
  }
}

// Ranges were checked when the work was queued; since then they may have been freed, and what is mapped may
// be for reading only.
template <class F>
void touch(Context& context, F&& access) {
  if (!guarded_access(access)) context.fail(CUDA_ERROR_ILLEGAL_ADDRESS);
}

}  // namespace

Lane lane_of(const Work& work) {
  return std::visit(Overloaded{
                        [](const EmptyWork&) { return Lane::none; },
                        [](const AllocationWork&) { return Lane::none; },
                        [](const EventRecordWork&) { return Lane::none; },
                        [](const EventWaitWork&) { return Lane::none; },
                        [](const ChildGraphWork&) { return Lane::none; },
                        [](const HostWork&) { return Lane::host; },
                        [](const CallbackWork&) { return Lane::host; },
                        [](const WaitValueWork&) { return Lane::poll; },
                        [](const auto&) { return Lane::device; },
                    },
                    work);
}

bool perform(Context& context, const Work& work) {
  if (const auto* const callback = std::get_if<CallbackWork>(&work)) {
    callback->function(callback->stream, context.error(), callback->data);
    return true;
  }
  if (const auto* const free = std::get_if<FreeWork>(&work)) {
    if (free->keeper == nullptr) release_from_pool(free->address);
    return true;
  }
  // What graphs have is theirs for their next launch; what a graph left behind goes.
  if (const auto* const free = std::get_if<GraphFreeWork>(&work)) {
    if (!is_graph_memory(free->address)) release_from_pool(free->address);
    return true;
  }
  if (context.error() != CUDA_SUCCESS) return true;
  return std::visit(Overloaded{
                        [&](const KernelWork& kernel) {
                          run_kernel(context, kernel);
                          return true;
                        },
                        [&](const BlasWork& operation) {
                          run_blas(context, operation);
                          return true;
                        },
                        [&](const CopyWork& box) {
                          touch(context, [&] { copy(box); });
                          return true;
                        },
                        [&](const MemsetWork& range) {
                          touch(context, [&] { fill(range); });
                          return true;
                        },
                        [](const HostWork& host) {
                          host.function(host.data);
                          return true;
                        },
                        [&](const WaitValueWork& wait) {
                          volatile bool held = true;  // after a fault there is nothing left to wait for
                          touch(context, [&] {
                            held = wait.wide ? holds<std::uint64_t>(wait) : holds<std::uint32_t>(wait);
                          });
                          return bool{held};
                        },
                        [&](const WriteValueWork& value) {
                          touch(context, [&] { write(value); });
                          return true;
                        },
                        [](const auto&) { return true; },
                    },
                    work);
}

}  // namespace softgpu
