// Counts the driver calls that a library of ours refuses, by name, so that an operator can see what a program
// missed. Never decides what is supported: a function is refused when only its weak stub is linked, or when
// it says so itself.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace cudaabi {

/// Called once for each name, when it is first refused; may be called from any thread and must not call back.
using UnsupportedObserver = void (*)(const char* name);

/// Counts one refused call of symbol_names()[index]. Returns CUDA_ERROR_NOT_SUPPORTED (801).
int note_unsupported(unsigned index);

/// The same for a function (or a private table's slot) that has a body and refuses this use of it.
int note_unsupported(std::string_view name);

/// Name and count of everything refused so far. Thread-safe.
std::vector<std::pair<std::string_view, std::uint64_t>> unsupported_counts();

/// Sets the observer (nullptr: none). With VGPU_LOG in the environment each first refusal also goes to
/// stderr.
void set_unsupported_observer(UnsupportedObserver observer);

}  // namespace cudaabi
