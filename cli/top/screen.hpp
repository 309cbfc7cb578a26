// The terminal of `vgpud-cli top`, by ncurses: paints lines, reads keys. Knows nothing of what they mean.
#pragma once

#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "cli/top/model.hpp"

namespace vgpu::cli {

// Holds the terminal while it lives; gives it back as it was. One at a time.
class Screen {
 public:
  // The error is a sentence: standard input or output is no terminal, or one that ncurses does not know.
  [[nodiscard]] static tl::expected<Screen, std::string> open();
  Screen(Screen&& other) noexcept;
  Screen& operator=(Screen&&) = delete;
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen();

  [[nodiscard]] std::size_t width() const;
  [[nodiscard]] std::size_t height() const;
  void paint(const std::vector<TopLine>& lines);
  // A key, as TopModel::on_key takes it, or none within `milliseconds`. A change of the window's size counts
  // as none and comes at once.
  std::optional<int> key(int milliseconds);

 private:
  Screen() = default;
  void* terminal_ = nullptr;  // ncurses' SCREEN
};

}  // namespace vgpu::cli
