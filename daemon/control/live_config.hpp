// The configuration as it holds now: the operator's file and its drop-ins as they were when they were last
// loaded, and what was changed while vgpud runs. Changes are a YAML document of the same form, read after the
// files; saved ones go to a drop-in of their own, so that the operator's file is never written. Applies
// nothing: it hands out the new Config.
#pragma once

#include <optional>
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
  // A rule: the settings are all of it, whatever it said before, and it is asked before the others of its
  // document.
  bool whole = false;
};

// A change that has been tried and not been made.
struct TriedChange {
  Config config;                           // what holds with it
  std::optional<Config> next;              // of one to be saved: what the next start has
  std::vector<std::string> after_restart;  // of what it changes (config/restart.hpp)

  std::vector<ConfigDocument> documents;
  std::string unsaved;
  std::string saved_text;  // for the file
};

// Belongs to the loop's thread; reads and writes small files.
class LiveConfig {
 public:
  // `file`: the operator's configuration, empty where there is none; `documents`: what it and its drop-ins
  // said when vgpud read them, which are good.
  LiveConfig(std::string file, std::vector<ConfigDocument> documents)
      : file_(std::move(file)), loaded_(std::move(documents)) {}

  // The configuration with `settings` made to `target`. A key may name an inner one ("match.uid",
  // "set.weight"), a value in brackets is a list. With `save` it is to be written to saved_file(). The error
  // is a sentence.
  [[nodiscard]] tl::expected<TriedChange, std::string> try_change(const ChangeTarget& target,
                                                                  const Settings& settings, bool save) const;
  // Makes a change that has been tried since the last one was made, and hands out what holds now. The error
  // is a sentence; then nothing has changed, neither in memory nor on disk.
  [[nodiscard]] tl::expected<Config, std::string> make(TriedChange change);

  // What the files say now; changes that were not saved are forgotten if they are good.
  [[nodiscard]] tl::expected<Config, ConfigErrors> reload();
  // What reload() would say, without forgetting anything.
  [[nodiscard]] tl::expected<Config, ConfigErrors> check() const { return load_config(file_); }

  // Every document that holds now, in the order of reading; the last, "changes that are not saved", only
  // where there are such.
  [[nodiscard]] std::vector<ConfigDocument> documents() const;
  // What differs on disk from what holds, a sentence a file.
  [[nodiscard]] std::vector<std::string> unread() const;

  // Where saved changes go; empty: nowhere, vgpud has neither a configuration file nor a state folder.
  [[nodiscard]] std::string saved_file() const;

 private:
  tl::expected<void, std::string> try_save(const ChangeTarget& target, const Settings& settings,
                                           TriedChange& change) const;

  std::string file_;
  std::vector<ConfigDocument> loaded_;
  std::string unsaved_;  // YAML
};

}  // namespace vgpu::daemon
