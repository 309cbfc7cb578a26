#include "softgpu/driver/peer.hpp"

#include <algorithm>

#include "softgpu/driver/driver.hpp"

namespace softgpu {

std::vector<Context*> contexts_concerned(const Stream& stream, const CopyWork& box) {
  Driver& driver = Driver::get();
  std::vector<Context*> others;
  if (driver.device_count() == 1 || stream.kind != Stream::Kind::legacy) return others;
  const auto from = driver.memory.find(box.source);
  const auto to = driver.memory.find(box.destination);
  // Host memory is no device's; a copy within a device is its own affair, whoever asks for it.
  const auto device_memory = [](const auto& found) {
    return found && found->kind != MemoryKind::host && found->kind != MemoryKind::registered;
  };
  if (!device_memory(from) || !device_memory(to) || from->device == to->device) return others;
  for (const auto& found : {*from, *to}) {
    Context& context = context_of(driver, found);
    if (&context != &stream.context && std::find(others.begin(), others.end(), &context) == others.end())
      others.push_back(&context);
  }
  return others;
}

void wait_for_contexts(Stream& stream, const std::vector<Context*>& contexts) {
  if (contexts.empty()) return;
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  std::vector<OperationRef> before;
  for (const Context* const context : contexts) {
    for (OperationRef& operation : context->predecessors_locked(*context->legacy_stream()))
      before.push_back(std::move(operation));
  }
  if (before.empty()) return;
  stream.context.submit_locked(stream, std::make_shared<Operation>(Lane::none, &stream, nullptr),
                               std::move(before));
}

void hold_contexts(const std::vector<Context*>& contexts, const OperationRef& operation) {
  if (contexts.empty() || operation == nullptr) return;
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  for (Context* const context : contexts) {
    Stream& legacy = *context->legacy_stream();
    context->submit_locked(legacy, std::make_shared<Operation>(Lane::none, &legacy, nullptr), {operation});
  }
}

}  // namespace softgpu
