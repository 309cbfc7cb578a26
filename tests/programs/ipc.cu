// Memory and events shared between two processes of a user, as PyTorch's multiprocessing does it: a handle of
// an allocation and an offset, an event that orders both processes' streams. Made-up handles open nothing.
#include <string>

#include "shared_values.hpp"
#include "two_processes.hpp"

namespace {

constexpr int count = (3 << 18) + 17;  // some pages, and a part of one
constexpr int offset = 1000;
constexpr int first = 7;   // the value of the first element
constexpr int more = 100;  // what a process adds to each

struct Offer {
  cudaIpcMemHandle_t memory;
  cudaIpcEventHandle_t event;
};

// Loads the kernels: a lazy load may synchronise the device, and these tests hold streams up.
void load_kernels() {
  int* scratch = nullptr;
  CUDA_OK(cudaMalloc(&scratch, sizeof(int)));
  check::fill<<<1, 1>>>(scratch, 1, 0);
  check::add<<<1, 1>>>(scratch, 1, 0);
  CUDA_OK(cudaFree(scratch));
}

int blocks() {
  return (count + 255) / 256;
}

size_t free_memory() {
  size_t free = 0;
  size_t total = 0;
  CUDA_OK(cudaMemGetInfo(&free, &total));
  return free;
}

void expect_refused(const cudaIpcMemHandle_t& handle) {
  void* memory = nullptr;
  const cudaError_t error = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
  EXPECT(error == cudaErrorInvalidValue || error == cudaErrorInvalidResourceHandle, "a made-up handle: %s",
         cudaGetErrorName(error));
  EXPECT(cudaGetLastError() == error, "another error was left behind");
}

void refuse_made_up_handles(const Offer& offer) {
  expect_refused(cudaIpcMemHandle_t{});
  cudaIpcMemHandle_t ones;
  std::memset(&ones, 0xff, sizeof ones);
  expect_refused(ones);
  for (const int byte : {9, 17, 25}) {
    cudaIpcMemHandle_t broken = offer.memory;
    broken.reserved[byte] ^= 0x20;
    // NVIDIA's driver does not look at every byte, and knows the memory for opened; vgpud's token has none to
    // spare.
    if (check::nvidias_driver()) {
      void* memory = nullptr;
      if (cudaIpcOpenMemHandle(&memory, broken, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess) {
        CUDA_OK(cudaIpcCloseMemHandle(memory));
      }
      static_cast<void>(cudaGetLastError());
      continue;
    }
    expect_refused(broken);
  }
  cudaIpcMemHandle_t event_as_memory;
  std::memcpy(&event_as_memory, &offer.event, sizeof event_as_memory);
  expect_refused(event_as_memory);
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaIpcOpenEventHandle(&event, cudaIpcEventHandle_t{});
  // NVIDIA's driver 580 finds that it cannot map it.
  EXPECT(error == cudaErrorInvalidValue || error == cudaErrorInvalidResourceHandle ||
             (error == cudaErrorMapBufferObjectFailed && check::nvidias_driver()),
         "a made-up event: %s", cudaGetErrorName(error));
  static_cast<void>(cudaGetLastError());
}

void parent(check::Partner child) {
  load_kernels();
  int* values = nullptr;
  CUDA_OK(cudaMalloc(&values, count * sizeof(int)));
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaEvent_t filled = nullptr;
  CUDA_IS(cudaEventCreateWithFlags(&filled, cudaEventInterprocess), cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
  CUDA_OK(cudaEventCreateWithFlags(&filled, cudaEventInterprocess | cudaEventDisableTiming));

  // The work that the event stands for has not begun when the other process gets the handles.
  check::HeldStream held(stream);
  check::fill<<<blocks(), 256, 0, stream>>>(values, count, first);
  CUDA_OK(cudaEventRecord(filled, stream));
  CUDA_IS(cudaEventQuery(filled), cudaErrorNotReady);
  Offer offer{};
  CUDA_OK(cudaIpcGetEventHandle(&offer.event, filled));
  CUDA_OK(cudaIpcGetMemHandle(&offer.memory, values));
  Offer again{};
  CUDA_OK(cudaIpcGetMemHandle(&again.memory, values));
  EXPECT(std::memcmp(&again.memory, &offer.memory, sizeof again.memory) == 0,
         "two handles of one allocation");
  void* own = nullptr;
  CUDA_IS(cudaIpcOpenMemHandle(&own, offer.memory, cudaIpcMemLazyEnablePeerAccess),
          cudaErrorDeviceUninitialized);
  static_cast<void>(cudaGetLastError());
  child.send(offer);
  child.meet();  // it has seen that the event is not there yet, and has queued its work behind it
  held.release();

  const auto added_handle = child.receive<cudaIpcEventHandle_t>();
  cudaEvent_t added = nullptr;
  CUDA_OK(cudaIpcOpenEventHandle(&added, added_handle));
  CUDA_OK(cudaStreamWaitEvent(stream, added, 0));
  check::add<<<blocks(), 256, 0, stream>>>(values, count, more);
  CUDA_OK(cudaStreamSynchronize(stream));
  CUDA_OK(cudaEventSynchronize(added));
  check::expect_values(values, count, first + 2 * more);
  child.meet();  // it may look now
  child.meet();  // it has closed all
  CUDA_OK(cudaEventDestroy(added));
  CUDA_OK(cudaFree(values));
  CUDA_OK(cudaDeviceSynchronize());
  child.meet();  // the memory is gone
  child.finish();
  CUDA_OK(cudaEventDestroy(filled));
}

void child(check::Partner parent) {
  load_kernels();
  const auto offer = parent.receive<Offer>();
  const size_t free_before = free_memory();
  int* values = nullptr;
  int* again = nullptr;
  CUDA_OK(
      cudaIpcOpenMemHandle(reinterpret_cast<void**>(&values), offer.memory, cudaIpcMemLazyEnablePeerAccess));
  CUDA_OK(
      cudaIpcOpenMemHandle(reinterpret_cast<void**>(&again), offer.memory, cudaIpcMemLazyEnablePeerAccess));
  EXPECT(values == again, "opened twice, at two addresses");
  EXPECT(free_memory() + (1 << 20) > free_before, "opened memory is charged to its user");
  CUdeviceptr base = 0;
  size_t bytes = 0;
  DRV_OK(cuMemGetAddressRange(&base, &bytes, reinterpret_cast<CUdeviceptr>(values + offset)));
  EXPECT(base == reinterpret_cast<CUdeviceptr>(values) && bytes >= count * sizeof(int), "range of %zu bytes",
         bytes);
  CUDA_IS(cudaFree(values), cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
  refuse_made_up_handles(offer);

  cudaEvent_t filled = nullptr;
  cudaEvent_t added = nullptr;
  CUDA_OK(cudaIpcOpenEventHandle(&filled, offer.event));
  CUDA_OK(cudaEventCreateWithFlags(&added, cudaEventInterprocess | cudaEventDisableTiming));
  CUDA_IS(cudaEventQuery(filled), cudaErrorNotReady);
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamWaitEvent(stream, filled, 0));
  check::add<<<blocks(), 256, 0, stream>>>(values, count, more);
  CUDA_OK(cudaEventRecord(added, stream));
  CUDA_IS(cudaStreamQuery(stream), cudaErrorNotReady);
  parent.meet();
  CUDA_OK(cudaEventSynchronize(filled));
  cudaIpcEventHandle_t handle{};
  CUDA_OK(cudaIpcGetEventHandle(&handle, added));
  parent.send(handle);
  parent.meet();
  // Closed as often as it was opened.
  CUDA_OK(cudaIpcCloseMemHandle(again));
  check::expect_values(values + offset, count - offset, first + offset + 2 * more);
  CUDA_OK(cudaIpcCloseMemHandle(values));
  CUDA_IS(cudaIpcCloseMemHandle(values), cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
  CUDA_OK(cudaEventDestroy(filled));
  parent.meet();
  parent.meet();
  expect_refused(offer.memory);
  CUDA_OK(cudaStreamDestroy(stream));
  CUDA_OK(cudaEventDestroy(added));
}

// The other process is killed while its work is under way: what was opened stays, waits for it end.
void orphan(check::Partner child) {
  load_kernels();
  const auto offer = child.receive<Offer>();
  int* values = nullptr;
  CUDA_OK(
      cudaIpcOpenMemHandle(reinterpret_cast<void**>(&values), offer.memory, cudaIpcMemLazyEnablePeerAccess));
  cudaEvent_t never = nullptr;
  CUDA_OK(cudaIpcOpenEventHandle(&never, offer.event));
  CUDA_IS(cudaEventQuery(never), cudaErrorNotReady);
  if (check::nvidias_driver()) {
    child.kill_child();  // its stream would stand still for ever, and the program with it
    return;
  }
  CUDA_OK(cudaStreamWaitEvent(nullptr, never, 0));
  check::add<<<blocks(), 256>>>(values, count, more);
  child.kill_child();
  const cudaError_t ended = cudaDeviceSynchronize();
  // On the software GPU the event counts as happened. A GPU's stream cannot be freed: the client gets an
  // error.
  if (ended == cudaErrorExternalDevice && !check::software_gpu()) return;
  CUDA_OK(ended);
  check::expect_values(values, count, first + more);
  CUDA_OK(cudaIpcCloseMemHandle(values));
}

void dies(check::Partner parent) {
  load_kernels();
  int* values = nullptr;
  CUDA_OK(cudaMalloc(&values, count * sizeof(int)));
  check::fill<<<blocks(), 256>>>(values, count, first);
  CUDA_OK(cudaDeviceSynchronize());
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaEvent_t never = nullptr;
  CUDA_OK(cudaEventCreateWithFlags(&never, cudaEventInterprocess | cudaEventDisableTiming));
  check::HeldStream held(stream);
  CUDA_OK(cudaEventRecord(never, stream));
  Offer offer{};
  CUDA_OK(cudaIpcGetEventHandle(&offer.event, never));
  CUDA_OK(cudaIpcGetMemHandle(&offer.memory, values));
  parent.send(offer);
  parent.meet();  // never: killed
}

// Somebody else who got hold of the handles.
void victim(check::Partner stranger) {
  int* values = nullptr;
  CUDA_OK(cudaMalloc(&values, count * sizeof(int)));
  cudaEvent_t event = nullptr;
  CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventInterprocess | cudaEventDisableTiming));
  Offer offer{};
  CUDA_OK(cudaIpcGetEventHandle(&offer.event, event));
  CUDA_OK(cudaIpcGetMemHandle(&offer.memory, values));
  stranger.send(offer);
  stranger.finish();
}

void stranger(check::Partner victim) {
  const auto offer = victim.receive<Offer>();
  void* memory = nullptr;
  CUDA_IS(cudaIpcOpenMemHandle(&memory, offer.memory, cudaIpcMemLazyEnablePeerAccess),
          cudaErrorInvalidResourceHandle);
  cudaEvent_t event = nullptr;
  CUDA_IS(cudaIpcOpenEventHandle(&event, offer.event), cudaErrorInvalidResourceHandle);
}

// Starts the other one where its vgpud's socket is another.
check::Partner stranger_at(const char* path) {
  const char* const own = std::getenv("VGPUD_SOCKET");
  const std::string before = own != nullptr ? own : "";
  setenv("VGPUD_SOCKET", path, 1);
  check::Partner other("stranger");
  setenv("VGPUD_SOCKET", before.c_str(), 1);
  return other;
}

}  // namespace

// Without arguments two processes of one user; "orphan": one is killed; "victim UID": the other is another
// user's; "victim /SOCKET": of another VM, whose vgpud listens there.
int main(int argc, char** argv) {
  const std::string role = argc > 1 ? argv[1] : "parent";
  if (role == "parent") parent(check::Partner("child"));
  if (role == "child") child(check::Partner());
  if (role == "orphan") orphan(check::Partner("dies"));
  if (role == "dies") dies(check::Partner());
  if (role == "victim" && argv[2][0] == '/') victim(stranger_at(argv[2]));
  if (role == "victim" && argv[2][0] != '/')
    victim(check::Partner("stranger", static_cast<uid_t>(std::atoi(argv[2]))));
  if (role == "stranger") stranger(check::Partner());
  return role == "child" || role == "stranger" ? 0 : check::done("ipc");
}
