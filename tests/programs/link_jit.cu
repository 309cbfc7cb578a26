// Code that arrives as text: two PTX modules linked into one, JIT options and what their logs say about
// mistakes, and modules' functions found without knowing their names.
#include <string>

#include "check.hpp"

namespace {

constexpr char kMain[] = R"(
.version 6.4
.target sm_75
.address_size 64
.extern .func (.param .b32 result) twice (.param .b32 value);
.extern .global .align 4 .u32 offset;
.visible .entry work (.param .u64 data, .param .u32 count)
{
  .reg .pred %p;
  .reg .b32 %r<8>;
  .reg .b64 %d<6>;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mov.u32 %r3, %tid.x;
  mad.lo.s32 %r4, %r1, %r2, %r3;
  ld.param.u32 %r5, [count];
  setp.ge.u32 %p, %r4, %r5;
  @%p bra DONE;
  {
    .param .b32 argument;
    .param .b32 returned;
    st.param.b32 [argument], %r4;
    call.uni (returned), twice, (argument);
    ld.param.b32 %r6, [returned];
  }
  mov.u64 %d1, offset;
  cvta.global.u64 %d2, %d1;
  ld.u32 %r7, [%d2];
  add.s32 %r6, %r6, %r7;
  ld.param.u64 %d3, [data];
  cvta.to.global.u64 %d4, %d3;
  mul.wide.u32 %d5, %r4, 4;
  add.s64 %d4, %d4, %d5;
  st.global.u32 [%d4], %r6;
DONE:
  ret;
}
)";

constexpr char kHelper[] = R"(
.version 6.4
.target sm_75
.address_size 64
.visible .global .align 4 .u32 offset = 5;
.visible .func (.param .b32 result) twice (.param .b32 value)
{
  .reg .b32 %r<3>;
  ld.param.b32 %r1, [value];
  shl.b32 %r2, %r1, 1;
  st.param.b32 [result], %r2;
  ret;
}
)";

constexpr char kWrong[] = R"(
.version 6.4
.target sm_75
.address_size 64
.visible .entry wrong ()
{
  no.such.instruction;
  ret;
}
)";

constexpr int kCount = 1000;

// A log buffer and the options that name it.
struct Logs {
  char info[4096];
  char error[4096];
  float wall = -1;
  CUjit_option options[6] = {CU_JIT_INFO_LOG_BUFFER,  CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
                             CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
                             CU_JIT_LOG_VERBOSE,      CU_JIT_WALL_TIME};
  void* values[6] = {};
  Logs() {
    std::memset(info, 'x', sizeof info);
    std::memset(error, 'x', sizeof error);
    values[0] = info;
    values[1] = reinterpret_cast<void*>(sizeof info);
    values[2] = error;
    values[3] = reinterpret_cast<void*>(sizeof error);
    values[4] = reinterpret_cast<void*>(1);
  }
  size_t error_bytes() const { return reinterpret_cast<size_t>(values[3]); }
};

CUresult add(CUlinkState linker, const char* text, const char* name) {
  return cuLinkAddData(linker, CU_JIT_INPUT_PTX, const_cast<char*>(text), std::strlen(text) + 1, name, 0,
                       nullptr, nullptr);
}

void run(CUfunction function) {
  CUdeviceptr data = 0;
  DRV_OK(cuMemAlloc(&data, kCount * sizeof(int)));
  int count = kCount;
  void* arguments[] = {&data, &count};
  DRV_OK(cuLaunchKernel(function, 8, 1, 1, 128, 1, 1, 0, nullptr, arguments, nullptr));
  std::vector<int> result(kCount);
  DRV_OK(cuMemcpyDtoH(result.data(), data, kCount * sizeof(int)));
  for (int i = 0; i < kCount; ++i) EXPECT(result[i] == 2 * i + 5, "element %d is %d", i, result[i]);
  DRV_OK(cuMemFree(data));
}

struct Seen {
  int calls = 0;
  CUfunction function = nullptr;
};
void see(void* user, CUfunction function) {
  auto* seen = static_cast<Seen*>(user);
  ++seen->calls;
  seen->function = function;
}

// What cuFFT does: the table's slot 7 names a module's one function.
void private_table(CUmodule module, CUfunction wanted) {
  const CUuuid id = {{0x6e, 0x16, 0x3f, static_cast<char>(0xbe), static_cast<char>(0xb9), 0x58, 0x44, 0x4d,
                      static_cast<char>(0x83), 0x5c, static_cast<char>(0xe1), static_cast<char>(0x82),
                      static_cast<char>(0xaf), static_cast<char>(0xf1), static_cast<char>(0x99), 0x1e}};
  const void* table = nullptr;
  DRV_OK(cuGetExportTable(&table, &id));
  const auto* slots = static_cast<void* const*>(table);
  EXPECT(reinterpret_cast<size_t>(slots[0]) >= 0x40, "the table has %zu bytes",
         reinterpret_cast<size_t>(slots[0]));
  using Visit = unsigned (*)(CUcontext, CUmodule, void (*)(void*, CUfunction), void*);
  CUcontext context = nullptr;
  DRV_OK(cuCtxGetCurrent(&context));
  Seen seen;
  const unsigned count = reinterpret_cast<Visit>(slots[7])(context, module, see, &seen);
  EXPECT(count == 1 && seen.calls == 1, "slot 7 answered %u and named %d functions", count, seen.calls);
  EXPECT(seen.function == wanted, "slot 7 named another function");
}

}  // namespace

