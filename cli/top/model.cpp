#include "cli/top/model.hpp"

#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "cli/fields.hpp"
#include "cli/format.hpp"

namespace vgpu::cli {
namespace {

using nlohmann::json;

constexpr std::array<const char*, 17> kHelp{
    "Up, Down, Home, End   choose a client",
    "S M P U L Q T         sort by share, memory, pid, user, launches, queue, latency (p99)",
    "R                     reverse the order",
    "p                     pause the client: its calls wait        r  resume it",
    "w                     change its weight                       c  change its class",
    "k                     kill: end its use of the device, its calls fail",
    "z                     quarantine its user's program: it waits, new starts are refused        u  release "
    "it",
    "d                     seconds between two looks               Space  look now",
    "q                     quit",
    "",
    "SHARE     of the device time that clients used since the last look",
    "LAUNCH/S  kernels and graphs launched a second",
    "QUEUE     ring units that its worker has not taken yet",
    "P50 P99   how long its worker took to answer calls that were waited for",
    "",
    "Owners may pause, resume, kill and lower their clients; all else is for root and vgpu-admin.",
    "Any key goes back."};

// Names may come from clients.
std::string safe_text(const json& object, const char* key) {
  return printable(text(object, key));
}

std::string user_name(std::uint64_t uid) {
  static std::map<std::uint64_t, std::string> known;  // NSS may be slow
  const auto [entry, fresh] = known.try_emplace(uid, std::to_string(uid));
  if (fresh) {
    if (const passwd* user = getpwuid(static_cast<uid_t>(uid))) entry->second = user->pw_name;
  }
  return entry->second;
}

std::string rate(double value) {
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), value < 10 ? "%.1f" : "%.0f", value);
  return buffer.data();
}

std::string bar(double part, std::size_t width) {
  const auto filled =
      static_cast<std::size_t>(std::lround(std::clamp(part, 0.0, 1.0) * static_cast<double>(width)));
  return "[" + std::string(filled, '#') + std::string(width - filled, ' ') + "]";
}

// True when `a` stands before `b`.
bool before(const TopRow& a, const TopRow& b, TopSort sort) {
  switch (sort) {
    case TopSort::share:
      return a.share > b.share;
    case TopSort::memory:
      return a.memory > b.memory;
    case TopSort::pid:
      return a.pid < b.pid;
    case TopSort::user:
      return a.user < b.user;
    case TopSort::rate:
      return a.launch_rate > b.launch_rate;
    case TopSort::queue:
      return a.queue > b.queue;
    case TopSort::latency:
      return a.p99_ns > b.p99_ns;
  }
  return false;
}

TopStyle style_of(const TopRow& row) {
  if (row.state == "failed" || row.state == "quarantined") return TopStyle::bad;
  return row.state == "running" ? TopStyle::plain : TopStyle::dim;
}

}  // namespace

void TopModel::update(const json& answer, double now) {
  const double passed = last_ > 0 ? now - last_ : 0;
  last_ = now;
  trouble_.clear();
  read_clients(answer, passed);
  read_devices(answer);
  const json broker = answer.value("broker", json::object());
  summary_ = "vgpud " + safe_text(broker, "version") + ", up " + format_time(number(broker, "uptime_ns")) +
             ", " + std::to_string(rows_.size()) + " clients now, " +
             std::to_string(number(broker, "clients_admitted")) + " admitted, " +
             std::to_string(number(broker, "clients_refused")) + " refused, " +
             std::to_string(number(broker, "worker_failures")) + " worker failures";
}

void TopModel::read_clients(const json& answer, double passed) {
  rows_.clear();
  std::map<std::uint64_t, Before> present;
  double used = 0;
  for (const json& client : answer.value("clients", json::array())) {
    TopRow row;
    row.session = number(client, "session");
    row.pid = static_cast<std::int64_t>(number(client, "pid"));
    row.user = user_name(number(client, "uid"));
    row.program = safe_text(client, "program");
    row.class_name = safe_text(client, "class");
    row.device = safe_text(client, "device");
    row.state = safe_text(client, "state");
    row.weight = number(client, "weight");
    row.memory = number(client, "memory_used");
    row.quota = number(client, "memory_quota");
    row.queue = number(client, "queue_depth");
    row.p50_ns = number(client, "latency_p50_ns");
    row.p99_ns = number(client, "latency_p99_ns");
    row.errors = number(client, "errors");
    const Before is{number(client, "device_ns"), number(client, "launches")};
    if (const auto was = before_.find(row.session); was != before_.end() && passed > 0) {
      row.share = static_cast<double>(is.device_ns - std::min(is.device_ns, was->second.device_ns));
      row.launch_rate =
          static_cast<double>(is.launches - std::min(is.launches, was->second.launches)) / passed;
    }
    used += row.share;
    present[row.session] = is;
    rows_.push_back(std::move(row));
  }
  for (TopRow& row : rows_) row.share = used > 0 ? row.share / used : 0;
  before_ = std::move(present);
  sort();
}

