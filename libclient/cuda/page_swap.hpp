// Turning pages of this process into pages of a file and back, with the same contents at the same address:
// how memory that the program allocated itself becomes visible to the worker. Never: touches memory that is
// not private, anonymous and writable.
#pragma once

#include <cstdint>

namespace vgpu::client {

/// True if the whole pages [begin, begin + size) may be exchanged so that only [data, data + bytes) and
/// unused bytes around it are affected: private anonymous writable memory, and not a part of the heap or a
/// stack that others write to meanwhile.
bool can_swap_pages(std::uint64_t begin, std::uint64_t size, std::uint64_t data, std::uint64_t bytes);

/// Puts `file` (at least `size` bytes) in the place of the pages, with their contents. False if nothing was
/// changed.
bool swap_pages_for_file(std::uint64_t begin, std::uint64_t size, int file);

/// In the child of a fork: the pages are `file`'s as before, but what the child writes stays its own. False
/// if nothing was changed.
bool part_with_file(std::uint64_t begin, std::uint64_t size, int file);

/// Puts private anonymous pages with the same contents back. False if nothing was changed.
bool swap_pages_for_private(std::uint64_t begin, std::uint64_t size);

}  // namespace vgpu::client
