#include "daemon/handover/state_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "protocol/errno_text.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::uint64_t kMagic = 0x4154535544504756;  // "VGPDUSTA"
constexpr std::uint64_t kVersion = 1;

struct Header {
  std::uint64_t magic = kMagic;
  std::uint64_t version = kVersion;
};

// Sequence 0: never written.
struct SlotHead {
  std::uint64_t sequence = 0;
  std::uint64_t bytes = 0;
};

constexpr off_t kFirstSlot = 4096;
constexpr off_t kSlotBytes = 4096 + static_cast<off_t>(StateMemory::max_bytes);
constexpr off_t kFileBytes = kFirstSlot + 2 * kSlotBytes;

constexpr off_t slot_at(std::size_t index) {
  return kFirstSlot + static_cast<off_t>(index) * kSlotBytes;
}

tl::unexpected<std::string> problem(const char* what) {
  return tl::unexpected(errno_text(what));
}

template <class T>
bool read_at(int fd, off_t offset, T& value) {
  return pread(fd, &value, sizeof value, offset) == static_cast<ssize_t>(sizeof value);
}

template <class T>
bool write_at(int fd, off_t offset, const T& value) {
  return pwrite(fd, &value, sizeof value, offset) == static_cast<ssize_t>(sizeof value);
}

bool read_heads(int fd, std::array<SlotHead, 2>& heads) {
  return read_at(fd, slot_at(0), heads[0]) && read_at(fd, slot_at(1), heads[1]);
}

}  // namespace

tl::expected<StateMemory, std::string> StateMemory::create(const char* name) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return problem("memfd_create");
  if (ftruncate(fd.get(), kFileBytes) != 0) return problem("ftruncate of a state memory");
  if (!write_at(fd.get(), 0, Header{})) return problem("writing a state memory");
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return problem("sealing a state memory");
  }
  return StateMemory(std::move(fd));
}

tl::expected<StateMemory, std::string> StateMemory::open(UniqueFd fd) {
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return problem("fstat of a state memory");
  Header header;
  if (status.st_size != kFileBytes || !read_at(fd.get(), 0, header) || header.magic != kMagic) {
    return tl::unexpected(std::string("this is no state memory"));
  }
  if (header.version != kVersion) {
    return tl::unexpected("the state memory has version " + std::to_string(header.version));
  }
  return StateMemory(std::move(fd));
}

tl::expected<std::vector<std::uint8_t>, std::string> StateMemory::read() const {
  std::array<SlotHead, 2> heads;
  if (!read_heads(fd_.get(), heads)) return problem("reading a state memory");
  const std::size_t newest = heads[1].sequence > heads[0].sequence ? 1 : 0;
  const SlotHead& head = heads.at(newest);
  if (head.sequence == 0) return tl::unexpected(std::string("the state memory is empty"));
  if (head.bytes > max_bytes) return tl::unexpected(std::string("the state memory is damaged"));
  std::vector<std::uint8_t> value(head.bytes);
  const off_t data = slot_at(newest) + static_cast<off_t>(sizeof head);
  if (pread(fd_.get(), value.data(), value.size(), data) != static_cast<ssize_t>(value.size())) {
    return problem("reading a state memory");
  }
  return value;
}

tl::expected<void, std::string> StateMemory::write(std::span<const std::uint8_t> value) {
  if (value.size() > max_bytes) return tl::unexpected(std::string("the state does not fit its memory"));
  std::array<SlotHead, 2> heads;
  if (!read_heads(fd_.get(), heads)) return problem("reading a state memory");
  const std::size_t older = heads[1].sequence > heads[0].sequence ? 0 : 1;
  const SlotHead head{heads.at(1 - older).sequence + 1, value.size()};
  const off_t data = slot_at(older) + static_cast<off_t>(sizeof head);
  // The head makes the slot the value: it comes last.
  if (pwrite(fd_.get(), value.data(), value.size(), data) != static_cast<ssize_t>(value.size()) ||
      !write_at(fd_.get(), slot_at(older), head)) {
    return problem("writing a state memory");
  }
  return {};
}

}  // namespace vgpu::daemon