void TopModel::read_devices(const json& answer) {
  devices_.clear();
  std::map<std::string, std::uint64_t> memory;
  for (const TopRow& row : rows_) memory[row.device] += row.memory;
  for (const json& device : answer.value("devices", json::array())) {
    const std::string name = safe_text(device, "name");
    const double busy = device.value("busy", 0.0);
    std::string line = name + "  " + bar(busy, 20) + " " + format_percent(busy) + " busy  " +
                       format_bytes(memory[name]) + " of " + format_bytes(number(device, "memory")) +
                       " used  " + std::to_string(number(device, "workers_attached")) + " clients  " +
                       safe_text(device, "model");
    if (const std::string problem = safe_text(device, "problem"); !problem.empty())
      line += "  CANNOT SERVE: " + problem;
    devices_.push_back(std::move(line));
  }
}

void TopModel::lost(const std::string& why) {
  trouble_ = why;
}

void TopModel::sort() {
  std::stable_sort(rows_.begin(), rows_.end(), [&](const TopRow& a, const TopRow& b) {
    return reversed_ ? before(b, a, sort_) : before(a, b, sort_);
  });
  if (selected() == nullptr) selected_ = rows_.empty() ? 0 : rows_.front().session;
}

const TopRow* TopModel::selected() const {
  const auto found =
      std::find_if(rows_.begin(), rows_.end(), [&](const TopRow& row) { return row.session == selected_; });
  return found == rows_.end() ? nullptr : &*found;
}

void TopModel::step(int by) {
  if (rows_.empty()) return;
  const TopRow* at = selected();
  const auto last = static_cast<std::ptrdiff_t>(rows_.size()) - 1;
  const std::ptrdiff_t index = at == nullptr ? 0 : at - rows_.data();
  selected_ = rows_[static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(index + by, 0, last))].session;
}

json TopModel::request(const char* name) const {
  return {{"request", name}, {"session", selected_}};
}

std::optional<json> TopModel::on_key(int key) {
  message_.clear();
  if (mode_ == Mode::browsing) return browse(key);
  if (mode_ == Mode::help) {
    mode_ = Mode::browsing;
    return std::nullopt;
  }
  return edit(key);
}

std::optional<json> TopModel::browse(int key) {
  static constexpr std::array<std::pair<char, TopSort>, 7> sorts{{{'S', TopSort::share},
                                                                  {'M', TopSort::memory},
                                                                  {'P', TopSort::pid},
                                                                  {'U', TopSort::user},
                                                                  {'L', TopSort::rate},
                                                                  {'Q', TopSort::queue},
                                                                  {'T', TopSort::latency}}};
  for (const auto& [letter, by] : sorts) {
    if (key != letter) continue;
    sort_ = by;
    sort();
    return std::nullopt;
  }
  typed_.clear();
  const bool chosen = selected() != nullptr;
  switch (key) {
    case 'q':
      finished_ = true;
      break;
    case kTopUp:
      step(-1);
      break;
    case kTopDown:
      step(1);
      break;
    case kTopHome:
      step(-static_cast<int>(rows_.size()));
      break;
    case kTopEnd:
      step(static_cast<int>(rows_.size()));
      break;
    case 'R':
      reversed_ = !reversed_;
      sort();
      break;
    case 'h':
    case '?':
      mode_ = Mode::help;
      break;
    case 'd':
      mode_ = Mode::period;
      break;
    case 'p':
      if (chosen) return request("pause");
      break;
    case 'r':
      if (chosen) return request("resume");
      break;
    case 'k':
      if (chosen) mode_ = Mode::kill;
      break;
    case 'w':
      if (chosen) mode_ = Mode::weight;
      break;
    case 'c':
      if (chosen) mode_ = Mode::class_name;
      break;
    case 'z':
      if (chosen) mode_ = Mode::quarantine;
      break;
    case 'u':
      if (chosen) return request("release");
      break;
    default:
      break;
  }
  return std::nullopt;
}

std::optional<json> TopModel::edit(int key) {
  if (key == kTopEscape) {
    mode_ = Mode::browsing;
  } else if (mode_ == Mode::kill) {
    mode_ = Mode::browsing;
    if (key == 'y') return request("kill");
  } else if (key == kTopEnter) {
    return submit();
  } else if (key == kTopErase) {
    if (!typed_.empty()) typed_.pop_back();
  } else if (key > 0x20 && key < 0x7f && typed_.size() < 64) {
    typed_ += static_cast<char>(key);
  }
  return std::nullopt;
}

