#include "cudaabi/export_tables.hpp"

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include "cudaabi/context_storage.hpp"
#include "cudaabi/image.hpp"
#include "cudaabi/integrity.hpp"
#include "cudaabi/runtime_hooks.hpp"
#include "cudaabi/unsupported.hpp"

namespace cudaabi {
namespace {

RuntimeHooks* installed_hooks = nullptr;

using Slot = const void*;
using Uuid = std::array<unsigned char, 16>;

template <typename Function>
Slot slot(Function* function) {
  return reinterpret_cast<Slot>(function);
}

// A slot whose meaning is not known: refused and counted under the table's and the slot's number.
template <std::uint32_t table, unsigned number>
CUresult unknown_slot() {
  char name[40];
  std::snprintf(name, sizeof name, "export table %08x slot %u", table, number);
  return static_cast<CUresult>(note_unsupported(std::string_view(name)));
}

template <std::uint32_t table, unsigned... numbers>
constexpr auto unknown_slots(std::integer_sequence<unsigned, numbers...>) {
  return std::array<Slot, sizeof...(numbers)>{slot(&unknown_slot<table, numbers>)...};
}

// All of a table's words pointing at counted refusals, the first one its size in bytes where the table has
// one.
template <std::uint32_t table, unsigned words>
std::array<Slot, words> sized_table() {
  auto all = unknown_slots<table>(std::make_integer_sequence<unsigned, words>{});
  all[0] = reinterpret_cast<Slot>(std::uintptr_t{words * sizeof(Slot)});
  return all;
}

CUcontext or_current(CUcontext context) {
  if (context == nullptr || context == reinterpret_cast<CUcontext>(std::intptr_t{-1})) {
    return installed_hooks->current_context();
  }
  return context;
}

// 6bd5fb6c: the runtime's way to load modules and to name a device's primary context without activating it.
CUresult runtime_load_module(CUmodule* module, const void* image) {
  return installed_hooks->load_module(module, image);
}
CUresult runtime_primary_context(CUcontext* context, CUdevice device) {
  return installed_hooks->primary_context(context, device);
}
CUresult runtime_load_module_ex(CUmodule* module, const void* image, void*, void*, unsigned) {
  return installed_hooks->load_module(module, image);
}
CUresult runtime_load_fatbin(const void* image, CUmodule* module, void*, void*, unsigned) {
  return installed_hooks->load_module(module, image);
}
CUresult runtime_nothing(std::size_t) {
  return CUDA_SUCCESS;
}
// The compilers come with the device's driver, where the work is done, so there is nothing to load here.
CUresult runtime_load_compilers() {
  return CUDA_SUCCESS;
}

const Slot* runtime_table() {
  static const auto table = [] {
    auto t = sized_table<0x6bd5fb6c, 13>();
    t[1] = slot(&runtime_load_module);
    t[2] = slot(&runtime_primary_context);
    t[6] = slot(&runtime_load_module_ex);
    t[7] = slot(&runtime_nothing);
    t[8] = slot(&runtime_load_fatbin);
    t[12] = slot(&runtime_load_compilers);
    return t;
  }();
  return table.data();
}

// a094798c: buffers in which a profiler would leave its callbacks; there is none here, so they stay zero.
void callback_buffer_a(void** buffer, std::size_t* size) {
  static std::array<std::uint64_t, 1024> zeros{};
  *buffer = zeros.data();
  *size = zeros.size();
}
void callback_buffer_b(void** buffer, std::size_t* size) {
  static std::array<std::uint64_t, 14> zeros{};
  *buffer = zeros.data();
  *size = zeros.size();
}
void callback_nothing() {}

const Slot* callback_table() {
  static const auto table = [] {
    auto t = sized_table<0xa094798c, 7>();
    t[1] = slot(&callback_nothing);
    t[2] = slot(&callback_buffer_a);
    t[4] = slot(&callback_nothing);
    t[6] = slot(&callback_buffer_b);
    return t;
  }();
  return table.data();
}

// 42d85a81: the tools' thread-local state, asked for the current context on hot paths.
CUresult tools_current_context(CUcontext* context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = installed_hooks->current_context();
  return CUDA_SUCCESS;
}

const Slot* tools_table() {
  static const auto table = [] {
    auto t = sized_table<0x42d85a81, 7>();
    t[2] = slot(&tools_current_context);
    return t;
  }();
  return table.data();
}

// c693336e: context-local storage. This table has no size word.
CUresult storage_put(CUcontext context, void* key, void* value, StorageDestructor destructor) {
  context_storage_put(or_current(context), key, value, destructor);
  return CUDA_SUCCESS;
}
CUresult storage_delete(CUcontext context, void* key) {
  return context_storage_delete(or_current(context), key);
}
CUresult storage_get(void** value, CUcontext context, void* key) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return context_storage_get(or_current(context), key, value);
}

const Slot* storage_table() {
  static const auto table = [] {
    auto t = unknown_slots<0xc693336e>(std::make_integer_sequence<unsigned, 8>{});
    t[0] = slot(&storage_put);
    t[1] = slot(&storage_delete);
    t[2] = slot(&storage_get);
    return t;
  }();
  return table.data();
}

// 263e8860: checks of a context; "0" says that nothing stands against using it.
CUresult context_check(CUcontext, std::uint32_t* state, const void**) {
  if (state != nullptr) *state = 0;
  return CUDA_SUCCESS;
}
CUresult context_check_global() {
  return CUDA_SUCCESS;
}

const Slot* context_check_table() {
  static const auto table = [] {
    auto t = sized_table<0x263e8860, 15>();
    t[2] = slot(&context_check);
    t[3] = slot(&context_check_global);
    return t;
  }();
  return table.data();
}

// 21318c60: numbers for contexts and streams, asked for by cuBLAS, cuBLASLt and cuFFT.
CUresult context_number(CUcontext context, std::uint64_t* id) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return installed_hooks->context_id(context, id);
}
// What slot 51 hands out as a stream's private handle comes back to slot 39, so the handle can be the stream
// itself.
CUresult stream_number(CUcontext context, void* stream, std::uint64_t* id) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return installed_hooks->stream_id(context, static_cast<CUstream>(stream), id);
}
CUresult stream_private(CUcontext, CUstream stream, void** handle, int per_thread) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *handle = stream == nullptr && per_thread != 0 ? CU_STREAM_PER_THREAD : stream;
  return CUDA_SUCCESS;
}

