// The adapter from our descriptors to cuBLAS's interface, without a card: as cuBLAS serves our own libcublas
// on the software GPU, so a descriptor must come back from its calls with the same meaning.

#include "daemon/worker/card_blas.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "cudaabi/half.hpp"
#include "daemon/worker/driver_library.hpp"

namespace vgpu::worker {
namespace {

using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;
using cudaabi::BlasMatrix;
using cudaabi::BlasOperation;

class CardBlasTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL) == nullptr) return;
    auto driver = DriverLibrary::open(VGPU_SOFTGPU_PATH, 0);
    ASSERT_TRUE(driver) << driver.error();
    driver_ = std::move(*driver);
    const std::array<std::string, 2> places = {"/nonexistent/libcublas.so.13", VGPU_CUBLAS_PATH};
    auto blas = CardBlas::open(places);
    ASSERT_TRUE(blas) << blas.error();
    blas_ = std::move(*blas);
  }
  static void TearDownTestSuite() {
    blas_.reset();
    driver_.reset();
  }
  void SetUp() override {
    if (blas_ == nullptr) GTEST_SKIP() << "libopenblas.so.0 is not installed";
  }

  const DriverTable& cuda() const { return driver_->table(); }
  std::uint64_t allocate(std::size_t bytes) const {
    CUdeviceptr address = 0;
    EXPECT_EQ(cuda().cuMemAlloc_v2(&address, bytes), CUDA_SUCCESS);
    return address;
  }
  template <class T>
  std::uint64_t upload(const std::vector<T>& values) const {
    const std::uint64_t address = allocate(values.size() * sizeof(T));
    EXPECT_EQ(cuda().cuMemcpyHtoD_v2(address, values.data(), values.size() * sizeof(T)), CUDA_SUCCESS);
    return address;
  }
  template <class T>
  std::vector<T> download(std::uint64_t address, std::size_t count) const {
    std::vector<T> values(count);
    EXPECT_EQ(cuda().cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)), CUDA_SUCCESS);
    return values;
  }
  CUresult enqueue(const BlasDescriptor& d) const { return blas_->enqueue(driver_->context(), nullptr, d); }

  static inline std::unique_ptr<DriverLibrary> driver_;
  static inline std::unique_ptr<CardBlas> blas_;
};

// An element of one of the four types in memory.
std::vector<std::byte> encode(const std::vector<double>& values, BlasElement type) {
  std::vector<std::byte> bytes;
  const auto append = [&](const auto& value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
  };
  for (const double value : values) {
    const auto narrow = static_cast<float>(value);
    if (type == BlasElement::f64) append(value);
    if (type == BlasElement::f32) append(narrow);
    if (type == BlasElement::f16) append(cudaabi::round_f16(narrow));
    if (type == BlasElement::bf16) append(cudaabi::round_bf16(narrow));
  }
  return bytes;
}

