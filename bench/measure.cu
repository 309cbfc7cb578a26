// Measures what a CUDA program sees of its driver: run once natively and once through vgpud, the numbers
// compared by bench/run. Prints one `name value` a line; times in microseconds, rates in the unit of the
// name.
//   measure [--bulk-mb N] [--only NAME]
#include <algorithm>
#include <functional>
#include <string>

#include "../tests/programs/check.hpp"

namespace {

__global__ void nothing() {}

// One multiply-add and its share of the loop for each round: the algorithm of plain_churn() below.
__global__ void churn(unsigned* data, int rounds) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned value = data[i];
  for (int round = 0; round < rounds; ++round) value = (value ^ (value >> 7)) * 1664525U + 1013904223U;
  data[i] = value;
}

void plain_churn(unsigned* data, int count, int rounds) {
  for (int i = 0; i < count; ++i) {
    unsigned value = data[i];
    for (int round = 0; round < rounds; ++round) value = (value ^ (value >> 7)) * 1664525U + 1013904223U;
    data[i] = value;
  }
}

__global__ void multiply(const float* a, const float* b, float* c, int n) {
  const int row = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = 0;
  for (int k = 0; k < n; ++k) sum += a[row * n + k] * b[k * n + column];
  c[row * n + column] = sum;
}

void plain_multiply(const float* a, const float* b, float* c, int n) {
  for (int row = 0; row < n; ++row) {
    for (int column = 0; column < n; ++column) {
      float sum = 0;
      for (int k = 0; k < n; ++k) sum += a[row * n + k] * b[k * n + column];
      c[row * n + column] = sum;
    }
  }
}

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

double percentile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
}

void report(const char* name, double value) {
  std::printf("%s %.4f\n", name, value);
}

/// Times to issue one call: the median over batches of a batch's mean, and the median call. A batch is small
/// enough to fit every queue on the way, and the device is idle when it starts. The mean holds what the
/// median does not: waking the other side once a batch, and threads of it that take this one's CPU.
struct IssueTime {
  double mean = 0;
  double median = 0;
};
IssueTime issue_time(const std::function<void()>& call) {
  constexpr int kBatch = 64;
  std::vector<double> means;
  for (int batch = 0; batch < 200; ++batch) {
    CUDA_OK(cudaDeviceSynchronize());
    const auto start = Clock::now();
    for (int i = 0; i < kBatch; ++i) call();
    means.push_back(since(start) / kBatch);
  }
  std::vector<double> calls;
  for (int batch = 0; batch < 100; ++batch) {
    CUDA_OK(cudaDeviceSynchronize());
    auto last = Clock::now();
    for (int i = 0; i < kBatch; ++i) {
      call();
      const auto now = Clock::now();
      calls.push_back(std::chrono::duration<double, std::micro>(now - last).count());
      last = now;
    }
  }
  CUDA_OK(cudaDeviceSynchronize());
  return {percentile(means, 0.5), percentile(calls, 0.5)};
}

std::vector<double> samples(int count, std::chrono::microseconds pause, const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    const auto start = Clock::now();
    call();
    times.push_back(since(start));
  }
  return times;
}

void measure_calls() {
  unsigned char* device = nullptr;
  unsigned char host[64] = {};
  CUDA_OK(cudaMalloc(&device, 4096));
  nothing<<<1, 1>>>();
  CUDA_OK(cudaDeviceSynchronize());
  const IssueTime launch = issue_time([] { nothing<<<1, 1>>>(); });
  report("launch_issue_us", launch.mean);
  report("launch_issue_median_us", launch.median);
  const IssueTime copy64 =
      issue_time([&] { CUDA_OK(cudaMemcpyAsync(device, host, 64, cudaMemcpyHostToDevice)); });
  report("copy64_issue_us", copy64.mean);
  report("copy64_issue_median_us", copy64.median);
  const auto launch_and_wait = [] {
    nothing<<<1, 1>>>();
    CUDA_OK(cudaStreamSynchronize(nullptr));
  };
  const auto copy_out = [&] { CUDA_OK(cudaMemcpy(host, device, 4, cudaMemcpyDeviceToHost)); };
  samples(200, {}, launch_and_wait);
  const auto launches = samples(2000, {}, launch_and_wait);
  report("launch_sync_p50_us", percentile(launches, 0.5));
  report("launch_sync_p99_us", percentile(launches, 0.99));
  report("waited_call_spinning_p50_us", percentile(samples(2000, {}, copy_out), 0.5));
  report("waited_call_sleeping_p50_us",
         percentile(samples(200, std::chrono::microseconds(3000), copy_out), 0.5));
  constexpr int kLaunches = 20'000;
  const auto start = Clock::now();
  for (int i = 0; i < kLaunches; ++i) nothing<<<1, 1>>>();
  CUDA_OK(cudaDeviceSynchronize());
  report("launch_throughput_us", since(start) / kLaunches);
  CUDA_OK(cudaFree(device));
}

