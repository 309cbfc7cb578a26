// The configuration as it holds now: the operator's file, its drop-ins, and what was changed while vgpud
// runs. Changes are a YAML document of the same form, read after the files; saved ones go to a drop-in of
// their own, so that the operator's file is never written. Applies nothing: it hands out the new Config.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/config/config.hpp"
#include "daemon/config/load.hpp"

namespace vgpu::daemon {

// What a change is made to.
struct ChangeTarget {
  enum class Kind { device, client_class, rule, limits, scheduler };
  Kind kind = Kind::client_class;
  std::string name;  // of the device, class or rule; rules and classes that do not exist are made
};

// Belongs to the loop's thread; reads and writes small files.
class LiveConfig {
 public:
  // `file`: the operator's configuration, empty where there is none.
  explicit LiveConfig(std::string file) : file_(std::move(file)) {}

  // The configuration with `settings` made to `target`. A key may name an inner one ("match.uid",
  // "set.weight"), a value in brackets is a list. With `save` the change is also written to saved_file(). The
  // error is a sentence; then nothing has changed, neither in memory nor on disk.
  [[nodiscard]] tl::expected<Config, std::string> change(const ChangeTarget& target, const Settings& settings,
                                                         bool save);

  // What the files say now; changes that were not saved are forgotten if they are good.
  [[nodiscard]] tl::expected<Config, ConfigErrors> reload();
  // What reload() would say, without forgetting anything.
  [[nodiscard]] tl::expected<Config, ConfigErrors> check() const { return load_config(file_); }

  // Every document that holds now, in the order of reading; the last, "changes that are not saved", only
  // where there are such.
  [[nodiscard]] tl::expected<std::vector<ConfigDocument>, ConfigErrors> documents() const;

  // Where saved changes go; empty: nowhere, vgpud has neither a configuration file nor a state folder.
  [[nodiscard]] std::string saved_file() const;

 private:
  std::string file_;
  std::string unsaved_;  // YAML
};

}  // namespace vgpu::daemon
