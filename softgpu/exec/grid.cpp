// The executor: hands the blocks of grids to threads.
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <list>
#include <thread>

#include "softgpu/exec/fault.hpp"
#include "softgpu/exec/kernel.hpp"
#include "softgpu/exec/machine.hpp"

namespace softgpu {

using exec::Block;
using exec::BlockState;
using exec::Context;
using exec::FramePool;
using exec::GridRun;

namespace {

std::uint64_t thread_cpu_ns() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(t.tv_nsec);
}

unsigned usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  const int n = CPU_COUNT(&set);
  return n > 0 ? static_cast<unsigned>(n) : 1;
}

struct ActiveGrid {
  GridRun run;
  std::vector<std::unique_ptr<FramePool>> pools;
  unsigned resident_limit = 16;
};

// The next block for a worker, with the grid's mutex held. After a yield a fresh block comes first, so that
// blocks that wait for later ones get their partners; otherwise the block that was set aside longest.
std::unique_ptr<Block> next_block(ActiveGrid& g, Context& c, bool after_yield) {
  GridRun& r = g.run;
  const bool fresh = r.next_block < r.total_blocks && (r.cooperative || r.resident < g.resident_limit);
  if (!r.parked.empty() && !(fresh && (after_yield || r.cooperative))) {
    auto b = std::move(r.parked.front());
    r.parked.pop_front();
    return b;
  }
  if (!fresh) return nullptr;
  std::unique_ptr<Block> b;
  if (!r.spare.empty()) {
    b = std::move(r.spare.back());
    r.spare.pop_back();
  } else {
    b = std::make_unique<Block>();
  }
  ++r.resident;
  exec::start_block(c, *b, r, r.next_block++);
  return b;
}

void work(ActiveGrid& g) {
  GridRun& r = g.run;
  const std::uint64_t begin = thread_cpu_ns();
  Context c;
  c.grid = &r;
  std::unique_lock lock(r.mutex);
  g.pools.push_back(std::make_unique<FramePool>());
  c.frames = g.pools.back().get();
  try {
    bool yielded = false;
    while (!r.stop) {
      std::unique_ptr<Block> block = next_block(g, c, yielded);
      if (block == nullptr) break;
      lock.unlock();
      BlockState state = exec::run_block(c, *block);
      // With nothing else to run there is nobody to give way to on this thread.
      lock.lock();
      yielded = state == BlockState::yielded;
      if (yielded) {
        r.parked.push_back(std::move(block));
      } else if (state == BlockState::finished) {
        ++r.finished_blocks;
        --r.resident;
        r.spare.push_back(std::move(block));
      }
    }
  } catch (const std::bad_alloc&) {
    if (!lock.owns_lock()) lock.lock();
    if (r.result.fault == Fault::none) {
      r.result.fault = Fault::out_of_memory;
      r.result.reason = std::string(r.kernel_name) + ": out of host memory";
    }
    r.stop = true;
  }
  r.executed += c.executed;
  r.busy_ns += thread_cpu_ns() - begin;
}

}  // namespace

struct Executor::Impl {
  std::mutex mutex;
  std::condition_variable work_ready, left;
  std::list<ActiveGrid*> grids;  ///< that want more workers
  std::vector<std::thread> helpers;
  bool ending = false;
  std::atomic<std::uint64_t> instructions{0}, busy{0}, grid_ids{0};

  void help() {
    std::unique_lock lock(mutex);
    for (;;) {
      work_ready.wait(lock, [this] { return ending || !grids.empty(); });
      if (ending) return;
      // Grids take turns at the helpers; one that has all its helpers leaves the list.
      ActiveGrid* g = grids.front();
      grids.pop_front();
      ++g->run.running;
      lock.unlock();
      work(*g);
      lock.lock();
      --g->run.running;
      left.notify_all();
    }
  }
};

Executor::Executor(unsigned threads) : impl_(std::make_unique<Impl>()) {
  if (threads == 0) threads = usable_cpus();
  for (unsigned i = 1; i < threads; ++i) impl_->helpers.emplace_back([this] { impl_->help(); });
}

Executor::~Executor() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->work_ready.notify_all();
  for (auto& t : impl_->helpers) t.join();
}

unsigned Executor::threads() const {
  return static_cast<unsigned>(impl_->helpers.size()) + 1;
}
std::uint64_t Executor::total_lane_instructions() const {
  return impl_->instructions;
}
std::uint64_t Executor::total_busy_ns() const {
  return impl_->busy;
}

LaunchResult Executor::run(const Launch& launch) {
  LaunchResult result;
  if (launch.kernel == nullptr) {
    result.fault = Fault::illegal_instruction;
    result.reason = "no kernel";
    return result;
  }
  install_access_handler();
  const auto code = exec::kernel_code(*launch.kernel);
  if (!code) {
    result.fault = Fault::unsupported;
    result.reason = std::string(kernel_name(*launch.kernel)) + ", line " + std::to_string(code.error().line) +
                    ": " + code.error().reason;
    return result;
  }
  const Dim3 &grid = launch.grid, &block = launch.block;
  const std::uint64_t threads_a_block = std::uint64_t{block.x} * block.y * block.z;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  const auto layout = kernel_params(*launch.kernel);
  const std::size_t params_size = layout.empty() ? 0 : layout.back().offset + layout.back().size;
  if (threads_a_block == 0 || threads_a_block > 1024 || blocks == 0 || launch.params.size() < params_size) {
    result.fault = Fault::illegal_instruction;
    result.reason = std::string(kernel_name(*launch.kernel)) + ": bad launch dimensions or parameters";
    return result;
  }

  ActiveGrid g;
  GridRun& r = g.run;
  r.code = *code;
  r.grid = grid;
  r.block = block;
  r.dynamic_shared = launch.dynamic_shared;
  r.id = ++impl_->grid_ids;
  r.params.resize(params_size / 8 + 1);
  r.params_size = params_size;
  if (params_size != 0) std::memcpy(r.params.data(), launch.params.data(), params_size);
  r.heap = &exec::kernel_heap(*launch.kernel);
  r.cancel = launch.cancel;
  r.kernel_name = kernel_name(*launch.kernel);
  r.cooperative = launch.cooperative;
  r.total_blocks = blocks;
  g.resident_limit = threads() * 8;

  const std::uint64_t wanted = std::min<std::uint64_t>(blocks - 1, impl_->helpers.size());
  if (wanted != 0) {
    const std::lock_guard lock(impl_->mutex);
    for (std::uint64_t i = 0; i < wanted; ++i) impl_->grids.push_back(&g);
  }
  for (std::uint64_t i = 0; i < wanted; ++i) impl_->work_ready.notify_one();
  work(g);
  {
    std::unique_lock lock(impl_->mutex);
    impl_->grids.remove(&g);
    impl_->left.wait(lock, [&r] { return r.running == 0; });
  }
  result = std::move(r.result);
  result.lane_instructions = r.executed;
  result.busy_ns = r.busy_ns;
  impl_->instructions += result.lane_instructions;
  impl_->busy += result.busy_ns;
  return result;
}

}  // namespace softgpu
