// The loop of `vgpud-cli top`: asks vgpud, paints, passes keys on.
#include <chrono>
#include <csignal>
#include <optional>

#include "cli/asking.hpp"
#include "cli/commands.hpp"
#include "cli/control_client.hpp"
#include "cli/top/model.hpp"
#include "cli/top/screen.hpp"

namespace vgpu::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Keeps a connection; makes a new one where vgpud has been restarted.
class Asker {
 public:
  explicit Asker(std::string path) : path_(std::move(path)) {}

  tl::expected<nlohmann::json, std::string> ask(const nlohmann::json& request) {
    if (!client_) {
      auto fresh = ControlClient::connect(path_);
      if (!fresh) return tl::unexpected(fresh.error());
      client_.emplace(std::move(*fresh));
    }
    auto answer = client_->ask(request);
    // A refusal is an answer too; anything else may have left a part of one behind.
    if (!answer && answer.error().rfind("vgpud says:", 0) != 0) client_.reset();
    return answer;
  }

 private:
  std::string path_;
  std::optional<ControlClient> client_;
};

void look(Asker& asker, TopModel& model) {
  const auto answer = asker.ask({{"request", "stats"}});
  if (answer) {
    model.update(*answer, std::chrono::duration<double>(Clock::now().time_since_epoch()).count());
  } else {
    model.lost(answer.error());
  }
}

volatile std::sig_atomic_t ended =
    0;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): a handler's

}  // namespace

int show_top(const std::string& control, double period) {
  Asker asker(control_path(control));
  if (const auto first = asker.ask({{"request", "stats"}}); !first) {
    print_error(first.error());
    return kNoBroker;
  }
  auto screen = Screen::open();
  if (!screen) {
    print_error(screen.error());
    return kFailed;
  }
  // The terminal must be given back however top ends.
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) std::signal(number, [](int) { ended = 1; });
  TopModel model;
  model.set_period(period);
  auto next = Clock::now();
  while (!model.finished() && ended == 0) {
    if (Clock::now() >= next) {
      look(asker, model);
      next = Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(model.period()));
    }
    screen->paint(model.lines(screen->width(), screen->height()));
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
    const auto key = screen->key(static_cast<int>(left > 0 ? left + 1 : 0));
    if (!key) continue;
    const auto request = model.on_key(*key);
    if (request) {
      const auto answer = asker.ask(*request);
      model.say(answer ? "done" : answer.error());
    }
    if (request || *key == ' ') next = Clock::now();
  }
  return kGood;
}

}  // namespace vgpu::cli
