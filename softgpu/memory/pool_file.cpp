#include "softgpu/memory/pool_file.hpp"

#include <fcntl.h>

namespace softgpu {

tl::expected<std::shared_ptr<PoolFile>, int> PoolFile::create(std::uint64_t bytes) {
  auto memory = PhysicalMemory::create(bytes);
  if (!memory) return tl::unexpected(memory.error());
  return std::shared_ptr<PoolFile>(new PoolFile(std::move(*memory)));
}

std::shared_ptr<const PoolFile::Piece> PoolFile::take(std::uint64_t bytes) {
  constexpr std::uint64_t alignment = 4096;
  const std::unique_lock lock(mutex_);
  const auto offset = ranges_.take(bytes, alignment);
  return offset ? std::make_shared<const Piece>(shared_from_this(), *offset, bytes) : nullptr;
}

PoolFile::Piece::~Piece() {
  const std::unique_lock lock(file_->mutex_);
  // A piece whose pages did not go would hand its contents to the next one: it stays taken.
  if (fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset_),
                static_cast<off_t>(bytes_)) == 0) {
    file_->ranges_.give_back(offset_, bytes_);
  }
}

}  // namespace softgpu
