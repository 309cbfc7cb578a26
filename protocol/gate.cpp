#include "protocol/gate.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>
#include <numeric>

#include "protocol/errno_text.hpp"
#include "protocol/received_fd.hpp"

namespace vgpu {
namespace {
constexpr std::size_t page_bytes = (sizeof(GatePage) + 4095) / 4096 * 4096;
constexpr std::size_t all_bytes = page_bytes * most_client_devices;
}  // namespace

struct GateMapping::Region {
  boost::interprocess::mapped_region mapping;
};

GateMapping::GateMapping() : region_(std::make_unique<Region>()) {}
GateMapping::~GateMapping() = default;

tl::expected<std::unique_ptr<GateMapping>, std::string> GateMapping::create(UniqueFd& fd) {
  UniqueFd made(memfd_create("vgpud-gate", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!made) return tl::unexpected(errno_text("memfd_create"));
  if (ftruncate(made.get(), static_cast<off_t>(all_bytes)) != 0)
    return tl::unexpected(errno_text("ftruncate"));
  if (fcntl(made.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return tl::unexpected(errno_text("sealing the gate page"));
  }
  auto mapping = attach(made.get());
  if (!mapping) return mapping;
  for (GatePage* page : (*mapping)->pages_) page->allowance_ns.store(no_limit_ns);
  fd = std::move(made);
  return mapping;
}

tl::expected<std::unique_ptr<GateMapping>, std::string> GateMapping::attach(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return tl::unexpected(errno_text("fstat of the gate page"));
  if (status.st_size != static_cast<off_t>(all_bytes)) {
    return tl::unexpected(std::string("the gate page has a wrong size"));
  }
  std::unique_ptr<GateMapping> result(new GateMapping);
  try {
    result->region_->mapping =
        boost::interprocess::mapped_region(ReceivedFd(fd), boost::interprocess::read_write, 0, all_bytes);
  } catch (const std::exception& error) {
    return tl::unexpected(std::string("mapping the gate page: ") + error.what());
  }
  auto* const begin = static_cast<std::byte*>(result->region_->mapping.get_address());
  for (std::size_t i = 0; i < most_client_devices; ++i) {
    result->pages_[i] = reinterpret_cast<GatePage*>(begin + i * page_bytes);
  }
  return result;
}

LatencyCounts read_counts(const std::atomic<std::uint64_t> (&counters)[latency_buckets]) {
  LatencyCounts counts{};
  for (std::size_t i = 0; i < latency_buckets; ++i) counts[i] = counters[i].load(std::memory_order_relaxed);
  return counts;
}

std::uint64_t percentile_ns(const LatencyCounts& counts, double fraction) {
  const std::uint64_t total = std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
  const auto wanted = static_cast<std::uint64_t>(fraction * static_cast<double>(total));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < latency_buckets; ++i) {
    seen += counts[i];
    if (seen > wanted) return i == 0 ? 0 : latency_bucket_end_ns(i);
  }
  return total == 0 ? 0 : latency_bucket_end_ns(latency_buckets - 1);
}

}  // namespace vgpu
