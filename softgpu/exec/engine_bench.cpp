// Speed of the engine in lane instructions a second, on one thread, for kernels of different kinds.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "softgpu/engine.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace {

using namespace softgpu;

class Memory final : public DeviceAllocator {
 public:
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t) override {
    return memory.allocate(bytes, MemoryKind::device, nullptr).value_or(0);
  }
  void release(std::uint64_t address) override { (void)memory.release(address, {MemoryKind::device}); }
  DeviceMemory memory{std::uint64_t{1} << 30};
};

constexpr std::string_view text = R"(
.version 9.0
.target sm_75
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.s32 %r1, %r3, %r4, %r5;
  setp.ge.s32 %p1, %r1, %r2;
  @%p1 bra $L;
  cvta.to.global.u64 %rd4, %rd1; mul.wide.s32 %rd5, %r1, 4; add.s64 %rd6, %rd4, %rd5; add.s64 %rd8, %rd2, %rd5;
  ld.global.f32 %f1, [%rd8]; ld.global.f32 %f2, [%rd6]; add.f32 %f3, %f2, %f1;
  add.s64 %rd10, %rd3, %rd5; st.global.f32 [%rd10], %f3;
$L: ret;
}
.visible .entry fma(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p<2>; .reg .f32 %f<9>; .reg .b32 %r<6>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; mov.u32 %r1, %tid.x; cvt.rn.f32.u32 %f1, %r1; mov.u32 %r2, 0;
  mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
$L:
  fma.rn.ftz.f32 %f1, %f1, 0f3F000000, 0f3F800000; fma.rn.ftz.f32 %f2, %f2, 0f3F000000, 0f3F800000;
  fma.rn.ftz.f32 %f3, %f3, 0f3F000000, 0f3F800000; fma.rn.ftz.f32 %f4, %f4, 0f3F000000, 0f3F800000;
  fma.rn.ftz.f32 %f1, %f1, 0f3F000000, 0f3F800000; fma.rn.ftz.f32 %f2, %f2, 0f3F000000, 0f3F800000;
  fma.rn.ftz.f32 %f3, %f3, 0f3F000000, 0f3F800000; fma.rn.ftz.f32 %f4, %f4, 0f3F000000, 0f3F800000;
  add.s32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 256;
  @%p1 bra $L;
  add.f32 %f1, %f1, %f2; add.f32 %f3, %f3, %f4; add.f32 %f1, %f1, %f3;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.f32 [%rd3], %f1; ret;
}
.visible .entry integer(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, %r1;
$L:
  mad.lo.s32 %r3, %r3, 1664525, 1013904223; shr.u32 %r4, %r3, 16; xor.b32 %r3, %r3, %r4; and.b32 %r5, %r3, 255;
  add.s32 %r6, %r5, %r2; min.s32 %r7, %r6, %r4; setp.gt.u32 %p2, %r7, 100; selp.b32 %r8, %r6, %r7, %p2;
  add.s32 %r3, %r3, %r8;
  add.s32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 256;
  @%p1 bra $L;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r3; ret;
}
.visible .entry shared(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .shared .align 16 .b8 tile[4096];
  .reg .pred %p<4>; .reg .f32 %f<9>; .reg .b32 %r<12>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, tile; add.s32 %r4, %r3, %r2;
  cvt.rn.f32.u32 %f1, %r1; st.shared.f32 [%r4], %f1; mov.u32 %r5, 0; mov.f32 %f2, 0f00000000; mov.u32 %r6, %r3;
  bar.sync 0;
$L:
  ld.shared.f32 %f3, [%r6]; ld.shared.f32 %f4, [%r4]; fma.rn.f32 %f2, %f3, %f4, %f2;
  ld.shared.f32 %f3, [%r6+4]; fma.rn.f32 %f2, %f3, %f4, %f2;
  add.s32 %r6, %r6, 8; add.s32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 100;
  @%p1 bra $L;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.f32 [%rd3], %f2; ret;
}
.visible .entry shuffle(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, %r1;
$L:
  shfl.sync.bfly.b32 %r4, %r3, 16, 31, -1; add.s32 %r3, %r3, %r4;
  shfl.sync.bfly.b32 %r4, %r3, 8, 31, -1; add.s32 %r3, %r3, %r4;
  shfl.sync.down.b32 %r4, %r3, 4, 31, -1; add.s32 %r3, %r3, %r4;
  shfl.sync.idx.b32 %r4|%p2, %r3, %r2, 31, -1; add.s32 %r3, %r3, %r4;
  add.s32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 64;
  @%p1 bra $L;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r3; ret;
}
.visible .entry divergent(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, %r1;
$L:
  and.b32 %r4, %r3, 1; setp.eq.s32 %p2, %r4, 0;
  @%p2 bra $E;
  mad.lo.s32 %r3, %r3, 3, 1; add.s32 %r5, %r5, %r3;
  bra $N;
$E: shr.u32 %r3, %r3, 1; xor.b32 %r5, %r5, %r3;
$N: add.s32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 256;
  @%p1 bra $L;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r3; ret;
}
)";

void run(benchmark::State& state, const char* name, Dim3 grid, Dim3 block) {
  static Memory memory;
  static Executor executor(1);
  static const auto module = Module::load(text, memory);
  if (!module) {
    state.SkipWithError(module.error().reason.c_str());
    return;
  }
  constexpr std::uint32_t n = 1 << 20;
  static const std::uint64_t arrays[3] = {memory.allocate(4 * n, 256), memory.allocate(4 * n, 256),
                                          memory.allocate(4 * n, 256)};
  std::vector<std::byte> params(28);
  std::memcpy(params.data(), arrays, 24);
  std::memcpy(params.data() + 24, &n, 4);
  Launch launch;
  launch.kernel = (*module)->find_kernel(name);
  launch.grid = grid;
  launch.block = block;
  launch.params = params;
  std::uint64_t instructions = 0;
  for (auto _ : state) {  // NOLINT(clang-analyzer-deadcode.DeadStores): the library counts by it
    const LaunchResult r = executor.run(launch);
    if (r.fault != Fault::none) {
      state.SkipWithError(r.reason.c_str());
      return;
    }
    instructions += r.lane_instructions;
  }
  state.counters["lane_instructions"] =
      benchmark::Counter(static_cast<double>(instructions), benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(run, vector_add, "add", Dim3{4096}, Dim3{256});
BENCHMARK_CAPTURE(run, fma_chain, "fma", Dim3{16}, Dim3{256});
BENCHMARK_CAPTURE(run, integer, "integer", Dim3{16}, Dim3{256});
BENCHMARK_CAPTURE(run, shared_memory, "shared", Dim3{16}, Dim3{256});
BENCHMARK_CAPTURE(run, shuffle, "shuffle", Dim3{16}, Dim3{256});
BENCHMARK_CAPTURE(run, divergent, "divergent", Dim3{16}, Dim3{256});
BENCHMARK_CAPTURE(run, empty_launch, "add", Dim3{1}, Dim3{32});

}  // namespace

BENCHMARK_MAIN();
