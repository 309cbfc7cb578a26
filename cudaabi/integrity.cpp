#include "cudaabi/integrity.hpp"

#include <cstring>
#include <type_traits>
#include <vector>

#include "cudaabi/md2.hpp"

namespace cudaabi {
namespace {

constexpr std::array<std::uint8_t, 16> key = {0x14, 0x6A, 0xDD, 0xAE, 0x53, 0xA9, 0xA7, 0x52,
                                              0xAA, 0x08, 0x41, 0x36, 0x0B, 0xF5, 0x5A, 0x9F};

template <typename T>
void append(std::vector<std::uint8_t>& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof value);
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

}  // namespace

std::array<std::uint64_t, 2> answer_integrity(const IntegrityQuestion& question,
                                              std::span<const DeviceIdentity> devices) {
  // Two versions in ten are answered by constants.
  if (question.version % 10 == 0) return {0x3341181C03CB675C, 0x8ED383AA1F4CD1E8};
  if (question.version % 10 == 1) return {0x1841181C03CB675C, 0x8ED383AA1F4CD1E8};

  std::vector<std::uint8_t> record;
  append(record, question.driver_version);
  append(record, question.version);
  append(record, question.pid);
  append(record, question.thread);
  append(record, question.runtime_table);
  append(record, question.integrity_table);
  append(record, question.function);
  append(record, question.unix_seconds);
  for (const DeviceIdentity& device : devices) {
    append(record, device.uuid);
    append(record, device.pci_domain);
    append(record, device.pci_bus);
    append(record, device.pci_device);
  }
  const Md2Digest digest = hmac_md2(key, record);
  std::array<std::uint64_t, 2> answer;
  std::memcpy(answer.data(), digest.data(), sizeof answer);
  return answer;
}

}  // namespace cudaabi
