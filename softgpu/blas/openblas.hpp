// OpenBLAS, loaded at run time, so that a program which never multiplies matrices pays nothing for it (it
// starts threads when it is loaded) and none of our binaries needs it to start.
#pragma once

namespace softgpu::blas {

/// The functions used, with the CBLAS interface's public signatures; enumerations as int.
struct OpenBlas {
  using Sgemm = void (*)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                         const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);
  using Dgemm = void (*)(int order, int transpose_a, int transpose_b, int m, int n, int k, double alpha,
                         const double* a, int lda, const double* b, int ldb, double beta, double* c, int ldc);
  using Strsm = void (*)(int order, int side, int fill, int transpose, int diagonal, int m, int n,
                         float alpha, const float* a, int lda, float* b, int ldb);
  using Dtrsm = void (*)(int order, int side, int fill, int transpose, int diagonal, int m, int n,
                         double alpha, const double* a, int lda, double* b, int ldb);
  Sgemm sgemm = nullptr;
  Dgemm dgemm = nullptr;
  Strsm strsm = nullptr;
  Dtrsm dtrsm = nullptr;

  static constexpr int column_major = 102, no_transpose = 111, transpose = 112, upper = 121, lower = 122,
                       non_unit = 131, unit = 132, left = 141, right = 142;
};

/// The library, or nullptr when it cannot be loaded. Thread-safe; never unloaded.
const OpenBlas* openblas();

}  // namespace softgpu::blas
