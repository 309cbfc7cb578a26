// A real vgpud process with fake workers, for tests: started in a folder of its own, ended with the object.
#pragma once

#include <sys/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daemon/testing/service_manager.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon::testing {

// What a client got for its hello.
struct Answer {
  std::unique_ptr<Welcome> welcome;
  std::unique_ptr<Refused> refused;
  std::vector<UniqueFd> fds;
  UniqueFd socket;  // the client's connection
};

class BrokerProcess {
 public:
  // `behaviour` names the fake driver (fake_worker.cpp), more keys of the device may follow behind a comma;
  // `more` is added to the configuration. With a `manager` it runs as a service of that one, which outlives
  // it.
  explicit BrokerProcess(const std::string& behaviour = "ok", const std::string& more = "",
                         const ServiceManager* manager = nullptr);
  ~BrokerProcess();
  BrokerProcess(const BrokerProcess&) = delete;
  BrokerProcess& operator=(const BrokerProcess&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string socket_path() const { return folder_ + "/vgpud.sock"; }
  [[nodiscard]] std::string control_path() const { return folder_ + "/control.sock"; }
  [[nodiscard]] std::string config_path() const { return folder_ + "/vgpud.yaml"; }
  [[nodiscard]] std::string folder() const { return folder_; }
  void write_config(const std::string& behaviour, const std::string& more) const;

  // True when requests are answered.
  [[nodiscard]] bool wait_until_up() const;
  // Connects without saying anything.
  [[nodiscard]] UniqueFd connect() const;
  // Connects, sends a hello (by default a good one) and waits for the answer.
  [[nodiscard]] Answer hello(std::uint64_t protocol) const;
  [[nodiscard]] Answer hello() const { return hello(protocol_hash()); }
  // Sends a line to the control socket; the line that comes back, or empty when the connection is closed.
  [[nodiscard]] std::string control_line(const std::string& line) const;
  [[nodiscard]] nlohmann::json ask(const nlohmann::json& request) const;
  [[nodiscard]] nlohmann::json stats() const { return ask({{"request", "stats"}}); }

  // Pids of the broker's children.
  [[nodiscard]] std::vector<pid_t> workers() const;
  [[nodiscard]] std::size_t open_descriptors() const;
  [[nodiscard]] std::string log() const;
  [[nodiscard]] bool alive() const;
  // Sends a signal and waits for the end; the exit status, or -signal.
  int end_with(int signal);
  // Starts it again after an end, with what its manager keeps.
  void start();

 private:
  const ServiceManager* manager_;
  std::vector<UniqueFd> sockets_;  // passed to a service
  std::string folder_;
  pid_t pid_ = 0;
};

// Waits at most `milliseconds` until `condition()` holds.
template <class Condition>
bool eventually(Condition condition, int milliseconds = 10'000) {
  for (int waited = 0; waited < milliseconds; waited += 5) {
    if (condition()) return true;
    const timespec pause{0, 5'000'000};
    nanosleep(&pause, nullptr);
  }
  return condition();
}

// True while a process with this pid exists and is not a zombie.
[[nodiscard]] bool process_exists(pid_t pid);

}  // namespace vgpu::daemon::testing
