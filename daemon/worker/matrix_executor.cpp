#include "daemon/worker/matrix_executor.hpp"

#include <unistd.h>

#include <cstdio>

namespace vgpu::worker {

MatrixExecutor::MatrixExecutor(const DriverLibrary* library)
    : software_(library != nullptr && library->software()) {
  if (library == nullptr) return;
  const auto* const table =
      static_cast<const cudaabi::BlasTable*>(library->export_table(cudaabi::blas_table_uuid));
  if (table != nullptr && table->size >= sizeof *table) table_ = table;
}

bool MatrixExecutor::find() {
  if (table_ != nullptr) return true;
  if (!card_ && !card_sought_ && !software_) {
    card_sought_ = true;
    auto opened = CardBlas::open(CardBlas::usual_places());
    if (opened) {
      card_ = std::move(*opened);
    } else {
      std::fprintf(
          stderr,
          "vgpud-worker[%d]: a client uses the forwarding libcublas, but there is no cuBLAS here: %s\n",
          getpid(), opened.error().c_str());
    }
  }
  return card_ != nullptr;
}

CUresult MatrixExecutor::enqueue(CUcontext context, CUstream stream,
                                 const cudaabi::BlasDescriptor& descriptor) {
  return table_ != nullptr ? table_->enqueue(stream, &descriptor, sizeof descriptor)
                           : card_->enqueue(context, stream, descriptor);
}

void MatrixExecutor::forget(CUcontext context) {
  if (card_ != nullptr) card_->forget(context);
}

}  // namespace vgpu::worker