const Slot* context_stream_table() {
  static const auto table = [] {
    auto t = sized_table<0x21318c60, 93>();
    t[4] = slot(&context_number);
    t[39] = slot(&stream_number);
    t[51] = slot(&stream_private);
    return t;
  }();
  return table.data();
}

// 6e163fbe: modules and functions. cuFFT loads a module for a kernel whose name it does not know and has it
// named by slot 7; it wants to hear that there was exactly one.
using FunctionVisitor = void (*)(void* user, CUfunction function, CUmodule module);
unsigned visit_functions(CUcontext, CUmodule module, FunctionVisitor visit, void* user) {
  std::vector<CUfunction> functions;
  if (visit == nullptr || installed_hooks->module_functions(module, functions) != CUDA_SUCCESS) return 0;
  for (const CUfunction function : functions) visit(user, function, module);
  return static_cast<unsigned>(functions.size());
}

// 1734dc26: what it does is not public. cuBLASLt calls its slots 4 and 13 without looking whether it got the
// table, so it gets one whose slots refuse.
const Slot* blas_table() {
  static const auto table = sized_table<0x1734dc26, 17>();
  return table.data();
}

const Slot* function_table() {
  static const auto table = [] {
    auto t = sized_table<0x6e163fbe, 64>();
    t[7] = slot(&visit_functions);
    return t;
  }();
  return table.data();
}

#ifdef VGPU_INTEGRITY_HANDSHAKE
const Slot* integrity_table();

CUresult integrity(std::uint32_t version, std::uint64_t unix_seconds, std::uint64_t result[2]) {
  if (result == nullptr) return CUDA_ERROR_INVALID_VALUE;
  IntegrityQuestion question;
  question.driver_version = static_cast<std::uint32_t>(installed_hooks->driver_version());
  question.version = version;
  question.pid = static_cast<std::uint32_t>(getpid());
  question.thread = static_cast<std::uint32_t>(pthread_self());
  question.runtime_table = reinterpret_cast<std::uintptr_t>(runtime_table());
  question.integrity_table = reinterpret_cast<std::uintptr_t>(integrity_table());
  question.function = reinterpret_cast<std::uintptr_t>(&integrity);
  question.unix_seconds = unix_seconds;
  const auto answer = answer_integrity(question, installed_hooks->devices());
  result[0] = answer[0];
  result[1] = answer[1];
  return CUDA_SUCCESS;
}

