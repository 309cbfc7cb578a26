#include "cli/top/screen.hpp"

#include <curses.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <utility>

namespace vgpu::cli {
namespace {

constexpr short kRed = 1;
constexpr int kEscape = 27;
constexpr int kBackspace = 8;
constexpr int kDelete = 127;

attr_t attributes(TopStyle style) {
  switch (style) {
    case TopStyle::plain:
      return A_NORMAL;
    case TopStyle::heading:
      return A_REVERSE;
    case TopStyle::title:
      return A_BOLD;
    case TopStyle::selected:
      return A_STANDOUT | A_BOLD;
    case TopStyle::dim:
      return A_DIM;
    case TopStyle::bad:
      return static_cast<attr_t>(COLOR_PAIR(kRed)) | A_BOLD;
  }
  return A_NORMAL;
}

}  // namespace

tl::expected<Screen, std::string> Screen::open() {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) {
    return tl::unexpected(std::string("top needs a terminal; 'stats --json' is for programs"));
  }
  std::setlocale(LC_ALL, "");
  SCREEN* terminal = newterm(nullptr, stdout, stdin);
  if (terminal == nullptr) {
    const char* name = std::getenv("TERM");
    return tl::unexpected("the terminal '" + std::string(name != nullptr ? name : "") +
                          "' is not known (TERM)");
  }
  Screen screen;
  screen.terminal_ = terminal;
  set_term(terminal);
  cbreak();
  noecho();
  keypad(stdscr, TRUE);
  set_escdelay(50);
  curs_set(0);
  if (has_colors()) {
    start_color();
    use_default_colors();
    init_pair(kRed, COLOR_RED, -1);
  }
  return screen;
}

Screen::Screen(Screen&& other) noexcept : terminal_(std::exchange(other.terminal_, nullptr)) {}

Screen::~Screen() {
  if (terminal_ == nullptr) return;
  endwin();
  delscreen(static_cast<SCREEN*>(terminal_));
}

// NOLINTBEGIN(readability-convert-member-functions-to-static): ncurses' state is this object's
std::size_t Screen::width() const {
  return static_cast<std::size_t>(COLS);
}

std::size_t Screen::height() const {
  return static_cast<std::size_t>(LINES);
}

void Screen::paint(const std::vector<TopLine>& lines) {
  erase();
  int y = 0;
  for (const TopLine& line : lines) {
    attrset(static_cast<int>(attributes(line.style)));
    mvaddstr(y, 0, line.text.c_str());
    if (line.style == TopStyle::heading || line.style == TopStyle::selected) {
      for (int x = getcurx(stdscr); x < COLS && getcury(stdscr) == y; ++x) addch(' ');
    }
    ++y;
  }
  attrset(A_NORMAL);
  refresh();
}

std::optional<int> Screen::key(int milliseconds) {
  timeout(milliseconds);
  const int code = getch();
  switch (code) {
    case ERR:
    case KEY_RESIZE:
      return std::nullopt;
    case KEY_UP:
      return kTopUp;
    case KEY_DOWN:
      return kTopDown;
    case KEY_HOME:
      return kTopHome;
    case KEY_END:
      return kTopEnd;
    case KEY_ENTER:
    case '\n':
    case '\r':
      return kTopEnter;
    case KEY_BACKSPACE:
    case kBackspace:
    case kDelete:
      return kTopErase;
    case kEscape:
      return kTopEscape;
    default:
      return code;
  }
}
// NOLINTEND(readability-convert-member-functions-to-static)

}  // namespace vgpu::cli
