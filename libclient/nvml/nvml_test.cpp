// The built library, loaded as a program loads it, against a broker of this test's own.

#include "libclient/nvml/nvml.hpp"

#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace {

using namespace vgpu;

// Listens on a socket of its own and answers every StatusQuery with `status`, of whose device there are as
// many as its device_count says, told apart by the last byte of their UUIDs and by their memory.
class Broker {
 public:
  Broker() : path_("/tmp/vgpu-nvml-test-" + std::to_string(::getpid()) + ".sock") {
    ::unlink(path_.c_str());
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    ::setenv("VGPUD_SOCKET", path_.c_str(), 1);
    thread_ = std::thread([this] { serve(); });
  }
  ~Broker() { stop(); }
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;

  /// Changes what is answered from now on.
  template <class Change>
  void set(Change change) {
    const std::lock_guard lock(mutex_);
    change(status_);
  }
  /// What the last asker wished for.
  DeviceWish last_wish() {
    const std::lock_guard lock(mutex_);
    return last_wish_;
  }
  /// Refuses from now on.
  void refuse() {
    const std::lock_guard lock(mutex_);
    refuse_ = true;
  }

  void stop() {
    if (!thread_.joinable()) return;
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    listener_ = UniqueFd();
    ::unlink(path_.c_str());
  }

 private:
  void serve() {
    for (;;) {
      const UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (client.get() < 0) return;
      const auto message = receive_message(client.get(), 1000);
      const auto* query = message ? message->as<StatusQuery>() : nullptr;
      if (query == nullptr) continue;
      const std::lock_guard lock(mutex_);
      if (refuse_) {
        Refused refused;
        refused.code = RefusalCode::not_allowed;
        (void)send_message(client.get(), refused);
      } else {
        last_wish_ = query->wish;
        DeviceStatus answer = status_;
        answer.device.uuid[15] = static_cast<std::uint8_t>(answer.device.uuid[15] + query->index);
        answer.device.total_memory += query->index;
        (void)send_message(client.get(), answer);
      }
    }
  }

  std::mutex mutex_;
  DeviceStatus status_;
  DeviceWish last_wish_;
  bool refuse_ = false;
  std::string path_;
  UniqueFd listener_;
  std::thread thread_;
};

