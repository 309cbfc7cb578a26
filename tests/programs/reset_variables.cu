// After a device reset variables have their first values: of all kinds, sizes and scopes, of the program and
// of a library that it loaded itself; those that hold addresses mean what they meant.
#include "check.hpp"

namespace {

constexpr int kRows = 600011;  // some MiB, and no multiple of anything

struct Node {
  int value;
  const int* next;
  char mark;
};

struct Shape {
  __device__ virtual int corners() const { return 0; }
};
struct Square : Shape {
  __device__ int corners() const override { return 4; }
};

__constant__ float weights[2] = {1.0F, 2.0F};
__constant__ int untouched = 17;
__device__ int counter = 41;
__device__ int zeros[kRows];
__device__ unsigned char odd[3] = {7, 8, 9};
__device__ double wide = 0.5;
__device__ int target = 23;
__device__ int* pointer = &target;
__device__ Node node = {5, &target, 'n'};
static __device__ long long internal = -3;
__managed__ int managed = 11;

__device__ __noinline__ int twice(int x) {
  return 2 * x;
}
__device__ __noinline__ int thrice(int x) {
  return 3 * x;
}
__device__ int (*operations[2])(int) = {twice, thrice};

struct Seen {
  float weights[2];
  int untouched, counter, zeros, odd, pointed, own, node, mark, local, applied, corners;
  double wide;
  long long internal;
};

// Says what there is, and changes it.
__global__ void use(Seen* seen, int which) {
  static __device__ int local = 60;
  int other = 0;
  for (int i = 0; i < kRows; ++i) other |= zeros[i];
  Square square;
  const Shape* shape = which < 0 ? nullptr : &square;
  *seen = {{weights[0], weights[1]},
           untouched,
           counter,
           other,
           odd[0] * 100 + odd[1] * 10 + odd[2],
           *pointer,
           pointer == &target && node.next == &target,
           node.value + *node.next,
           node.mark,
           local,
           operations[which](100),
           shape->corners(),
           wide,
           internal};
  counter += 1;
  zeros[0] = zeros[kRows / 2] = zeros[kRows - 1] = 1;
  odd[2] = odd[0] = 1;
  wide = -1.0;
  target = 24;
  pointer = &counter;
  node.value = 6;
  node.next = &zeros[1];
  node.mark = 'x';
  local += 1;
  internal = 1LL << 40;
}

__global__ void set_managed(int value) {
  managed = value;
}

Seen look(int which) {
  Seen* out = nullptr;
  CUDA_OK(cudaMalloc(&out, sizeof(Seen)));
  use<<<1, 1>>>(out, which);
  Seen seen;
  CUDA_OK(cudaMemcpy(&seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  CUDA_OK(cudaFree(out));
  return seen;
}

void expect_first_values() {
  const Seen seen = look(1);
  EXPECT(seen.weights[0] == 1.0F && seen.weights[1] == 2.0F, "the weights are %g %g", seen.weights[0],
         seen.weights[1]);
  EXPECT(seen.untouched == 17, "the other constant is %d", seen.untouched);
  EXPECT(seen.counter == 41, "the counter is %d", seen.counter);
  EXPECT(seen.zeros == 0, "of what has no initialiser some is %d", seen.zeros);
  EXPECT(seen.odd == 789, "the odd bytes are %d", seen.odd);
  EXPECT(seen.pointed == 23 && seen.own == 1, "the pointer is to %d, its own: %d", seen.pointed, seen.own);
  EXPECT(seen.node == 28 && seen.mark == 'n', "the node is %d %d", seen.node, seen.mark);
  EXPECT(seen.local == 60, "the variable of a function is %d", seen.local);
  EXPECT(seen.applied == 300, "the operation made %d", seen.applied);
  EXPECT(seen.corners == 4, "%d corners", seen.corners);
  EXPECT(seen.wide == 0.5, "the wide one is %g", seen.wide);
  EXPECT(seen.internal == -3, "the internal one is %lld", seen.internal);
}

const char kPtx[] = R"(.version 7.5
.target sm_75
.address_size 64
.global .u32 tally = 5;
.global .align 4 .b8 room[4096];
.visible .entry count(.param .u64 out)
{
  .reg .u64 %rd<3>;
  .reg .u32 %r<3>;
  ld.param.u64 %rd1, [out];
  cvta.to.global.u64 %rd1, %rd1;
  ld.global.u32 %r1, [tally];
  st.global.u32 [%rd1], %r1;
  add.u32 %r1, %r1, 1;
  st.global.u32 [tally], %r1;
  ld.global.u32 %r2, [room+4092];
  st.global.u32 [%rd1+4], %r2;
  st.global.u32 [room+4092], %r1;
  ret;
}
)";

// The library stays loaded, and its handles good.
void expect_tally(CUlibrary library, CUkernel kernel, unsigned tally, unsigned room) {
  unsigned* out = nullptr;
  CUDA_OK(cudaMalloc(&out, 2 * sizeof(unsigned)));
  void* parameters[] = {&out};
  DRV_OK(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 1, 1, 1, 0, nullptr, parameters,
                        nullptr));
  unsigned seen[2] = {};
  CUDA_OK(cudaMemcpy(seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen[0] == tally && seen[1] == room, "the library's are %u %u", seen[0], seen[1]);
  CUDA_OK(cudaFree(out));
  CUdeviceptr where = 0;
  size_t bytes = 0;
  DRV_OK(cuLibraryGetGlobal(&where, &bytes, library, "tally"));
  EXPECT(bytes == 4, "%zu bytes", bytes);
  unsigned after = 0;
  DRV_OK(cuMemcpyDtoH(&after, where, sizeof after));
  EXPECT(after == tally + 1, "the library's is %u behind its kernel", after);
}

// Who releases it last ends a context, as a reset does. Runtime and driver hold it together.
void expect_first_values_behind_release() {
  CUDA_OK(cudaDeviceReset());
  CUdevice device = 0;
  DRV_OK(cuDeviceGet(&device, 0));
  CUcontext context = nullptr;
  CUlibrary library = nullptr;
  DRV_OK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  for (int round = 0; round < 2; ++round) {
    DRV_OK(cuDevicePrimaryCtxRetain(&context, device));
    DRV_OK(cuCtxSetCurrent(context));
    CUdeviceptr where = 0;
    size_t bytes = 0;
    DRV_OK(cuLibraryGetGlobal(&where, &bytes, library, "tally"));
    unsigned tally = 0;
    DRV_OK(cuMemcpyDtoH(&tally, where, sizeof tally));
    EXPECT(tally == 5, "behind a release the library's is %u", tally);
    DRV_OK(cuMemsetD32(where, 77, 1));
    DRV_OK(cuCtxSynchronize());
    for (int active = 1; active != 0;) {
      unsigned flags = 0;
      DRV_OK(cuDevicePrimaryCtxRelease(device));
      DRV_OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    }
  }
  DRV_OK(cuLibraryUnload(library));
}

}  // namespace

int main() {
  expect_first_values();
  CUlibrary library = nullptr;
  CUkernel kernel = nullptr;
  DRV_OK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  DRV_OK(cuLibraryGetKernel(&kernel, library, "count"));
  expect_tally(library, kernel, 5, 0);
  expect_tally(library, kernel, 6, 6);
  for (int round = 0; round < 3; ++round) {
    const float changed[2] = {-7.5F, 9.25F};
    CUDA_OK(cudaMemcpyToSymbol(weights, changed, sizeof changed));
    int count = 0;
    CUDA_OK(cudaMemcpyFromSymbol(&count, counter, sizeof count));
    EXPECT(count == 42, "the counter is %d", count);
    CUDA_OK(cudaDeviceReset());
    expect_first_values();
    expect_tally(library, kernel, 5, 0);
  }
  DRV_OK(cuLibraryUnload(library));
  // A managed variable belongs to no context: what it holds now is not said, but it is one still.
  set_managed<<<1, 1>>>(99);
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT(managed == 99, "the managed variable is %d", managed);
  CUDA_OK(cudaDeviceReset());
  expect_first_values();
  expect_first_values_behind_release();
  return check::done("reset_variables");
}