void measure_copies(size_t size) {
  unsigned char* device = nullptr;
  unsigned char* pinned = nullptr;
  CUDA_OK(cudaMalloc(&device, size));
  CUDA_OK(cudaMallocHost(&pinned, size));
  std::vector<unsigned char> pageable(size, 1);
  std::vector<unsigned char> second(size, 2);
  std::memset(pinned, 3, size);
  // The best of some rounds: what the path can do, without the first round's page faults.
  const auto rate = [&](const std::function<void()>& copy) {
    double best = 0;
    for (int round = 0; round < 6; ++round) {
      const auto start = Clock::now();
      copy();
      best = std::max(best, static_cast<double>(size) / since(start) / 1e3);
    }
    return best;
  };
  const auto copy = [size](void* to, const void* from, cudaMemcpyKind kind) {
    CUDA_OK(cudaMemcpyAsync(to, from, size, kind));
    CUDA_OK(cudaStreamSynchronize(nullptr));
  };
  report("memcpy_gbs", rate([&] { std::memcpy(second.data(), pageable.data(), size); }));
  report("pinned_to_device_gbs", rate([&] { copy(device, pinned, cudaMemcpyHostToDevice); }));
  report("device_to_pinned_gbs", rate([&] { copy(pinned, device, cudaMemcpyDeviceToHost); }));
  report("pageable_to_device_gbs", rate([&] { copy(device, pageable.data(), cudaMemcpyHostToDevice); }));
  report("device_to_pageable_gbs", rate([&] { copy(second.data(), device, cudaMemcpyDeviceToHost); }));
  CUDA_OK(cudaFree(device));
  CUDA_OK(cudaFreeHost(pinned));
}

/// The software GPU's own count of executed lane instructions; nullptr on any other device.
struct Meter {
  size_t size;
  CUresult (*busy_ns)(uint64_t*);
  CUresult (*lane_instructions)(uint64_t*);
};

const Meter* find_meter() {
  CUuuid id{};
  std::memcpy(id.bytes, "softgpu-meter-01", sizeof id.bytes);
  const void* table = nullptr;
  if (cuGetExportTable(&table, &id) != CUDA_SUCCESS) return nullptr;
  return static_cast<const Meter*>(table);
}

/// Times one kernel of about `wanted_us`, launched and waited for; returns the median in microseconds.
double kernel_time(const std::function<void(int)>& launch, int rounds) {
  const auto times = samples(30, {}, [&] {
    launch(rounds);
    CUDA_OK(cudaStreamSynchronize(nullptr));
  });
  return percentile(times, 0.5);
}

void measure_kernels() {
  constexpr int kThreads = 128 * 64;
  constexpr int kChurnRounds = 2000;
  unsigned* data = nullptr;
  CUDA_OK(cudaMalloc(&data, kThreads * sizeof(unsigned)));
  CUDA_OK(cudaMemset(data, 0, kThreads * sizeof(unsigned)));
  const auto launch = [&](int rounds) { churn<<<64, 128>>>(data, rounds); };
  launch(10);
  CUDA_OK(cudaDeviceSynchronize());
  // The same work natively and through vgpud, whatever the machine: fixed rounds, several milliseconds here.
  report("kernel_churn_us", kernel_time(launch, kChurnRounds));

  constexpr int kSide = 192;
  std::vector<float> a(kSide * kSide, 0.5F);
  std::vector<float> b(kSide * kSide, 0.25F);
  std::vector<float> c(kSide * kSide);
  float* device[3] = {};
  for (auto& matrix : device) CUDA_OK(cudaMalloc(&matrix, a.size() * sizeof(float)));
  CUDA_OK(cudaMemcpy(device[0], a.data(), a.size() * sizeof(float), cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy(device[1], b.data(), b.size() * sizeof(float), cudaMemcpyHostToDevice));
  const auto product = [&](int) {
    multiply<<<dim3(kSide / 16, kSide / 16), dim3(16, 16)>>>(device[0], device[1], device[2], kSide);
  };
  product(0);
  CUDA_OK(cudaDeviceSynchronize());
  report("kernel_product_us", kernel_time(product, 0));

  std::vector<unsigned> host(kThreads, 0);
  auto start = Clock::now();
  plain_churn(host.data(), kThreads, kChurnRounds);
  report("plain_churn_us", since(start));
  volatile unsigned keep = host[17];
  start = Clock::now();
  plain_multiply(a.data(), b.data(), c.data(), kSide);
  report("plain_product_us", since(start));
  keep = static_cast<unsigned>(c[5]);
  (void)keep;

  if (const Meter* meter = find_meter(); meter != nullptr) {
    uint64_t before = 0;
    uint64_t after = 0;
    DRV_OK(meter->lane_instructions(&before));
    start = Clock::now();
    for (int i = 0; i < 20; ++i) product(0);
    CUDA_OK(cudaDeviceSynchronize());
    const double product_time = since(start);
    DRV_OK(meter->lane_instructions(&after));
    report("lane_instructions_product_per_us", static_cast<double>(after - before) / product_time);
    DRV_OK(meter->lane_instructions(&before));
    start = Clock::now();
    for (int i = 0; i < 20; ++i) launch(kChurnRounds);
    CUDA_OK(cudaDeviceSynchronize());
    const double churn_time = since(start);
    DRV_OK(meter->lane_instructions(&after));
    report("lane_instructions_churn_per_us", static_cast<double>(after - before) / churn_time);
  }
}

}  // namespace

int main(int argc, char** argv) {
  size_t bulk_mb = 64;
  std::string only;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--bulk-mb") == 0) bulk_mb = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
  }
  if (only.empty() || only == "calls") measure_calls();
  if (only.empty() || only == "copies") measure_copies(bulk_mb << 20U);
  if (only.empty() || only == "kernels") measure_kernels();
  return 0;
}
