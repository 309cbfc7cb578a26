#include "daemon/stub/guest/pci_function.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>

#include "protocol/futex.hpp"

namespace vgpu::stub_guest {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPage = 4096;

std::string first_line(const fs::path& path) {
  std::ifstream stream(path);
  std::string line;
  std::getline(stream, line);
  return line;
}

// "1af4:1110" from the files vendor and device, which hold 0x1af4 and 0x1110.
std::string id_of(const fs::path& folder) {
  std::string vendor = first_line(folder / "vendor");
  std::string device = first_line(folder / "device");
  if (vendor.rfind("0x", 0) != 0 || device.rfind("0x", 0) != 0) return {};
  return vendor.substr(2) + ":" + device.substr(2);
}

std::string reason() {
  return std::strerror(errno);
}

}  // namespace

tl::expected<fs::path, std::string> find_function(const std::string& sysfs_root, const std::string& address,
                                                  const std::vector<std::string>& ids) {
  const fs::path devices = fs::path(sysfs_root) / "bus/pci/devices";
  std::error_code failed;
  if (!address.empty()) {
    if (!fs::exists(devices / address, failed)) {
      return tl::unexpected("there is no PCI function " + address + " under " + devices.string());
    }
    return devices / address;
  }
  std::vector<fs::path> found;
  unsigned looked_at = 0;
  for (fs::directory_iterator entry(devices, failed), end; !failed && entry != end; entry.increment(failed)) {
    ++looked_at;
    if (std::find(ids.begin(), ids.end(), id_of(entry->path())) != ids.end()) found.push_back(entry->path());
  }
  if (found.empty()) {
    std::string wanted;
    for (const std::string& id : ids) wanted += (wanted.empty() ? "" : ", ") + id;
    return tl::unexpected("no VGPU-STUB function (" + wanted + ") among the " + std::to_string(looked_at) +
                          " functions under " + devices.string());
  }
  // Several ivshmem devices: the one that holds our magic; none does: the first, so that the reason is told.
  std::sort(found.begin(), found.end());
  for (const fs::path& folder : found) {
    if (found.size() > 1 && PciFunction::open(folder)) return folder;
  }
  return found.front();
}

PciFunction::~PciFunction() {
  if (base_ != nullptr) munmap(base_, mapped_);
  if (register_page_ != nullptr) munmap(register_page_, register_bytes_);
}

tl::expected<void, std::string> PciFunction::map_registers() {
  registers_.reset(::open((folder_ / "resource0").c_str(), O_RDWR | O_CLOEXEC));
  if (!registers_) return tl::unexpected((folder_ / "resource0").string() + ": " + reason());
  // A BAR smaller than a page may begin inside one; the kernel maps whole pages.
  const std::uint64_t start = std::strtoull(first_line(folder_ / "resource").c_str(), nullptr, 16);
  register_bytes_ = kPage;
  void* const page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, registers_.get(), 0);
  if (page == MAP_FAILED) return tl::unexpected("BAR0 cannot be mapped: " + reason());
  register_page_ = page;
  doorbell_ = reinterpret_cast<volatile std::uint32_t*>(static_cast<std::byte*>(page) + start % kPage +
                                                        stub::doorbell_register);
  return {};
}

