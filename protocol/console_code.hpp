// How console text tells what goes to standard output from what goes to standard error: by marks in the
// text, so that whoever only passes it on need not know.
#pragma once

#include <string>
#include <string_view>

namespace vgpu {

/// Reads and makes such text. An object reads one stream of it, in pieces of any size.
class ConsoleCode {
 public:
  /// `text` with its marks; `error`: it is for standard error.
  static std::string encode(std::string_view text, bool error) {
    std::string code;
    if (error) code += {escape, to_error};
    for (const char letter : text) {
      if (letter == escape) code += escape;
      code += letter;
    }
    if (error) code += {escape, to_output};
    return code;
  }

  /// Calls write(text, error) with the pieces of text that stand in `code`.
  template <class Write>
  void decode(std::string_view code, Write&& write) {
    std::size_t begin = 0;
    const auto flush = [&](std::size_t end) {
      if (end > begin) write(code.substr(begin, end - begin), error_);
    };
    for (std::size_t at = 0; at < code.size(); ++at) {
      if (escaped_) {
        escaped_ = false;
        if (code[at] == to_error || code[at] == to_output) {
          error_ = code[at] == to_error;
          begin = at + 1;
        } else {
          begin = at;  // the letter itself
        }
      } else if (code[at] == escape) {
        flush(at);
        begin = at + 1;
        escaped_ = true;
      }
    }
    flush(code.size());
  }

 private:
  static constexpr char escape = 0x10;
  static constexpr char to_error = 'e';
  static constexpr char to_output = 'o';

  bool escaped_ = false;
  bool error_ = false;
};

}  // namespace vgpu
