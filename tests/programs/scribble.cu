// A hostile client: uses CUDA, then writes random bytes over the shared memory it has in common with its
// worker, while another thread keeps making calls. What becomes of this process does not matter; of its
// neighbours it does.
//   scribble SEED [SECONDS]
#include <atomic>
#include <string>

#include "check.hpp"

namespace {

__global__ void set(int* out, int value) {
  *out = value;
}

struct Range {
  unsigned char* begin;
  size_t size;
};

/// The writable shared memfd mappings of this process: the channel and whatever else is shared with the
/// worker.
std::vector<Range> shared_ranges() {
  std::vector<Range> found;
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr) return found;
  char line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long begin = 0;
    unsigned long end = 0;
    char mode[8] = {};
    if (std::sscanf(line, "%lx-%lx %7s", &begin, &end, mode) != 3) continue;
    if (mode[1] != 'w' || mode[3] != 's' || std::strstr(line, "/memfd:") == nullptr) continue;
    found.push_back({reinterpret_cast<unsigned char*>(begin), end - begin});
  }
  std::fclose(maps);
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  const auto seed = static_cast<uint32_t>(argc > 1 ? std::atoi(argv[1]) : 1);
  const double seconds = argc > 2 ? std::atof(argv[2]) : 0.5;
  int* data = nullptr;
  CUDA_OK(cudaMalloc(&data, sizeof(int)));
  set<<<1, 1>>>(data, 1);
  CUDA_OK(cudaDeviceSynchronize());
  const std::vector<Range> ranges = shared_ranges();
  std::printf("scribble: %zu shared ranges\n", ranges.size());
  std::fflush(stdout);
  if (ranges.empty()) return 2;

  std::thread([=] {
    for (int i = 0;; ++i) {
      set<<<1, 1>>>(data, i);
      if (i % 64 == 0) (void)cudaDeviceSynchronize();
      (void)cudaGetLastError();
    }
  }).detach();

  check::Random random(seed * 2654435761U + 1);
  const double end = check::seconds() + seconds;
  constexpr size_t kHead = 64 * 1024;
  while (check::seconds() < end) {
    for (int i = 0; i < 200; ++i) {
      const Range& range = ranges[random.next() % ranges.size()];
      // Half of the writes go to the first pages, where headers, counters and slots are; the rest anywhere.
      const size_t span = random.next() % 2 == 0 && range.size > kHead ? kHead : range.size;
      size_t at = (static_cast<size_t>(random.next()) << 16U ^ random.next()) % span;
      switch ((seed + random.next()) % 4) {
        case 0:
          range.begin[at] = static_cast<unsigned char>(random.next());
          break;
        case 1:
          at &= ~size_t{3};
          *reinterpret_cast<volatile uint32_t*>(range.begin + at) =
              random.next() % 3 == 0 ? 0xffffffffU : random.next();
          break;
        case 2:
          at &= ~size_t{7};
          *reinterpret_cast<volatile uint64_t*>(range.begin + at) =
              random.next() % 3 == 0 ? ~uint64_t{0}
                                     : static_cast<uint64_t>(random.next()) << 32U | random.next();
          break;
        default:
          for (size_t k = 0; k < 64 && at + k < range.size; ++k)
            range.begin[at + k] = static_cast<unsigned char>(random.next());
      }
    }
    if (seed % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  std::_Exit(0);
}
