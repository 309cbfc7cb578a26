// What `vgpud-cli top` shows and how it answers keys. Pure: it is given vgpud's answers, keys and the time,
// and gives lines and requests; terminal and socket are others' (screen.hpp, top_command.cpp).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace vgpu::cli {

// One client's line.
struct TopRow {
  std::uint64_t session = 0;
  std::int64_t pid = 0;
  std::string user, program, class_name, device, state;
  std::uint64_t weight = 0;
  double share = 0;          // of the device time used since the last answer, 0..1
  std::uint64_t memory = 0;  // bytes
  std::uint64_t quota = 0;   // bytes, 0: none
  double launch_rate = 0;    // per second
  std::uint64_t queue = 0, p50_ns = 0, p99_ns = 0, errors = 0;
};

enum class TopSort { share, memory, pid, user, rate, queue, latency };

enum class TopStyle { plain, heading, title, selected, dim, bad };

struct TopLine {
  std::string text;
  TopStyle style = TopStyle::plain;
};

// Keys that are not characters.
enum TopKey : int { kTopUp = 1000, kTopDown, kTopHome, kTopEnd, kTopEscape, kTopEnter, kTopErase };

class TopModel {
 public:
  // Takes an answer to {"request":"stats"} that came at `now` (seconds, any origin).
  void update(const nlohmann::json& answer, double now);
  // vgpud does not answer: the old figures stay, with this sentence.
  void lost(const std::string& why);
  // What became of a request: shown until the next key.
  void say(std::string sentence) { message_ = std::move(sentence); }

  // Takes a key; a request to be sent, if it asks for one.
  std::optional<nlohmann::json> on_key(int key);
  [[nodiscard]] bool finished() const { return finished_; }
  // Seconds between two looks.
  [[nodiscard]] double period() const { return period_; }
  void set_period(double seconds) { period_ = seconds; }

  // The screen's lines, at most `height` of at most `width` bytes.
  [[nodiscard]] std::vector<TopLine> lines(std::size_t width, std::size_t height) const;
  [[nodiscard]] const std::vector<TopRow>& rows() const { return rows_; }
  // The selected client; null when there is none.
  [[nodiscard]] const TopRow* selected() const;

 private:
  enum class Mode { browsing, weight, class_name, period, quarantine, kill, help };
  struct Before {
    std::uint64_t device_ns = 0;
    std::uint64_t launches = 0;
  };

  void read_clients(const nlohmann::json& answer, double passed);
  void read_devices(const nlohmann::json& answer);
  void sort();
  void step(int by);
  std::optional<nlohmann::json> browse(int key);
  std::optional<nlohmann::json> edit(int key);
  std::optional<nlohmann::json> submit();
  [[nodiscard]] nlohmann::json request(const char* name) const;
  [[nodiscard]] std::string prompt() const;
  void add_clients(std::vector<TopLine>& lines, std::size_t height) const;

  std::vector<TopRow> rows_;
  std::vector<std::string> devices_;
  std::string summary_, message_, trouble_;
  std::map<std::uint64_t, Before> before_;
  double last_ = 0;
  std::uint64_t selected_ = 0;  // a session's number
  TopSort sort_ = TopSort::share;
  bool reversed_ = false;
  Mode mode_ = Mode::browsing;
  std::string typed_;
  double period_ = 1;
  bool finished_ = false;
};

}  // namespace vgpu::cli
