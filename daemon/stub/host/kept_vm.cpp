#include "daemon/stub/host/kept_vm.hpp"

#include <nlohmann/json.hpp>
#include <string_view>

#include "daemon/base/log.hpp"
#include "daemon/handover/fields.hpp"

namespace vgpu::daemon::stub_host {
namespace {

using nlohmann::json;

constexpr unsigned kVersion = 2;

// Two owners a VM: QEMU comes and goes, with all that it was given.
constexpr std::string_view kVmPrefix = "vm-";
constexpr std::string_view kQemuPrefix = "qemu-";
constexpr const char* kRecord = "record";
constexpr const char* kMemory = "memory";
constexpr const char* kConnection = "connection";

std::string vm_owner(const std::string& vm) {
  return std::string(kVmPrefix) + vm;
}

std::string qemu_owner(const std::string& vm) {
  return std::string(kQemuPrefix) + vm;
}

std::string doorbell_part(std::size_t vector) {
  return "doorbell-" + std::to_string(vector);
}

template <class Field, Either<VmRecord> Record>
void fields(Field& field, Record& record) {
  auto& vm = record.config;
  field("configured", record.configured);
  field("next_peer", record.next_peer);
  field("name", vm.name);
  field("bytes", vm.bytes);
  field("slots", vm.slots);
  field("class", vm.class_name);
  field("device", vm.device);
  field("socket", vm.socket);
  field("guest_timeout", vm.guest_timeout);
}

std::vector<std::uint8_t> encode(const VmRecord& record) {
  json value = {{"version", kVersion}};
  FieldWriter field(value);
  fields(field, record);
  return json::to_cbor(value);
}

tl::expected<VmRecord, std::string> decode(std::span<const std::uint8_t> bytes) {
  try {
    const json value = json::from_cbor(bytes);
    if (value.at("version").get<unsigned>() != kVersion) {
      return tl::unexpected(std::string("it was written by another version of vgpud"));
    }
    VmRecord record;
    FieldReader field(value);
    fields(field, record);
    return record;
  } catch (const json::exception& error) {
    return tl::unexpected(std::string(error.what()));
  }
}

UniqueFd take(KeptParts& parts, const std::string& part) {
  const auto found = parts.find(part);
  return found == parts.end() ? UniqueFd() : std::move(found->second);
}

tl::expected<KeptVm, std::string> restore(KeptParts& parts) {
  auto state = StateMemory::open(take(parts, kRecord));
  if (!state) return tl::unexpected(state.error());
  const auto bytes = state->read();
  if (!bytes) return tl::unexpected(bytes.error());
  auto record = decode(*bytes);
  if (!record) return tl::unexpected(record.error());
  return KeptVm{std::move(*record), std::move(*state), std::nullopt};
}

// None where a part is missing: such a QEMU cannot go on.
std::optional<KeptQemu> restore_qemu(KeptParts& parts) {
  KeptQemu kept{take(parts, kMemory), {}, take(parts, kConnection)};
  bool complete = kept.memory && kept.connection;
  for (std::size_t i = 0; i < kept.doorbells.size(); ++i) {
    kept.doorbells[i] = take(parts, doorbell_part(i));
    complete = complete && kept.doorbells[i];
  }
  return complete ? std::optional(std::move(kept)) : std::nullopt;
}

}  // namespace

VmKeeper::VmKeeper(DescriptorStore& store, const std::string& vm) : store_(store), vm_(vm) {}

void VmKeeper::begin(const VmRecord& record, std::optional<StateMemory> state) {
  if (!store_.enabled()) return;
  if (state) {
    state_ = std::move(state);
    write(record);
    return;
  }
  auto made = StateMemory::create("vgpud-vm-record");
  if (!made) {
    log::warning("VM will not outlive vgpud vm={} reason={}", vm_, log::quoted(made.error()));
    return;
  }
  state_ = std::move(*made);
  write(record);
  store_.keep(vm_owner(vm_), kRecord, state_->fd());
}

void VmKeeper::write(const VmRecord& record) {
  if (const auto written = state_->write(encode(record)); !written) {
    log::warning("VM's record is not up to date vm={} reason={}", vm_, log::quoted(written.error()));
  }
}

void VmKeeper::update(const VmRecord& record) {
  if (state_) write(record);
}

void VmKeeper::qemu_came(int memory, const IvshmemServer::Doorbells& doorbells, int connection) {
  if (!state_) return;
  const std::string owner = qemu_owner(vm_);
  store_.keep(owner, kMemory, memory);
  for (std::size_t i = 0; i < doorbells.size(); ++i) {
    store_.keep(owner, doorbell_part(i), doorbells[i].get());
  }
  store_.keep(owner, kConnection, connection);
}

void VmKeeper::qemu_left() {
  store_.drop(qemu_owner(vm_));
}

void VmKeeper::forget() {
  store_.drop(qemu_owner(vm_));
  store_.drop(vm_owner(vm_));
}

std::map<std::string, KeptVm> take_kept_vms(DescriptorStore& store) {
  std::map<std::string, KeptVm> all;
  auto connections = store.take_all(kQemuPrefix);
  auto kept = store.take_all(kVmPrefix);
  for (auto& [owner, parts] : kept) {
    const std::string name = owner.substr(kVmPrefix.size());
    auto restored = restore(parts);
    if (restored && restored->record.config.name != name) {
      restored = tl::unexpected(std::string("its record speaks of another VM"));
    }
    if (!restored) {
      log::warning("VM of an earlier vgpud cannot go on vm={} reason={}", name,
                   log::quoted(restored.error()));
      VmKeeper(store, name).forget();
      continue;
    }
    if (const auto found = connections.find(qemu_owner(name)); found != connections.end()) {
      restored->qemu = restore_qemu(found->second);
      if (restored->qemu) connections.erase(found);
    }
    all.emplace(name, std::move(*restored));
  }
  for (const auto& [owner, parts] : connections) store.drop(owner);
  return all;
}

}  // namespace vgpu::daemon::stub_host
