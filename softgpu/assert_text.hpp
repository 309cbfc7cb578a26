// Where the engine's messages about failed device assertions go.
#pragma once

#include <functional>
#include <string_view>

namespace softgpu {

/// Takes whole lines; the driver sets it once (default: stderr).
void set_assert_sink(std::function<void(std::string_view)> sink);

}  // namespace softgpu