double decode(const std::byte* from, BlasElement type) {
  if (type == BlasElement::f64) {
    double value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  if (type == BlasElement::f32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return static_cast<double>(value);
  }
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return static_cast<double>(type == BlasElement::f16 ? cudaabi::widen_f16(bits) : cudaabi::widen_bf16(bits));
}

struct Types {
  BlasElement in, out, scalar;
};

// Small integers and halves: exact in every type, so that the triple loop must agree to the last bit.
TEST_F(CardBlasTest, EveryTypeAndLayoutMatchesATripleLoop) {
  constexpr std::array<Types, 7> all = {{{BlasElement::f32, BlasElement::f32, BlasElement::f32},
                                         {BlasElement::f16, BlasElement::f16, BlasElement::f32},
                                         {BlasElement::f16, BlasElement::f16, BlasElement::f16},
                                         {BlasElement::f16, BlasElement::f32, BlasElement::f32},
                                         {BlasElement::bf16, BlasElement::bf16, BlasElement::f32},
                                         {BlasElement::bf16, BlasElement::f32, BlasElement::f32},
                                         {BlasElement::f64, BlasElement::f64, BlasElement::f64}}};
  constexpr int m = 3, n = 4, k = 5, batches = 2, pad = 2;
  for (const Types& types : all) {
    for (int layout = 0; layout < 16; ++layout) {
      SCOPED_TRACE(testing::Message() << "in " << static_cast<int>(types.in) << " out "
                                      << static_cast<int>(types.out) << " layout " << layout);
      const bool ta = (layout & 1) != 0, tb = (layout & 2) != 0, pointers = (layout & 4) != 0,
                 factors_on_device = (layout & 8) != 0;
      BlasDescriptor d;
      d.batch = pointers ? BlasBatch::pointers : BlasBatch::strided;
      d.scalar_type = types.scalar;
      d.m = m, d.n = n, d.k = k, d.batches = batches;
      const auto shape = [&](BlasMatrix& matrix, BlasElement type, int rows, int columns, bool transpose) {
        matrix.type = type;
        matrix.transpose = transpose ? 1 : 0;
        matrix.leading = rows + pad;
        matrix.stride = matrix.leading * columns;
      };
      shape(d.a, types.in, ta ? k : m, ta ? m : k, ta);
      shape(d.b, types.in, tb ? n : k, tb ? k : n, tb);
      shape(d.c, types.out, m, n, false);
      const auto values = [&](const BlasMatrix& matrix, int seed) {
        std::vector<double> numbers(static_cast<std::size_t>(matrix.stride * batches));
        for (std::size_t i = 0; i < numbers.size(); ++i)
          numbers[i] = static_cast<double>((i * 7 + static_cast<std::size_t>(seed)) % 5) - 2.0;
        return numbers;
      };
      const auto a = values(d.a, 1), b = values(d.b, 2), c = values(d.c, 3);
      const std::uint64_t at_a = upload(encode(a, types.in)), at_b = upload(encode(b, types.in)),
                          at_c = upload(encode(c, types.out));
      const auto place = [&](BlasMatrix& matrix, std::uint64_t address) {
        matrix.address = address;
        if (!pointers) return;
        std::vector<std::uint64_t> table;
        table.reserve(batches);
        for (int i = 0; i < batches; ++i) {
          table.push_back(address + static_cast<std::uint64_t>(matrix.stride * i) *
                                        cudaabi::blas_element_bytes(matrix.type));
        }
        matrix.address = upload(table);
      };
      place(d.a, at_a), place(d.b, at_b), place(d.c, at_c);
      d.d = d.c;
      constexpr double alpha = 0.5, beta = 2;
      d.alpha.value = alpha, d.beta.value = beta;
      if (factors_on_device) {
        d.alpha = {0, upload(encode({alpha}, types.scalar))};
        d.beta = {0, upload(encode({beta}, types.scalar))};
      }
      ASSERT_EQ(enqueue(d), CUDA_SUCCESS);
      ASSERT_EQ(cuda().cuCtxSynchronize(), CUDA_SUCCESS);
      const std::size_t bytes = cudaabi::blas_element_bytes(types.out);
      const auto found = download<std::byte>(at_c, c.size() * bytes);
      const auto at = [](const std::vector<double>& numbers, const BlasMatrix& matrix, int batch, int row,
                         int column) {
        if (matrix.transpose != 0) std::swap(row, column);
        return numbers[static_cast<std::size_t>(batch * matrix.stride + column * matrix.leading + row)];
      };
      for (int batch = 0; batch < batches; ++batch) {
        for (int column = 0; column < n; ++column) {
          for (int row = 0; row < m; ++row) {
            double sum = 0;
            for (int step = 0; step < k; ++step)
              sum += at(a, d.a, batch, row, step) * at(b, d.b, batch, step, column);
            const auto index = static_cast<std::size_t>(batch * d.c.stride + column * d.c.leading + row);
            ASSERT_EQ(decode(found.data() + index * bytes, types.out), alpha * sum + beta * c[index]);
          }
        }
      }
    }
  }
}

TEST_F(CardBlasTest, TriangularSolvesOfBothForms) {
  // Column-major lower triangle [2 0; 1 4]; X = [3; 5] gives B = [6; 23].
  const std::uint64_t a = upload(std::vector<float>{2, 1, 0, 4});
  for (const bool pointers : {false, true}) {
    const std::uint64_t b = upload(std::vector<float>{6, 23});
    BlasDescriptor d;
    d.operation = BlasOperation::trsm;
    d.m = 2, d.n = 1;
    d.a = {a, 2}, d.b = {b, 2};
    d.alpha.value = 1;
    if (pointers) {
      d.batch = BlasBatch::pointers;
      d.a.address = upload(std::vector<std::uint64_t>{a});
      d.b.address = upload(std::vector<std::uint64_t>{b});
    }
    ASSERT_EQ(enqueue(d), CUDA_SUCCESS);
    ASSERT_EQ(cuda().cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(download<float>(b, 2), (std::vector<float>{3, 5}));
  }
}

TEST_F(CardBlasTest, WhatCannotBeIsRefused) {
  BlasDescriptor d;
  d.m = d.n = d.k = 2;
  d.a.leading = d.b.leading = d.c.leading = d.d.leading = 2;
  d.a.address = d.b.address = d.c.address = d.d.address = allocate(64);
  EXPECT_EQ(enqueue(d), CUDA_SUCCESS);
  BlasDescriptor wrong = d;
  wrong.a.leading = 1;
  EXPECT_EQ(enqueue(wrong), CUDA_ERROR_INVALID_VALUE);
  wrong = d;
  wrong.b.type = BlasElement::f64;
  EXPECT_EQ(enqueue(wrong), CUDA_ERROR_NOT_SUPPORTED);
  wrong = d;
  wrong.alpha.address = d.a.address;  // one factor there, one here: cuBLAS cannot
  EXPECT_EQ(enqueue(wrong), CUDA_ERROR_NOT_SUPPORTED);
}

TEST_F(CardBlasTest, WhatCuBlasLacksIsRefused) {
  BlasDescriptor d;
  d.m = d.n = d.k = 1;
  d.a = {upload(std::vector<float>{3}), 1}, d.b = {upload(std::vector<float>{5}), 1};
  d.c = {upload(std::vector<float>{7}), 1}, d.d = {allocate(4), 1};
  d.alpha.value = 1;
  // C is not read without a beta, so that it may be anywhere.
  EXPECT_EQ(enqueue(d), CUDA_SUCCESS);
  ASSERT_EQ(cuda().cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(download<float>(d.d.address, 1), (std::vector<float>{15}));
  BlasDescriptor more = d;
  more.beta.value = 1;
  EXPECT_EQ(enqueue(more), CUDA_ERROR_NOT_SUPPORTED);
  more = d;
  more.activation = cudaabi::BlasActivation::relu;
  EXPECT_EQ(enqueue(more), CUDA_ERROR_NOT_SUPPORTED);
  more = d;
  more.bias.address = d.c.address;
  EXPECT_EQ(enqueue(more), CUDA_ERROR_NOT_SUPPORTED);
  more.bias.address = 0, more.operation = BlasOperation::sum;
  EXPECT_EQ(enqueue(more), CUDA_ERROR_NOT_SUPPORTED);
  more.bias.to_rows = 2;
  EXPECT_EQ(enqueue(more), CUDA_ERROR_INVALID_VALUE);
}

TEST(CardBlas, NoLibraryIsASentence) {
  const std::array<std::string, 1> places = {"/nonexistent/libcublas.so.13"};
  const auto blas = CardBlas::open(places);
  ASSERT_FALSE(blas);
  EXPECT_NE(blas.error().find("/nonexistent/libcublas.so.13"), std::string::npos);
}

}  // namespace
}  // namespace vgpu::worker