tl::expected<std::unique_ptr<PciFunction>, std::string> PciFunction::open(const fs::path& folder) {
  std::unique_ptr<PciFunction> made(new PciFunction);
  made->folder_ = folder;
  {
    // Needs privileges; a udev rule has done it where this process has none.
    std::ofstream enable(folder / "enable");
    enable << "1" << std::flush;
  }
  if (first_line(folder / "enable") == "0") {
    return tl::unexpected(folder.string() +
                          " is not enabled, and vgpud may not enable it (udev rule missing?)");
  }
  if (auto mapped = made->map_registers(); !mapped) return tl::unexpected(mapped.error());
  std::error_code failed;
  made->memory_kind_ = fs::exists(folder / "resource2_wc", failed) ? "resource2_wc" : "resource2";
  const fs::path memory = folder / made->memory_kind_;
  made->memory_.reset(::open(memory.c_str(), O_RDWR | O_CLOEXEC));
  if (!made->memory_) return tl::unexpected(memory.string() + ": " + reason());
  struct stat status {};
  if (fstat(made->memory_.get(), &status) != 0 ||
      static_cast<std::uint64_t>(status.st_size) < stub::least_memory) {
    return tl::unexpected(memory.string() + ": BAR2 is too small");
  }
  // First the host's page alone: it says how large the rest is.
  const auto map = [&](std::size_t bytes) {
    void* const place = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, made->memory_.get(), 0);
    if (place == MAP_FAILED) return false;
    made->base_ = static_cast<std::byte*>(place);
    made->mapped_ = bytes;
    return true;
  };
  if (!map(kPage)) return tl::unexpected("BAR2 cannot be mapped: " + reason());
  if (const std::string why = made->problem(); !why.empty()) return tl::unexpected(why);
  const stub::HostPage& host = made->host();
  made->division_.memory_bytes = host.memory_bytes.load(std::memory_order_relaxed);
  made->division_.slot_count = host.slot_count.load(std::memory_order_relaxed);
  made->division_.slot_base = host.slot_base.load(std::memory_order_relaxed);
  made->division_.slot_stride = host.slot_stride.load(std::memory_order_relaxed);
  if (!made->division_.sound() || made->division_.memory_bytes > static_cast<std::uint64_t>(status.st_size)) {
    return tl::unexpected(std::string("the host describes a shared memory that cannot be"));
  }
  munmap(made->base_, kPage);
  made->base_ = nullptr;
  if (!map(made->division_.slot_base)) return tl::unexpected("BAR2 cannot be mapped: " + reason());
  return made;
}

std::string PciFunction::problem() const {
  const stub::HostPage& page = host();
  if (page.magic.load(std::memory_order_acquire) != stub::magic) {
    return "no vgpud serves " + folder_.filename().string() +
           " on the host: its memory does not begin with VGPU-STUB's magic";
  }
  const std::uint32_t version = page.version.load(std::memory_order_relaxed);
  if (version != stub::version) {
    return "the host's vgpud speaks version " + std::to_string(version) + " of VGPU-STUB, this one " +
           std::to_string(stub::version);
  }
  if (page.protocol_hash.load(std::memory_order_relaxed) != protocol_hash()) {
    return "the host's vgpud is of another build: install both from one";
  }
  if (page.state.load(std::memory_order_relaxed) != static_cast<std::uint32_t>(stub::HostState::serving)) {
    char text[sizeof page.reason];
    std::memcpy(text, page.reason, sizeof text);
    return "the host does not serve: " + std::string(text, strnlen(text, sizeof text));
  }
  return {};
}

bool PciFunction::host_alive(int longest_ms) const {
  const std::uint64_t before = host().heartbeat.load(std::memory_order_relaxed);
  const std::uint64_t until = now_ns() + static_cast<std::uint64_t>(longest_ms) * 1'000'000;
  while (host().heartbeat.load(std::memory_order_relaxed) == before) {
    if (now_ns() > until) return false;
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
  return true;
}

void PciFunction::ring(std::uint32_t vector) const {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint32_t peer = host().host_peer.load(std::memory_order_relaxed);
  *doorbell_ = peer << 16U | vector;
}

bool PciFunction::set_lock(std::uint32_t what, short type) const {
  struct flock wanted {};
  wanted.l_type = type;
  wanted.l_whence = SEEK_SET;
  wanted.l_start = what;
  wanted.l_len = 1;
  return fcntl(registers_.get(), F_SETLK, &wanted) == 0;
}

bool PciFunction::lock(std::uint32_t what) const {
  return set_lock(what, F_WRLCK);
}

void PciFunction::unlock(std::uint32_t what) const {
  set_lock(what, F_UNLCK);
}

bool PciFunction::locked_by_other(std::uint32_t what) const {
  struct flock wanted {};
  wanted.l_type = F_WRLCK;
  wanted.l_whence = SEEK_SET;
  wanted.l_start = what;
  wanted.l_len = 1;
  return fcntl(registers_.get(), F_GETLK, &wanted) == 0 && wanted.l_type != F_UNLCK;
}

}  // namespace vgpu::stub_guest
