#include "daemon/stub/host/vm_memory.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "protocol/errno_text.hpp"
#include "protocol/sealed_memory.hpp"

namespace vgpu::daemon::stub_host {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kRegisterBytes = 4096;

tl::unexpected<std::string> problem(const std::string& what) {
  return tl::unexpected(errno_text(what));
}

tl::expected<UniqueFd, std::string> file_of(const fs::path& path, std::uint64_t bytes) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0660));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0) return problem(path);
  if (static_cast<std::uint64_t>(status.st_size) != bytes &&
      ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return problem(path);
  }
  return fd;
}

// What the kernel's sysfs shows of the function. Source: Documentation/PCI/sysfs-pci.rst.
bool write_attributes(const fs::path& folder, std::uint64_t bytes) {
  const auto text = [&](const char* name, const std::string& value) {
    std::ofstream stream(folder / name);
    stream << value << '\n';
    return stream.good();
  };
  char ranges[256];
  std::snprintf(ranges, sizeof ranges,
                "0x%016x 0x%016x 0x%016x\n0x%016x 0x%016x 0x%016x\n0x%016llx 0x%016llx 0x%016x", 0xfebf1000U,
                0xfebf1000U + 255U, 0x40200U, 0U, 0U, 0U, 0x100000000ULL,
                static_cast<unsigned long long>(0x100000000ULL + bytes - 1), 0x14220cU);
  return text("vendor", "0x1af4") && text("device", "0x1110") && text("class", "0x050000") &&
         text("enable", "1") && text("resource", ranges);
}

}  // namespace

VmMemory::~VmMemory() {
  if (base_ != nullptr) munmap(base_, division_.memory_bytes);
  if (registers_ != nullptr) munmap(registers_, kRegisterBytes);
}

tl::expected<void, std::string> VmMemory::divide(std::uint64_t bytes, std::uint32_t slots) {
  division_ = stub::divide(bytes, slots);
  if (division_.sound()) return {};
  return tl::unexpected(
      std::string("the memory's size must be a power of two, from 16 MiB to 1 TiB, and hold at least "
                  "4 MiB for each of at most 64 slots"));
}

tl::expected<void, std::string> VmMemory::map(std::uint64_t bytes, std::uint32_t slots) {
  if (auto divided = divide(bytes, slots); !divided) return divided;
  void* const place =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory_.get(), 0);
  if (place == MAP_FAILED) return problem("mapping the VM's memory");
  base_ = static_cast<std::byte*>(place);
  return {};
}

tl::expected<std::unique_ptr<VmMemory>, std::string> VmMemory::create(std::uint64_t bytes,
                                                                      std::uint32_t slots) {
  std::unique_ptr<VmMemory> made(new VmMemory);
  // Before the kernel is asked for so much: its refusal would not say what is wrong.
  if (auto divided = made->divide(bytes, slots); !divided) return tl::unexpected(divided.error());
  made->memory_ = sealed_memory("vgpud-vm", bytes);
  if (!made->memory_) return problem("memory for a VM");
  if (auto mapped = made->map(bytes, slots); !mapped) return tl::unexpected(mapped.error());
  return made;
}

tl::expected<std::unique_ptr<VmMemory>, std::string> VmMemory::adopt(UniqueFd memory, std::uint32_t slots) {
  std::unique_ptr<VmMemory> made(new VmMemory);
  made->memory_ = std::move(memory);
  const auto bytes = sealed_bytes(made->memory_.get());
  if (!bytes) return tl::unexpected(std::string("the kept memory of a VM is not a sealed memfd"));
  if (auto mapped = made->map(*bytes, slots); !mapped) return tl::unexpected(mapped.error());
  return made;
}

tl::expected<std::unique_ptr<VmMemory>, std::string> VmMemory::create_tree(const fs::path& root,
                                                                           std::uint64_t bytes,
                                                                           std::uint32_t slots) {
  std::unique_ptr<VmMemory> made(new VmMemory);
  const fs::path folder = root / "bus/pci/devices/0000:00:05.0";
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) return tl::unexpected(folder.string() + ": " + failed.message());
  auto memory = file_of(folder / "resource2", bytes);
  auto registers = file_of(folder / "resource0", kRegisterBytes);
  if (!memory) return tl::unexpected(memory.error());
  if (!registers) return tl::unexpected(registers.error());
  made->memory_ = std::move(*memory);
  if (auto mapped = made->map(bytes, slots); !mapped) return tl::unexpected(mapped.error());
  void* const page = mmap(nullptr, kRegisterBytes, PROT_READ | PROT_WRITE, MAP_SHARED, registers->get(), 0);
  if (page == MAP_FAILED) return problem("mapping BAR0");
  made->registers_ = page;
  made->doorbell_ =
      reinterpret_cast<std::atomic<std::uint32_t>*>(static_cast<std::byte*>(page) + stub::doorbell_register);
  if (!write_attributes(folder, bytes))
    return tl::unexpected(folder.string() + ": its files cannot be written");
  return made;
}

void VmMemory::zero(std::uint64_t offset, std::uint64_t bytes) const {
  if (fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(bytes)) != 0) {
    std::memset(base_ + offset, 0, bytes);  // a file system without holes
  }
}

void VmMemory::clear_slot(std::uint32_t index) const {
  zero(division_.memory(index), division_.slot_stride);
  // The guest's words stay: it counts up in them.
  zero(division_.control(index) + offsetof(stub::SlotControl, host),
       sizeof(stub::SlotControl) - offsetof(stub::SlotControl, host));
  const ChannelHeader header{channel_magic, protocol_hash(), division_.arena_bytes()};
  std::memcpy(base_ + division_.memory(index), &header, sizeof header);
}

void VmMemory::clear_all() const {
  zero(0, division_.memory_bytes);
}

}  // namespace vgpu::daemon::stub_host
