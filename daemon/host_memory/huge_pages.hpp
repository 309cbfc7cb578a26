// Memory in huge pages, whose first touch is some ten times cheaper than that of small ones, and how many
// threads take it. Keeps nothing: what is mapped is the caller's to unmap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vgpu::host_memory {

inline constexpr std::uint64_t huge_page = std::uint64_t{2} << 20;
/// What one thread takes at a time: much enough to be worth its calls, little enough that each has some of a
/// move's part.
inline constexpr std::uint64_t chunk_bytes = std::uint64_t{32} << 20;

/// In whole huge pages.
[[nodiscard]] constexpr std::uint64_t in_huge_pages(std::uint64_t bytes) {
  return (bytes + huge_page - 1) / huge_page * huge_page;
}

/// Address space for `bytes`, whole huge pages, at an address that suits them; takes no memory yet. Null when
/// the system refuses. Any thread.
[[nodiscard]] std::byte* map_huge(std::uint64_t bytes);

/// Takes the memory behind a mapped range that holds nothing yet: its pages are there afterwards. Any thread,
/// several at once on different ranges.
void take_pages(std::span<std::byte> range);

/// Threads that take memory together: three of four CPUs, since it is the CPUs' work; 14 at most.
[[nodiscard]] unsigned lanes();

}  // namespace vgpu::host_memory
