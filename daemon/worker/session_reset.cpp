// A reset of a primary context: the worker keeps it, without what the client had there.
#include <algorithm>
#include <array>
#include <utility>

#include "daemon/worker/first_values.hpp"
#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {
template <class T>
void destroy_value(CUresult (*destroy)(T), std::uint64_t value) {
  destroy(reinterpret_cast<T>(value));
}
}  // namespace

CUresult Session::handle(const record::cuDevicePrimaryCtxReset_v2& record, reply::cuDevicePrimaryCtxReset_v2&,
                         Tail) {
  if (!contexts_.current_is_primary()) return CUDA_ERROR_INVALID_DEVICE;
  // The worker keeps the context itself retained, ready for what comes next.
  if (contexts_.count() > 1) {
    empty_one_context(contexts_.index());
  } else {
    empty_primary_context();
  }
  // Not at a context's end: who comes next asks for it.
  return record.variables != 0 ? renew_variables() : CUDA_SUCCESS;
}

void Session::empty_one_context(std::uint16_t index) {
  const CUcontext context = contexts_.at(index);
  if (driver_.cuCtxSynchronize != nullptr) driver_.cuCtxSynchronize();
  completions_.poll();
  blocking_.drain();
  shared_.forget_opened(index, [this](CUdeviceptr pointer) { driver_.cuIpcCloseMemHandle(pointer); });
  const auto drop = [this, index](HandleKind kind, auto destroy) {
    if (destroy == nullptr) return;
    handles_.take_of(kind, index, [destroy](std::uint64_t value) { destroy_value(destroy, value); });
  };
  drop(HandleKind::event, driver_.cuEventDestroy_v2);
  forget_foreign_waits(index);
  ledger_.forget_context(context);
  drop(HandleKind::stream, driver_.cuStreamDestroy_v2);
  contexts_.remove_streams(context);
  drop(HandleKind::module, driver_.cuModuleUnload);
  take_lost_charges();
  handles_.forget_if(HandleKind::function, [index](std::uint64_t, std::uint64_t owner, std::uint16_t of) {
    return of == index && !Handle::is(owner, HandleKind::library);
  });
  const auto drop_objects = [index](auto& objects, auto destroy) {
    std::erase_if(objects, [&](const auto& object) {
      if (object.first == index && destroy != nullptr) destroy(object.second);
      return object.first == index;
    });
  };
  drop_objects(textures_, driver_.cuTexObjectDestroy);
  drop_objects(surfaces_, driver_.cuSurfObjectDestroy);
  // Levels of mipmapped arrays end with the whole.
  handles_.forget_if(HandleKind::array, [index](std::uint64_t, std::uint64_t owner, std::uint16_t of) {
    return of == index && owner != 0;
  });
  drop(HandleKind::mipmapped_array, driver_.cuMipmappedArrayDestroy);
  drop(HandleKind::array, driver_.cuArrayDestroy);
  std::erase_if(arrays_, [this](const auto& entry) {
    return handles_.find(Handle::kind(entry.first), entry.first) == nullptr;
  });
  free_allocations([index](const Allocation& allocation) { return allocation.context == index; });
}

void Session::empty_primary_context() {
  if (driver_.cuCtxSynchronize != nullptr) driver_.cuCtxSynchronize();
  // What was freed and waited for that goes first.
  completions_.poll();
  blocking_.drain();
  shared_.forget_opened(std::nullopt, [this](CUdeviceptr pointer) { driver_.cuIpcCloseMemHandle(pointer); });
  const auto drop = [this](HandleKind kind, auto destroy) {
    if (destroy == nullptr) return;
    handles_.take_all(kind, [destroy](std::uint64_t value) { destroy_value(destroy, value); });
  };
  drop(HandleKind::graph_exec, driver_.cuGraphExecDestroy);
  drop(HandleKind::graph, driver_.cuGraphDestroy);
  drop(HandleKind::event, driver_.cuEventDestroy_v2);
  forget_foreign_waits(0);
  drop(HandleKind::stream, driver_.cuStreamDestroy_v2);
  drop(HandleKind::module, driver_.cuModuleUnload);
  take_lost_charges();
  // Levels of mipmapped arrays end with the whole.
  handles_.forget_if(HandleKind::array,
                     [](std::uint64_t, std::uint64_t owner, std::uint16_t) { return owner != 0; });
  for (const auto& [context, object] : textures_) {
    if (driver_.cuTexObjectDestroy != nullptr) driver_.cuTexObjectDestroy(object);
  }
  for (const auto& [context, object] : surfaces_) {
    if (driver_.cuSurfObjectDestroy != nullptr) driver_.cuSurfObjectDestroy(object);
  }
  textures_.clear();
  surfaces_.clear();
  drop(HandleKind::mipmapped_array, driver_.cuMipmappedArrayDestroy);
  drop(HandleKind::array, driver_.cuArrayDestroy);
  arrays_.clear();
  // Their modules and graphs are gone; functions of libraries stay.
  handles_.forget_if(HandleKind::function, [](std::uint64_t, std::uint64_t owner, std::uint16_t) {
    return !Handle::is(owner, HandleKind::library);
  });
  handles_.forget_if(HandleKind::graph_node,
                     [](std::uint64_t, std::uint64_t, std::uint16_t) { return true; });
  captures_ = 0;
  graphs_.forget_all();
  contexts_.remove_all_streams();
  ledger_.forget_all();
  free_allocations([](const Allocation&) { return true; });
}

void Session::free_allocations(const std::function<bool(const Allocation&)>& chosen) {
  for (const CUdeviceptr pointer : allocations_.of(chosen)) {
    if (driver_.cuMemFree_v2 == nullptr || free_device_memory(pointer) != CUDA_SUCCESS) {
      allocations_.remove(pointer);
    }
  }
}

CUresult Session::renew_variables() {
  CUresult first_error = CUDA_SUCCESS;
  for (const auto& [handle, image] : library_images_) {
    CUlibrary library = nullptr;
    if (!resolve(handle, library) || !library_in_use(handle, image)) continue;
    const CUresult result = renew_variables(library, *image.bytes);
    if (first_error == CUDA_SUCCESS) first_error = result;
  }
  return first_error;
}

CUresult Session::renew_variables(CUlibrary library, std::span<const std::byte> image) {
  std::uint32_t capability = 0;
  if (const CUresult result = image_charges_.capability(place(), capability); result != CUDA_SUCCESS)
    return result;
  std::array<ImageCharges::Held, first_value_copies> charges;
  for (ImageCharges::Held& charge : charges) {
    const CUresult result = image_charges_.charge(image, place(), false, charge);
    if (result != CUDA_SUCCESS) return result;
  }
  return restore_first_values(driver_, library, image, capability);
}

bool Session::library_in_use(std::uint64_t handle, const LibraryImage& image) const {
  if (image.variables_known) return true;
  for (const HandleKind kind : {HandleKind::kernel, HandleKind::module, HandleKind::function}) {
    if (handles_.any_of_owner(kind, handle)) return true;
  }
  return false;
}

}  // namespace vgpu::worker