const Slot* integrity_table() {
  static const auto table = [] {
    auto t = sized_table<0xd4082055, 3>();
    t[1] = slot(&integrity);
    return t;
  }();
  return table.data();
}
#endif

struct Offered {
  Uuid uuid;
  const Slot* (*table)();
};

constexpr Offered offered[] = {
    {{0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9},
     runtime_table},
    {{0xa0, 0x94, 0x79, 0x8c, 0x2e, 0x74, 0x2e, 0x74, 0x93, 0xf2, 0x08, 0x00, 0x20, 0x0c, 0x0a, 0x66},
     callback_table},
    {{0x42, 0xd8, 0x5a, 0x81, 0x23, 0xf6, 0xcb, 0x47, 0x82, 0x98, 0xf6, 0xe7, 0x8a, 0x3a, 0xec, 0xdc},
     tools_table},
    {{0xc6, 0x93, 0x33, 0x6e, 0x11, 0x21, 0xdf, 0x11, 0xa8, 0xc3, 0x68, 0xf3, 0x55, 0xd8, 0x95, 0x93},
     storage_table},
    {{0x26, 0x3e, 0x88, 0x60, 0x7c, 0xd2, 0x61, 0x43, 0x92, 0xf6, 0xbb, 0xd5, 0x00, 0x6d, 0xfa, 0x7e},
     context_check_table},
    {{0x21, 0x31, 0x8c, 0x60, 0x97, 0x14, 0x32, 0x48, 0x8c, 0xa6, 0x41, 0xff, 0x73, 0x24, 0xc8, 0xf2},
     context_stream_table},
    {{0x6e, 0x16, 0x3f, 0xbe, 0xb9, 0x58, 0x44, 0x4d, 0x83, 0x5c, 0xe1, 0x82, 0xaf, 0xf1, 0x99, 0x1e},
     function_table},
    {{0x17, 0x34, 0xdc, 0x26, 0x80, 0x0d, 0x47, 0x45, 0x87, 0x26, 0xc0, 0xf1, 0xe7, 0xdd, 0x8b, 0xca},
     blas_table},
#ifdef VGPU_INTEGRITY_HANDSHAKE
    {{0xd4, 0x08, 0x20, 0x55, 0xbd, 0xe6, 0x70, 0x4b, 0x8d, 0x34, 0xba, 0x12, 0x3c, 0x66, 0xe1, 0xf2},
     integrity_table},
#endif
};

bool same(const Uuid& uuid, const CUuuid& id) {
  return std::memcmp(uuid.data(), id.bytes, uuid.size()) == 0;
}

}  // namespace

void install_runtime_hooks(RuntimeHooks& hooks) {
  installed_hooks = &hooks;
}

RuntimeHooks* runtime_hooks() {
  return installed_hooks;
}

CUresult get_export_table(const void** table, const CUuuid* id) {
  if (table == nullptr || id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *table = nullptr;
  if (installed_hooks == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  for (const Offered& candidate : offered) {
    if (!same(candidate.uuid, *id)) continue;
    *table = candidate.table();
    return CUDA_SUCCESS;
  }
  for (const PrivateTable& candidate : installed_hooks->private_tables()) {
    if (!same(candidate.uuid, *id)) continue;
    *table = candidate.table;
    return CUDA_SUCCESS;
  }
  char name[40];
  const auto* b = reinterpret_cast<const unsigned char*>(id->bytes);
  std::snprintf(name, sizeof name, "export table %02x%02x%02x%02x", b[0], b[1], b[2], b[3]);
  note_unsupported(std::string_view(name));
  return CUDA_ERROR_NOT_FOUND;
}

}  // namespace cudaabi

extern "C" __attribute__((visibility("default"))) CUresult cuGetExportTable(const void** ppExportTable,
                                                                            const CUuuid* pExportTableId) {
  return cudaabi::get_export_table(ppExportTable, pExportTableId);
}