std::optional<json> TopModel::submit() {
  const Mode mode = std::exchange(mode_, Mode::browsing);
  if (mode == Mode::quarantine) {
    json change = request("quarantine");
    if (!typed_.empty()) change["for"] = typed_;
    return change;
  }
  if (typed_.empty()) return std::nullopt;
  if (mode == Mode::period) {
    double seconds = 0;
    const auto [end, error] = std::from_chars(typed_.data(), typed_.data() + typed_.size(), seconds);
    if (error != std::errc{} || end != typed_.data() + typed_.size() || seconds < 0.1 || seconds > 3600) {
      say("'" + typed_ + "' is no time from 0.1 to 3600 seconds");
    } else {
      period_ = seconds;
    }
    return std::nullopt;
  }
  json change = request("set");
  change["target"] = "client";
  change["settings"] = {{mode == Mode::weight ? "weight" : "class", typed_}};
  return change;
}

std::string TopModel::prompt() const {
  const TopRow* row = selected();
  const std::string who =
      row != nullptr ? row->program + " (" + std::to_string(row->pid) + ")" : "the client";
  switch (mode_) {
    case Mode::weight:
      return "weight of " + who + ": " + typed_ + "_";
    case Mode::class_name:
      return "class of " + who + ": " + typed_ + "_";
    case Mode::period:
      return "seconds between two looks: " + typed_ + "_";
    case Mode::quarantine:
      return "quarantine " + who +
             ", for how long (10min, 1h; nothing: until it is released; Esc: not at all): " + typed_ + "_";
    case Mode::kill:
      return "kill " + who + "? y to do it";
    case Mode::browsing:
    case Mode::help:
      break;
  }
  if (!message_.empty()) return message_;
  return "q quit  ? help  p pause  r resume  k kill  z quarantine  w weight  c class  S M P U L Q T sort";
}

void TopModel::add_clients(std::vector<TopLine>& lines, std::size_t height) const {
  std::vector<std::vector<std::string>> cells;
  for (const TopRow& row : rows_) {
    cells.push_back({std::to_string(row.pid), row.user, row.program, row.class_name, row.device, row.state,
                     std::to_string(row.weight), format_percent(row.share),
                     format_bytes(row.memory) + " / " + (row.quota != 0 ? format_bytes(row.quota) : "-"),
                     rate(row.launch_rate), std::to_string(row.queue), format_time(row.p50_ns),
                     format_time(row.p99_ns), std::to_string(row.errors)});
  }
  const std::string table =
      format_table({"PID", "USER", "PROGRAM", "CLASS", "DEVICE", "STATE", "WEIGHT", "SHARE", "MEMORY / QUOTA",
                    "LAUNCH/S", "QUEUE", "P50", "P99", "ERRORS"},
                   cells, 6);
  // The selected line stays in sight.
  const TopRow* at = selected();
  const std::size_t index = at == nullptr ? 0 : static_cast<std::size_t>(at - rows_.data());
  const std::size_t room = height > lines.size() + 2 ? height - lines.size() - 2 : 0;
  const std::size_t first = index >= room && room > 0 ? index - room + 1 : 0;
  std::size_t line = 0;
  for (std::size_t start = 0; start < table.size(); ++line) {
    const std::size_t end = table.find('\n', start);
    const std::string text = table.substr(start, end - start);
    start = end + 1;
    if (line == 0) {
      lines.push_back({text, TopStyle::heading});
    } else if (line - 1 >= first && line - 1 < first + room) {
      const TopRow& row = rows_[line - 1];
      lines.push_back({text, row.session == selected_ ? TopStyle::selected : style_of(row)});
    }
  }
}

std::vector<TopLine> TopModel::lines(std::size_t width, std::size_t height) const {
  std::vector<TopLine> lines{{summary_, TopStyle::title}};
  if (!trouble_.empty()) lines.push_back({trouble_, TopStyle::bad});
  if (mode_ == Mode::help) {
    for (const char* line : kHelp) lines.push_back({line, TopStyle::plain});
  } else {
    for (const std::string& device : devices_) lines.push_back({device, TopStyle::plain});
    lines.push_back({});
    add_clients(lines, height);
    if (rows_.empty()) lines.push_back({"no clients", TopStyle::dim});
  }
  if (lines.size() + 1 > height) lines.resize(height > 0 ? height - 1 : 0);
  lines.push_back({prompt(), TopStyle::dim});
  for (TopLine& line : lines) line.text.resize(std::min(line.text.size(), width));
  return lines;
}

}  // namespace vgpu::cli