int main() {
  CUDA_OK(cudaFree(nullptr));

  Logs logs;
  CUlinkState linker = nullptr;
  DRV_OK(cuLinkCreate(6, logs.options, logs.values, &linker));
  DRV_OK(add(linker, kMain, "main.ptx"));
  DRV_OK(add(linker, kHelper, "helper.ptx"));
  void* image = nullptr;
  size_t size = 0;
  DRV_OK(cuLinkComplete(linker, &image, &size));
  EXPECT(image != nullptr && size > 0, "no image");
  CUmodule module = nullptr;
  DRV_OK(cuModuleLoadData(&module, image));
  DRV_OK(cuLinkDestroy(linker));
  CUfunction function = nullptr;
  DRV_OK(cuModuleGetFunction(&function, module, "work"));
  run(function);
  CUdeviceptr offset = 0;
  size_t bytes = 0;
  DRV_OK(cuModuleGetGlobal(&offset, &bytes, module, "offset"));
  EXPECT(bytes == 4, "the variable has %zu bytes", bytes);

  unsigned count = 0;
  DRV_OK(cuModuleGetFunctionCount(&count, module));
  EXPECT(count == 1, "%u functions", count);
  CUfunction listed[4] = {};
  DRV_OK(cuModuleEnumerateFunctions(listed, 1, module));
  const char* name = nullptr;
  DRV_OK(cuFuncGetName(&name, listed[0]));
  EXPECT(std::string(name) == "work", "it is called %s", name);
  run(listed[0]);
  private_table(module, function);
  DRV_OK(cuModuleUnload(module));

  // The helper is missing.
  Logs missing;
  DRV_OK(cuLinkCreate(6, missing.options, missing.values, &linker));
  CUresult result = add(linker, kMain, "main.ptx");
  if (result == CUDA_SUCCESS) result = cuLinkComplete(linker, &image, &size);
  EXPECT(result != CUDA_SUCCESS, "linked without the function that it calls");
  EXPECT(std::strstr(missing.error, "twice") != nullptr || std::strstr(missing.error, "offset") != nullptr,
         "the log does not name what is missing: %.100s", missing.error);
  DRV_OK(cuLinkDestroy(linker));

  // Text that is no PTX.
  Logs wrong;
  DRV_IS(cuModuleLoadDataEx(&module, kWrong, 6, wrong.options, wrong.values), CUDA_ERROR_INVALID_PTX);
  EXPECT(wrong.error_bytes() > 0 && wrong.error_bytes() < sizeof wrong.error, "a log of %zu bytes",
         wrong.error_bytes());
  EXPECT(std::memchr(wrong.error, '\0', sizeof wrong.error) != nullptr, "the log has no end");
  EXPECT(std::strlen(wrong.error) > 0, "the log is empty");

  // A log's buffer may be small.
  char tiny[8];
  CUjit_option tiny_options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* tiny_values[] = {tiny, reinterpret_cast<void*>(sizeof tiny)};
  DRV_IS(cuModuleLoadDataEx(&module, kWrong, 2, tiny_options, tiny_values), CUDA_ERROR_INVALID_PTX);

  // Options that steer the compiler, on a module and on a library.
  CUjit_option steer[] = {CU_JIT_MAX_REGISTERS, CU_JIT_OPTIMIZATION_LEVEL};
  void* steer_values[] = {reinterpret_cast<void*>(32), reinterpret_cast<void*>(3)};
  const std::string whole =
      std::string(kHelper) + std::string(kMain).substr(std::string(kMain).find(".visible .entry"));
  DRV_OK(cuModuleLoadDataEx(&module, whole.c_str(), 2, steer, steer_values));
  DRV_OK(cuModuleGetFunction(&function, module, "work"));
  run(function);
  DRV_OK(cuModuleUnload(module));
  CUlibrary library = nullptr;
  DRV_OK(cuLibraryLoadData(&library, whole.c_str(), steer, steer_values, 2, nullptr, nullptr, 0));
  DRV_OK(cuLibraryGetKernelCount(&count, library));
  EXPECT(count == 1, "%u kernels", count);
  CUkernel kernel = nullptr;
  DRV_OK(cuLibraryEnumerateKernels(&kernel, 1, library));
  CUkernel named = nullptr;
  DRV_OK(cuLibraryGetKernel(&named, library, "work"));
  EXPECT(kernel == named, "two handles for one kernel");
  DRV_OK(cuKernelGetFunction(&function, kernel));
  run(function);
  DRV_OK(cuLibraryUnload(library));
  return check::done("link_jit");
}
