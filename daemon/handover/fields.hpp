// One list of a record's fields for both directions: a function template calls `field(key, member)` for each,
// and is given a FieldWriter or a FieldReader. Reading throws json::exception where a key is missing or of
// another type.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <type_traits>
#include <vector>

namespace vgpu::daemon {

// What such a function template takes: the record that is written or the one that is filled.
template <class T, class Record>
concept Either = std::same_as<std::remove_const_t<T>, Record>;

// Times are CLOCK_MONOTONIC's, which goes on over a restart of vgpud.
using RecordedTime = std::chrono::steady_clock::time_point;

class FieldWriter {
 public:
  explicit FieldWriter(nlohmann::json& object) : object_(object) {}

  template <class T>
  void operator()(const char* key, const T& member) {
    object_[key] = member;
  }
  template <class Rep, class Period>
  void operator()(const char* key, const std::chrono::duration<Rep, Period>& member) {
    object_[key] = member.count();
  }
  void operator()(const char* key, const RecordedTime& member) {
    (*this)(key, std::chrono::nanoseconds(member.time_since_epoch()));
  }
  // Of an enumeration whose last value is `last`.
  template <class Enum>
  void choice(const char* key, const Enum& member, Enum /*last*/) {
    object_[key] = static_cast<unsigned>(member);
  }
  // 0 stands for none.
  void or_zero(const char* key, const std::optional<std::uint64_t>& member) {
    object_[key] = member.value_or(0);
  }
  // Without a key where there is none.
  void if_any(const char* key, const std::optional<RecordedTime>& member) {
    if (member) (*this)(key, *member);
  }
  // A record within this one, `list` being the function of its fields; and any number of them.
  template <class T, class List>
  void part(const char* key, const T& member, List list) {
    FieldWriter inner(object_[key]);
    list(inner, member);
  }
  template <class T, class List>
  void parts(const char* key, const std::vector<T>& members, List list) {
    nlohmann::json& array = object_[key] = nlohmann::json::array();
    for (const T& member : members) {
      FieldWriter inner(array.emplace_back());
      list(inner, member);
    }
  }

 private:
  nlohmann::json& object_;
};

class FieldReader {
 public:
  explicit FieldReader(const nlohmann::json& object) : object_(object) {}

  template <class T>
  void operator()(const char* key, T& member) {
    object_.at(key).get_to(member);
  }
  template <class Rep, class Period>
  void operator()(const char* key, std::chrono::duration<Rep, Period>& member) {
    member = std::chrono::duration<Rep, Period>(object_.at(key).get<std::int64_t>());
  }
  void operator()(const char* key, RecordedTime& member) {
    std::chrono::nanoseconds since{};
    (*this)(key, since);
    member = RecordedTime(since);
  }
  template <class Enum>
  void choice(const char* key, Enum& member, Enum last) {
    member = static_cast<Enum>(std::min(object_.at(key).get<unsigned>(), static_cast<unsigned>(last)));
  }
  void or_zero(const char* key, std::optional<std::uint64_t>& member) {
    const auto value = object_.at(key).get<std::uint64_t>();
    member = value != 0 ? std::optional(value) : std::nullopt;
  }
  void if_any(const char* key, std::optional<RecordedTime>& member) {
    if (object_.contains(key)) (*this)(key, member.emplace());
  }
  template <class T, class List>
  void part(const char* key, T& member, List list) {
    FieldReader inner(object_.at(key));
    list(inner, member);
  }
  template <class T, class List>
  void parts(const char* key, std::vector<T>& members, List list) {
    for (const nlohmann::json& object : object_.at(key)) {
      FieldReader inner(object);
      list(inner, members.emplace_back());
    }
  }

 private:
  const nlohmann::json& object_;
};

}  // namespace vgpu::daemon
