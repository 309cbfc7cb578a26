// Who carries out matrix operations (cudaabi/blas_extension.hpp): the software GPU's own executor, or the
// card's cuBLAS, which is looked for at the first need. Checks no stream.
#pragma once

#include <cuda.h>

#include <memory>

#include "cudaabi/blas_extension.hpp"
#include "daemon/worker/card_blas.hpp"
#include "daemon/worker/driver_library.hpp"

namespace vgpu::worker {

/// One thread.
class MatrixExecutor {
 public:
  /// `library` may be nullptr, as in tests with a table of their own.
  explicit MatrixExecutor(const DriverLibrary* library);

  /// Whether there is one.
  bool find();
  /// Puts the operation into a stream of the current context, once find() was true.
  CUresult enqueue(CUcontext context, CUstream stream, const cudaabi::BlasDescriptor& descriptor);
  /// The context is about to be destroyed.
  void forget(CUcontext context);

 private:
  const cudaabi::BlasTable* table_ = nullptr;
  const bool software_;
  std::unique_ptr<CardBlas> card_;
  bool card_sought_ = false;
};

}  // namespace vgpu::worker
