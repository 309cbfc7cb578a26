// Linking at run time (cuLink*): the device's own driver links, in the worker. Files are read here.
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "libclient/cuda/image_transfer.hpp"
#include "libclient/cuda/jit_options.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// Asks with a block for what the linker's options write; they are those of cuLinkCreate.
template <class Ask>
CUresult with_logs(Call& call, const LinkState& linker, Ask ask) {
  const std::size_t bytes = linker.options.output_bytes();
  ArenaLease logs(call.connection(), bytes);
  if (!logs) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  std::memset(logs.data(), 0, sizeof(JitOutputs));
  const CUresult result = ask(logs.span(bytes));
  linker.options.write_back({logs.data(), bytes});
  logs.discard();
  return result;
}

CUresult find_linker(Call& call, CUlinkState state, LinkState*& linker) {
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  linker = call.process().linkers.find(bits(state));
  return linker != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult create(unsigned count, CUjit_option* options, void** values, CUlinkState* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  JitOptions wanted(count, options, values);
  if (wanted.problem() != CUDA_SUCCESS) return wanted.problem();
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto [linker, handle] = call.process().linkers.create();
  if (linker == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  linker->options = std::move(wanted);
  record::cuLinkCreate_v2 record;
  record.state = handle;
  record.option_count = static_cast<std::uint32_t>(linker->options.wire().size());
  return hand_out(call.process().linkers, handle, call.ask(record, std::as_bytes(linker->options.wire())),
                  out);
}

CUresult add_data(CUlinkState state, CUjitInputType type, const void* data, std::size_t size,
                  const char* name, unsigned count, CUjit_option* options, void** values) {
  if (data == nullptr || size == 0) return CUDA_ERROR_INVALID_VALUE;
  const JitOptions wanted(count, options, values);
  if (wanted.problem() != CUDA_SUCCESS) return wanted.problem();
  Call call;
  LinkState* linker = nullptr;
  if (const CUresult result = find_linker(call, state, linker); result != CUDA_SUCCESS) return result;
  record::cuLinkAddData_v2 record;
  record.state = bits(state);
  record.type = static_cast<std::int32_t>(type);
  record.option_count = static_cast<std::uint32_t>(wanted.wire().size());
  const std::span options_part = std::as_bytes(wanted.wire());
  std::vector<std::byte> tail(options_part.begin(), options_part.end());
  constexpr std::size_t kLongestName = 4096;
  const std::size_t name_bytes = name != nullptr ? strnlen(name, kLongestName) : 0;
  const std::span text = std::as_bytes(std::span(name, name_bytes));
  tail.insert(tail.end(), text.begin(), text.end());
  // As its size says, whatever it holds: text may end without a NUL.
  const cudaabi::ImageExtent image{static_cast<const std::byte*>(data), size, cudaabi::ImageKind::elf};
  return with_logs(call, *linker, [&](const ArenaSpan& logs) {
    record.logs = logs;
    return send_image(call, image, record, tail);
  });
}

CUresult add_file(CUlinkState state, CUjitInputType type, const char* path, unsigned count,
                  CUjit_option* options, void** values) {
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "rbe"), &std::fclose);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  std::vector<char> contents;
  char part[65536];
  std::size_t got = 0;
  while ((got = std::fread(part, 1, sizeof part, file.get())) > 0)
    contents.insert(contents.end(), part, part + got);
  return add_data(state, type, contents.data(), contents.size(), path, count, options, values);
}

// The result lives as long as the linker, in this process.
CUresult complete(CUlinkState state, void** image, std::size_t* size) {
  Call call;
  LinkState* linker = nullptr;
  if (const CUresult result = find_linker(call, state, linker); result != CUDA_SUCCESS) return result;
  record::cuLinkComplete record;
  record.state = bits(state);
  reply::cuLinkComplete reply;
  CUresult result = with_logs(call, *linker, [&](const ArenaSpan& logs) {
    record.logs = logs;
    return call.ask(record, reply);
  });
  if (result != CUDA_SUCCESS) return result;
  constexpr std::uint64_t kLargestImage = std::uint64_t{2} << 30;
  if (reply.bytes > kLargestImage) return CUDA_ERROR_OUT_OF_MEMORY;
  // A NUL behind it, in case it is text.
  linker->image.assign(reply.bytes + 1, '\0');
  const std::uint64_t chunk = call.connection().largest_block();
  for (std::uint64_t at = 0; at < reply.bytes; at += chunk) {
    const std::uint64_t bytes = std::min(chunk, reply.bytes - at);
    ArenaLease block(call.connection(), bytes);
    if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    record::link_output part;
    part.state = bits(state);
    part.offset = at;
    part.block = block.span(bytes);
    result = call.ask(part);
    if (result == CUDA_SUCCESS) std::memcpy(linker->image.data() + at, block.data(), bytes);
    block.discard();
    if (result != CUDA_SUCCESS) return result;
  }
  if (image != nullptr) *image = linker->image.data();
  if (size != nullptr) *size = reply.bytes;
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuLinkCreate(unsigned int numOptions, CUjit_option* options, void** optionValues,
                                  CUlinkState* stateOut) {
  return create(numOptions, options, optionValues, stateOut);
}
VGPU_EXPORT CUresult cuLinkCreate_v2(unsigned int numOptions, CUjit_option* options, void** optionValues,
                                     CUlinkState* stateOut) {
  return create(numOptions, options, optionValues, stateOut);
}
VGPU_EXPORT CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void* data, size_t size,
                                   const char* name, unsigned int numOptions, CUjit_option* options,
                                   void** optionValues) {
  return add_data(state, type, data, size, name, numOptions, options, optionValues);
}
VGPU_EXPORT CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void* data, size_t size,
                                      const char* name, unsigned int numOptions, CUjit_option* options,
                                      void** optionValues) {
  return add_data(state, type, data, size, name, numOptions, options, optionValues);
}
VGPU_EXPORT CUresult cuLinkAddFile(CUlinkState state, CUjitInputType type, const char* path,
                                   unsigned int numOptions, CUjit_option* options, void** optionValues) {
  return add_file(state, type, path, numOptions, options, optionValues);
}
VGPU_EXPORT CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char* path,
                                      unsigned int numOptions, CUjit_option* options, void** optionValues) {
  return add_file(state, type, path, numOptions, options, optionValues);
}
VGPU_EXPORT CUresult cuLinkComplete(CUlinkState state, void** cubinOut, size_t* sizeOut) {
  return complete(state, cubinOut, sizeOut);
}
VGPU_EXPORT CUresult cuLinkDestroy(CUlinkState state) {
  Call call;
  LinkState* linker = nullptr;
  if (const CUresult result = find_linker(call, state, linker); result != CUDA_SUCCESS) return result;
  vgpu::record::cuLinkDestroy record;
  record.state = bits(state);
  const CUresult result = call.ask(record);
  call.process().linkers.destroy(bits(state));
  return result;
}