class Nvml : public testing::Test {
 protected:
  void SetUp() override {
    library_ = ::dlopen(VGPU_NVML_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << ::dlerror();
    ::unsetenv("CUDA_VISIBLE_DEVICES");
    broker_.set([](DeviceStatus& status) {
      status.device_count = 1;
      DeviceReport& report = status.device;
      set_text(report.name, "Test GPU");
      for (std::uint8_t i = 0; i < 16; ++i) report.uuid[i] = static_cast<std::uint8_t>(i * 16 + i);
      report.pci_bus = 0x1a;
      report.compute_major = 7;
      report.compute_minor = 5;
      report.driver_version = 13000;
      report.software = 1;
      report.total_memory = 8000;
    });
  }
  void TearDown() override {
    while (call<int>("nvmlShutdown") == NVML_SUCCESS) {
    }
    ::dlclose(library_);
  }

  template <class Result = nvmlReturn_t, class... Arguments>
  Result call(const char* name, Arguments... arguments) {
    auto* function = reinterpret_cast<Result (*)(Arguments...)>(::dlsym(library_, name));
    if (function == nullptr) {
      ADD_FAILURE() << name << " is not exported";
      return Result{};
    }
    return function(arguments...);
  }

  nvmlDevice_t open_device() {
    EXPECT_EQ(call("nvmlInit_v2"), NVML_SUCCESS);
    nvmlDevice_t device = nullptr;
    EXPECT_EQ(call("nvmlDeviceGetHandleByIndex_v2", 0u, &device), NVML_SUCCESS);
    return device;
  }

  Broker broker_;
  void* library_ = nullptr;
};

TEST_F(Nvml, WithoutBrokerSaysThatTheDriverIsNotLoaded) {
  broker_.stop();
  EXPECT_EQ(call("nvmlInit_v2"), NVML_ERROR_DRIVER_NOT_LOADED);
  EXPECT_EQ(call("nvmlInitWithFlags", 1u), NVML_SUCCESS);  // NO_GPUS: may start without
  unsigned count = 7;
  EXPECT_EQ(call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
  EXPECT_EQ(count, 0u);
}

TEST_F(Nvml, RefusedClientLacksPermission) {
  broker_.refuse();
  EXPECT_EQ(call("nvmlInit_v2"), NVML_ERROR_NO_PERMISSION);
}

TEST_F(Nvml, InitializationsAreCounted) {
  unsigned count = 0;
  EXPECT_EQ(call("nvmlDeviceGetCount_v2", &count), NVML_ERROR_UNINITIALIZED);
  EXPECT_EQ(call("nvmlInit_v2"), NVML_SUCCESS);
  EXPECT_EQ(call("nvmlInit"), NVML_SUCCESS);
  EXPECT_EQ(call("nvmlShutdown"), NVML_SUCCESS);
  EXPECT_EQ(call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(call("nvmlShutdown"), NVML_SUCCESS);
  EXPECT_EQ(call("nvmlShutdown"), NVML_ERROR_UNINITIALIZED);
}

TEST_F(Nvml, WhatIsNotImplementedIsUninitializedFirst) {
  unsigned value = 0;
  EXPECT_EQ(call("nvmlDeviceGetPowerUsage", nvmlDevice_t{}, &value), NVML_ERROR_UNINITIALIZED);
  const nvmlDevice_t device = open_device();
  EXPECT_EQ(call("nvmlDeviceGetPowerUsage", device, &value), NVML_ERROR_NOT_SUPPORTED);
}

TEST_F(Nvml, TheVersionOfCudaIsToldWithoutInitialization) {
  int version = 0;
  EXPECT_EQ(call("nvmlSystemGetCudaDriverVersion_v2", &version), NVML_SUCCESS);
  EXPECT_EQ(version, 13000);
  broker_.stop();
  EXPECT_EQ(call("nvmlSystemGetCudaDriverVersion_v2", &version), NVML_ERROR_DRIVER_NOT_LOADED);
}

TEST_F(Nvml, IdentityIsTheDriverLibrarys) {
  const nvmlDevice_t device = open_device();
  char text[96];
  EXPECT_EQ(call("nvmlDeviceGetName", device, text, 96u), NVML_SUCCESS);
  EXPECT_STREQ(text, "Test GPU");
  EXPECT_EQ(call("nvmlDeviceGetName", device, text, 8u), NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(call("nvmlDeviceGetUUID", device, text, 96u), NVML_SUCCESS);
  EXPECT_STREQ(text, "GPU-00112233-4455-6677-8899-aabbccddeeff");
  nvmlDevice_t found = nullptr;
  EXPECT_EQ(call("nvmlDeviceGetHandleByUUID", text, &found), NVML_SUCCESS);
  EXPECT_EQ(found, device);
  int major = 0, minor = 0;
  EXPECT_EQ(call("nvmlDeviceGetCudaComputeCapability", device, &major, &minor), NVML_SUCCESS);
  EXPECT_EQ(major * 10 + minor, 75);
  EXPECT_EQ(call("nvmlSystemGetCudaDriverVersion_v2", &major), NVML_SUCCESS);
  EXPECT_EQ(major, 13000);
}

TEST_F(Nvml, TheWishForADeviceIsPassedOn) {
  ::setenv("CUDA_VISIBLE_DEVICES", "2,1", 1);
  open_device();
  EXPECT_EQ(broker_.last_wish().kind, WishKind::index);
  EXPECT_EQ(broker_.last_wish().index[0], 2u);
  ::setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
  EXPECT_EQ(call("nvmlShutdown"), NVML_SUCCESS);
  open_device();
  EXPECT_EQ(broker_.last_wish().kind, WishKind::nothing);
  ::unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(Nvml, EachDeviceOfTheListIsItself) {
  broker_.set([](DeviceStatus& status) { status.device_count = 3; });
  const nvmlDevice_t first = open_device();
  unsigned count = 0;
  EXPECT_EQ(call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
  EXPECT_EQ(count, 3u);
  nvmlDevice_t last = nullptr;
  EXPECT_EQ(call("nvmlDeviceGetHandleByIndex_v2", 3u, &last), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(call("nvmlDeviceGetHandleByIndex_v2", 2u, &last), NVML_SUCCESS);
  unsigned index = 9;
  EXPECT_EQ(call("nvmlDeviceGetIndex", last, &index), NVML_SUCCESS);
  EXPECT_EQ(index, 2u);
  char text[96];
  EXPECT_EQ(call("nvmlDeviceGetUUID", last, text, 96u), NVML_SUCCESS);
  EXPECT_STREQ(text, "GPU-00112233-4455-6677-8899-aabbccddee01");  // 0xff + 2
  nvmlDevice_t found = nullptr;
  EXPECT_EQ(call("nvmlDeviceGetHandleByUUID", text, &found), NVML_SUCCESS);
  EXPECT_EQ(found, last);
  nvmlMemory_t memory;
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo", last, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.total, 8002u);
  int answer = 7;
  EXPECT_EQ(call("nvmlDeviceOnSameBoard", first, last, &answer), NVML_SUCCESS);
  EXPECT_EQ(answer, 0);
  EXPECT_EQ(call("nvmlDeviceGetP2PStatus", first, last, 0, &answer), NVML_SUCCESS);
  EXPECT_NE(answer, 0);
  EXPECT_EQ(call("nvmlDeviceGetP2PStatus", last, last, 0, &answer), NVML_SUCCESS);
  EXPECT_EQ(answer, 0);
  EXPECT_EQ(call("nvmlDeviceGetP2PStatus", last, last, 99, &answer), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(call("nvmlDeviceGetTopologyCommonAncestor", first, last, &answer), NVML_ERROR_NOT_SUPPORTED);
}

TEST_F(Nvml, AHostileCountOfDevicesIsCut) {
  broker_.set([](DeviceStatus& status) { status.device_count = 5000; });
  open_device();
  unsigned count = 0;
  EXPECT_EQ(call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
  EXPECT_EQ(count, most_listed_devices);
  nvmlDevice_t last = nullptr;
  EXPECT_EQ(call("nvmlDeviceGetHandleByIndex_v2", most_listed_devices - 1, &last), NVML_SUCCESS);
  EXPECT_EQ(call("nvmlDeviceGetHandleByIndex_v2", most_listed_devices, &last), NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Nvml, DriverVersionIsNewEnoughForTheCudaVersion) {
  open_device();
  char text[96];
  EXPECT_EQ(call("nvmlSystemGetDriverVersion", text, 96u), NVML_SUCCESS);
  EXPECT_GE(std::atoi(text), 580);
}

TEST_F(Nvml, PciAddressFindsTheDeviceInEverySpelling) {
  const nvmlDevice_t device = open_device();
  nvmlPciInfo_t info;
  EXPECT_EQ(call("nvmlDeviceGetPciInfo_v3", device, &info), NVML_SUCCESS);
  EXPECT_STREQ(info.busId, "00000000:1A:00.0");
  EXPECT_STREQ(info.busIdLegacy, "0000:1A:00.0");
  EXPECT_EQ(info.bus, 0x1au);
  for (const char* spelling : {"00000000:1A:00.0", "0000:1a:00.0", "0:1A:00.0", "1a:00.0"}) {
    nvmlDevice_t found = nullptr;
    EXPECT_EQ(call("nvmlDeviceGetHandleByPciBusId_v2", spelling, &found), NVML_SUCCESS) << spelling;
  }
  nvmlDevice_t found = nullptr;
  EXPECT_EQ(call("nvmlDeviceGetHandleByPciBusId_v2", "0000:1b:00.0", &found), NVML_ERROR_NOT_FOUND);
}

TEST_F(Nvml, WhatToolsAskBesidesIsAnsweredFromTheClientsView) {
  broker_.set([](DeviceStatus& status) {
    const auto put = [&](CUdevice_attribute attribute, int value) {
      const auto index = static_cast<std::size_t>(attribute);
      status.device.attributes[index] = value;
      status.device.attributes_valid[index / 64] |= std::uint64_t{1} << index % 64;
    };
    put(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 10);
    put(CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1);
  });
  const nvmlDevice_t device = open_device();
  unsigned value = 7;
  unsigned pending = 7;
  EXPECT_EQ(call("nvmlDeviceGetNumGpuCores", device, &value), NVML_SUCCESS);
  EXPECT_EQ(value, 640u);
  EXPECT_EQ(call("nvmlDeviceGetEccMode", device, &value, &pending), NVML_SUCCESS);
  EXPECT_EQ(value + pending, 2u);
  EXPECT_EQ(call("nvmlDeviceGetMigMode", device, &value, &pending), NVML_SUCCESS);
  EXPECT_EQ(value + pending, 0u);
  int level = 7;
  EXPECT_EQ(call("nvmlDeviceGetTopologyCommonAncestor", device, device, &level), NVML_SUCCESS);
  EXPECT_EQ(level, 0);
  value = 7;
  EXPECT_EQ(call("nvmlDeviceGetMPSComputeRunningProcesses_v3", device, &value, static_cast<void*>(nullptr)),
            NVML_SUCCESS);
  EXPECT_EQ(value, 0u);
  char name[256];
  EXPECT_EQ(call("nvmlSystemGetProcessName", static_cast<unsigned>(::getpid()), name, 256u), NVML_SUCCESS);
  EXPECT_NE(std::string(name).find("nvml_test"), std::string::npos) << name;
  EXPECT_EQ(call("nvmlSystemGetProcessName", static_cast<unsigned>(::getpid()), name, 4u), NVML_SUCCESS);
  EXPECT_EQ(std::string(name).size(), 3u);
}

TEST_F(Nvml, OlderPciStructuresAreNotOverrun) {
  const nvmlDevice_t device = open_device();
  unsigned char bytes[80];
  std::fill(std::begin(bytes), std::end(bytes), 0xee);
  EXPECT_EQ(call("nvmlDeviceGetPciInfo_v2", device, static_cast<void*>(bytes)), NVML_SUCCESS);
  EXPECT_EQ(bytes[35], 0);
  EXPECT_EQ(bytes[36], 0xee);
}

TEST_F(Nvml, QuotaLooksLikeTheCardsMemory) {
  const nvmlDevice_t device = open_device();
  broker_.set([](DeviceStatus& status) {
    status.device_memory_used = 3000;
    status.memory_used = 500;
  });
  nvmlMemory_t memory;
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo", device, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.total, 8000u);
  EXPECT_EQ(memory.free, 5000u);
  broker_.set([](DeviceStatus& status) { status.memory_quota = 2000; });
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo", device, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.total, 2000u);
  EXPECT_EQ(memory.free, 1500u);
  // others left less than the quota grants
  broker_.set([](DeviceStatus& status) { status.device_memory_used = 7800; });
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo", device, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.free, 200u);
  EXPECT_EQ(memory.used, 1800u);
}

TEST_F(Nvml, VersionedMemoryStructureIsChecked) {
  const nvmlDevice_t device = open_device();
  nvmlMemory_v2_t memory{};
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo_v2", device, &memory), NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  memory.version = 0x2000028;
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo_v2", device, &memory), NVML_SUCCESS);
  EXPECT_EQ(memory.total, 8000u);
}

TEST_F(Nvml, ProcessesAreListedWithTheirMemory) {
  const nvmlDevice_t device = open_device();
  broker_.set([](DeviceStatus& status) {
    status.process_count = 2;
    status.processes[0] = {11, 0, 100};
    status.processes[1] = {22, 0, 200};
  });
  unsigned count = 0;
  nvmlProcessInfo_v2_t none[1];
  EXPECT_EQ(call("nvmlDeviceGetComputeRunningProcesses_v3", device, &count, none),
            NVML_ERROR_INSUFFICIENT_SIZE);
  EXPECT_EQ(count, 2u);
  nvmlProcessInfo_v2_t processes[2];
  EXPECT_EQ(call("nvmlDeviceGetComputeRunningProcesses_v3", device, &count, processes), NVML_SUCCESS);
  EXPECT_EQ(processes[1].pid, 22u);
  EXPECT_EQ(processes[1].usedGpuMemory, 200u);
  nvmlProcessInfo_v1_t old[2];
  EXPECT_EQ(call("nvmlDeviceGetComputeRunningProcesses", device, &count, old), NVML_SUCCESS);
  EXPECT_EQ(old[1].usedGpuMemory, 200u);
}

TEST_F(Nvml, AHostileCountOfProcessesIsCutToTheTable) {
  const nvmlDevice_t device = open_device();
  broker_.set([](DeviceStatus& status) { status.process_count = 5000; });
  unsigned count = 64;
  std::vector<nvmlProcessInfo_v2_t> processes(64);
  EXPECT_EQ(call("nvmlDeviceGetComputeRunningProcesses_v3", device, &count, processes.data()), NVML_SUCCESS);
  EXPECT_EQ(count, 64u);
}

TEST_F(Nvml, AVanishedBrokerMeansALostDevice) {
  const nvmlDevice_t device = open_device();
  broker_.stop();
  nvmlMemory_t memory;
  EXPECT_EQ(call("nvmlDeviceGetMemoryInfo", device, &memory), NVML_ERROR_GPU_IS_LOST);
}

TEST_F(Nvml, EveryKnownFunctionIsExportedAndTheRestNotSupported) {
  std::ifstream names(VGPU_NVML_FUNCTIONS);
  std::string name;
  int count = 0;
  while (names >> name) {
    EXPECT_NE(::dlsym(library_, name.c_str()), nullptr) << name;
    ++count;
  }
  EXPECT_GT(count, 400);
  const nvmlDevice_t device = open_device();
  unsigned value = 0;
  EXPECT_EQ(call("nvmlDeviceGetTemperature", device, 0, &value), NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(call("nvmlDeviceGetPowerUsage", device, &value), NVML_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(call("nvmlDeviceGetNvLinkState", device, 0u, &value), NVML_ERROR_NOT_SUPPORTED);
}

TEST_F(Nvml, AForeignHandleIsRefused) {
  open_device();
  char text[96];
  auto* foreign = reinterpret_cast<nvmlDevice_t>(text);
  EXPECT_EQ(call("nvmlDeviceGetName", foreign, text, 96u), NVML_ERROR_INVALID_ARGUMENT);
}

}  // namespace
