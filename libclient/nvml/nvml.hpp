// The part of NVML's C interface that this library implements: result codes, structures as they lie in
// memory, names. Facts from NVIDIA's public NVML API reference (version 13); every other function is a stub
// (generate_stubs.py). Never: logic.
#pragma once

#include <cstddef>

#define NVML_EXPORT extern "C" __attribute__((visibility("default")))

enum nvmlReturn_t {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NO_PERMISSION = 4,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_DRIVER_NOT_LOADED = 9,
  NVML_ERROR_GPU_IS_LOST = 15,
  NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
  NVML_ERROR_UNKNOWN = 999,
};

/// What each function answers that is a stub: UNINITIALIZED or NOT_SUPPORTED.
extern "C" int vgpu_nvml_not_implemented();

/// The second argument of structures that carry their size and version.
constexpr unsigned nvml_struct_version(std::size_t size, unsigned version) {
  return static_cast<unsigned>(size) | version << 24;
}

struct nvmlDevice_st;
using nvmlDevice_t = nvmlDevice_st*;

struct nvmlMemory_t {
  unsigned long long total, free, used;  // bytes; used includes what is reserved
};

struct nvmlMemory_v2_t {
  unsigned version;
  unsigned long long total, reserved, free, used;  // bytes
};

struct nvmlUtilization_t {
  unsigned gpu, memory;  // percent
};

struct nvmlPciInfo_t {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId;
  unsigned pciSubSystemId;  // since _v2
  char busId[32];           // since _v3
};

struct nvmlPciInfoExt_v1_t {
  unsigned version, domain, bus, device, pciDeviceId, pciSubSystemId, baseClass, subClass;
  char busId[32];
};

struct nvmlProcessInfo_v1_t {
  unsigned pid;
  unsigned long long usedGpuMemory;  // bytes
};

struct nvmlProcessInfo_v2_t {
  unsigned pid;
  unsigned long long usedGpuMemory;  // bytes
  unsigned gpuInstanceId, computeInstanceId;
};

struct nvmlFieldValue_t {
  unsigned fieldId, scopeId;
  long long timestamp, latencyUsec;
  int valueType;
  nvmlReturn_t nvmlReturn;
  unsigned long long value;  // a union in NVML; never written here
};

static_assert(sizeof(nvmlPciInfo_t) == 68 && sizeof(nvmlMemory_v2_t) == 40 &&
              sizeof(nvmlProcessInfo_v2_t) == 24 && sizeof(nvmlFieldValue_t) == 40 &&
              sizeof(nvmlPciInfoExt_v1_t) == 64);
