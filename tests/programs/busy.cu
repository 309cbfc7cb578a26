// A client that keeps the device busy: equal kernels one after another, a bounded number in flight, for some
// seconds; checks its data at the end and prints how many kernels it got done in the time.
//   busy [--seconds S] [--start-at UNIX_SECONDS] [--rounds N] [--blocks N] [--in-flight N] [--memory-mb N]
//        [--tag TEXT]
// With --step N it works in steps instead: N kernels, a wait for them, a pause of --pause-us; and prints how
// long the steps took, pauses left out. --steps-to FILE: a line a step there, its begin and its length in us.
#include <algorithm>
#include <string>

#include "check.hpp"

namespace {

__global__ void churn(unsigned* data, int rounds) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned value = data[i];
  for (int round = 0; round < rounds; ++round) value = value * 1664525U + 1013904223U;
  data[i] = value;
}

double wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 2.0;
  double start_at = 0.0;
  int rounds = 500;
  unsigned blocks = 16;
  unsigned in_flight = 8;
  size_t memory_mb = 0;
  std::string tag = "busy";
  unsigned step = 0;
  unsigned pause_us = 0;
  std::string steps_to;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--seconds") seconds = std::atof(argv[i + 1]);
    if (option == "--start-at") start_at = std::atof(argv[i + 1]);
    if (option == "--rounds") rounds = std::atoi(argv[i + 1]);
    if (option == "--blocks") blocks = static_cast<unsigned>(std::atoi(argv[i + 1]));
    if (option == "--in-flight") in_flight = static_cast<unsigned>(std::max(1, std::atoi(argv[i + 1])));
    if (option == "--memory-mb") memory_mb = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--tag") tag = argv[i + 1];
    if (option == "--steps-to") steps_to = argv[i + 1];
    if (option == "--step") step = static_cast<unsigned>(std::atoi(argv[i + 1]));
    if (option == "--pause-us") pause_us = static_cast<unsigned>(std::atoi(argv[i + 1]));
  }
  constexpr unsigned kThreads = 128;
  const unsigned count = blocks * kThreads;
  unsigned* data = nullptr;
  CUDA_OK(cudaMalloc(&data, count * sizeof(unsigned)));
  CUDA_OK(cudaMemset(data, 0, count * sizeof(unsigned)));
  void* ballast = nullptr;
  if (memory_mb != 0) {
    CUDA_OK(cudaMalloc(&ballast, memory_mb << 20U));
    CUDA_OK(cudaMemset(ballast, 0x5a, memory_mb << 20U));
  }
  std::vector<cudaEvent_t> events(in_flight);
  for (auto& event : events)
    CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync));
  churn<<<blocks, kThreads>>>(data, 0);
  CUDA_OK(cudaDeviceSynchronize());
  std::printf("%s: ready\n", tag.c_str());
  std::fflush(stdout);
  while (wall_clock() < start_at) std::this_thread::sleep_for(std::chrono::milliseconds(1));

  const double end = check::seconds() + seconds;
  uint64_t launched = 0;
  uint64_t finished_in_time = 0;
  std::vector<double> steps;
  std::vector<double> begins;
  while (step != 0 && check::seconds() < end) {
    const double began = check::seconds();
    for (unsigned i = 0; i < step; ++i) churn<<<blocks, kThreads>>>(data, rounds);
    CUDA_OK(cudaStreamSynchronize(nullptr));
    steps.push_back(check::seconds() - began);
    begins.push_back(began - end + seconds);
    launched += step;
    finished_in_time += step;
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
  }
  while (step == 0) {
    const size_t slot = launched % in_flight;
    if (launched >= in_flight) {
      CUDA_OK(cudaEventSynchronize(events[slot]));
      if (check::seconds() >= end) break;
      ++finished_in_time;
    }
    churn<<<blocks, kThreads>>>(data, rounds);
    CUDA_OK(cudaEventRecord(events[slot]));
    ++launched;
  }
  std::vector<unsigned> seen(count);
  CUDA_OK(cudaMemcpy(seen.data(), data, count * sizeof(unsigned), cudaMemcpyDeviceToHost));
  unsigned wanted = 0;
  for (uint64_t i = 0; i < launched * static_cast<uint64_t>(rounds); ++i)
    wanted = wanted * 1664525U + 1013904223U;
  for (unsigned i = 0; i < count; ++i)
    EXPECT(seen[i] == wanted, "element %u is %u, wanted %u", i, seen[i], wanted);
  if (!steps_to.empty()) {
    std::FILE* const file = std::fopen(steps_to.c_str(), "w");
    EXPECT(file != nullptr, "cannot write %s", steps_to.c_str());
    for (size_t i = 0; i < steps.size(); ++i)
      std::fprintf(file, "%.0f %.1f\n", 1e6 * begins[i], 1e6 * steps[i]);
    std::fclose(file);
  }
  if (!steps.empty()) {
    std::sort(steps.begin(), steps.end());
    const auto at = [&](double part) {
      return 1e6 * steps[static_cast<size_t>(part * static_cast<double>(steps.size() - 1))];
    };
    std::printf("%s: steps %zu p50 %.1f p95 %.1f p99 %.1f max %.1f us\n", tag.c_str(), steps.size(), at(0.50),
                at(0.95), at(0.99), at(1.0));
  }
  std::printf("%s: kernels %llu seconds %.3f checksum %08x\n", tag.c_str(),
              static_cast<unsigned long long>(finished_in_time), seconds, wanted);
  return 0;
}
