// For the tests of execute(): operands of every type, and a product checked against a plain triple loop.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "cudaabi/half.hpp"
#include "softgpu/blas/execute.hpp"

namespace softgpu::blas {

using cudaabi::BlasActivation;
using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;
using cudaabi::BlasMatrix;
using cudaabi::BlasOperation;
using cudaabi::round_bf16;
using cudaabi::round_f16;
using cudaabi::widen_bf16;
using cudaabi::widen_f16;

inline std::size_t bytes_of(BlasElement type) {
  return type == BlasElement::f64 ? 8 : type == BlasElement::f32 ? 4 : 2;
}

// Numbers of one element type in memory, read and written as doubles.
class Buffer {
 public:
  Buffer(BlasElement type, std::size_t count) : type_(type), bytes_(count * bytes_of(type)) {}

  std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(bytes_.data()); }
  std::size_t count() const { return bytes_.size() / bytes_of(type_); }

  double get(std::size_t i) const {
    const std::byte* from = bytes_.data() + i * bytes_of(type_);
    if (type_ == BlasElement::f64) return load<double>(from);
    if (type_ == BlasElement::f32) return static_cast<double>(load<float>(from));
    const auto half = load<std::uint16_t>(from);
    return static_cast<double>(type_ == BlasElement::f16 ? widen_f16(half) : widen_bf16(half));
  }
  void set(std::size_t i, double value) {
    std::byte* to = bytes_.data() + i * bytes_of(type_);
    if (type_ == BlasElement::f64) return store(to, value);
    const auto narrow = static_cast<float>(value);
    if (type_ == BlasElement::f32) return store(to, narrow);
    store(to, type_ == BlasElement::f16 ? round_f16(narrow) : round_bf16(narrow));
  }
  void randomize(std::mt19937& rng) {
    std::uniform_real_distribution<double> any(-1.0, 1.0);
    for (std::size_t i = 0; i < count(); ++i) set(i, any(rng));
  }

 private:
  template <class T>
  static T load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  template <class T>
  static void store(std::byte* to, T value) {
    std::memcpy(to, &value, sizeof value);
  }

  BlasElement type_;
  std::vector<std::byte> bytes_;
};

inline bool everything(std::uint64_t, std::uint64_t) {
  return true;
}

inline double tolerance(BlasElement type) {
  switch (type) {
    case BlasElement::f64:
      return 1e-12;
    case BlasElement::f32:
      return 1e-5;
    case BlasElement::f16:
      return 2e-3;
    case BlasElement::bf16:
      return 1.6e-2;
  }
  return 0;
}

// One product or batch of products: operands, descriptor, expectation by a triple loop in double precision.
struct Case {
  BlasElement in = BlasElement::f32, out = BlasElement::f32, scalar = BlasElement::f32;
  bool transpose_a = false, transpose_b = false, pointers = false;
  std::int64_t m = 5, n = 7, k = 9, batches = 1, pad = 0;
  double alpha = 0.5, beta = 0.25;
  bool separate = false;  // D is not C
  BlasActivation activation = BlasActivation::none;
  enum class Bias : std::uint8_t { none, columns, rows };  // what the vector is added to
  Bias bias = Bias::none;
  BlasElement bias_type = BlasElement::f32;

  std::string name() const {
    return "in " + std::to_string(static_cast<int>(in)) + " out " + std::to_string(static_cast<int>(out)) +
           " ta " + std::to_string(transpose_a) + " tb " + std::to_string(transpose_b) + " pointers " +
           std::to_string(pointers) + " pad " + std::to_string(pad) + " beta " + std::to_string(beta) +
           " separate " + std::to_string(separate) + " activation " +
           std::to_string(static_cast<int>(activation)) + " bias " + std::to_string(static_cast<int>(bias)) +
           " of " + std::to_string(static_cast<int>(bias_type));
  }

  void check() const {
    SCOPED_TRACE(name());
    std::mt19937 rng(7);
    BlasDescriptor d;
    d.batch = pointers ? BlasBatch::pointers : BlasBatch::strided;
    d.scalar_type = scalar;
    d.m = m, d.n = n, d.k = k, d.batches = batches;
    d.alpha.value = alpha, d.beta.value = beta;
    const std::int64_t rows_a = transpose_a ? k : m, columns_a = transpose_a ? m : k;
    const std::int64_t rows_b = transpose_b ? n : k, columns_b = transpose_b ? k : n;
    d.a = matrix(in, rows_a, columns_a, transpose_a);
    d.b = matrix(in, rows_b, columns_b, transpose_b);
    d.c = matrix(out, m, n, false);
    d.d = d.c;
    if (separate) d.d.leading += 2, d.d.stride += 2 * n + 1;
    d.activation = activation;
    Buffer a(in, count(d.a)), b(in, count(d.b)), c(out, count(d.c)), other(out, count(d.d));
    const std::int64_t vector = bias == Bias::rows ? n : m;
    Buffer added(bias_type, static_cast<std::size_t>((vector + pad) * batches));
    added.randomize(rng);
    other.randomize(rng);
    if (bias != Bias::none) d.bias = {added.address(), vector + pad, bias_type, bias == Bias::rows ? 1U : 0U};
    a.randomize(rng);
    b.randomize(rng);
    c.randomize(rng);
    if (beta == 0.0) c.set(0, std::numeric_limits<double>::quiet_NaN());  // must not be read
    const Buffer before = c, untouched = separate ? other : c;
    const Buffer& result = separate ? other : c;
    std::vector<std::uint64_t> table_a, table_b, table_c, table_d;
    d.a.address = place(a, d.a, table_a);
    d.b.address = place(b, d.b, table_b);
    d.c.address = place(c, d.c, table_c);
    d.d.address = separate ? place(other, d.d, table_d) : d.c.address;

    ASSERT_EQ(execute(d, everything), Status::ok);

    for (std::int64_t i = 0; i < batches; ++i) {
      for (std::int64_t column = 0; column < n; ++column) {
        for (std::int64_t row = 0; row < m; ++row) {
          double sum = 0;
          for (std::int64_t step = 0; step < k; ++step) {
            sum += element(a, d.a, i, row, step) * element(b, d.b, i, step, column);
          }
          double expected = alpha * sum;
          if (beta != 0.0) expected += beta * element(before, d.c, i, row, column);
          if (bias != Bias::none) {
            expected +=
                added.get(static_cast<std::size_t>(i * (vector + pad) + (bias == Bias::rows ? column : row)));
          }
          expected = activated(expected);
          ASSERT_NEAR(element(result, d.d, i, row, column), expected,
                      tolerance(out) * (1 + std::abs(expected)));
        }
        // What lies between the columns is not ours.
        for (std::int64_t row = m; row < d.d.leading; ++row) {
          const auto at = static_cast<std::size_t>(i * d.d.stride + column * d.d.leading + row);
          ASSERT_EQ(result.get(at), untouched.get(at));
        }
      }
    }
  }

 private:
  double activated(double x) const {
    if (activation == BlasActivation::relu) return std::max(x, 0.0);
    if (activation == BlasActivation::none) return x;
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * std::pow(x, 3))));
  }
  BlasMatrix matrix(BlasElement type, std::int64_t rows, std::int64_t columns, bool transpose) const {
    BlasMatrix result;
    result.leading = rows + pad;
    result.stride = (rows + pad) * columns + pad;
    result.type = type;
    result.transpose = transpose ? 1 : 0;
    return result;
  }
  std::size_t count(const BlasMatrix& x) const { return static_cast<std::size_t>(x.stride * batches); }
  std::uint64_t place(const Buffer& buffer, const BlasMatrix& x, std::vector<std::uint64_t>& table) const {
    if (!pointers) return buffer.address();
    for (std::int64_t i = 0; i < batches; ++i) {
      table.push_back(buffer.address() + static_cast<std::uint64_t>(i * x.stride) * bytes_of(x.type));
    }
    return reinterpret_cast<std::uint64_t>(table.data());
  }
  static double element(const Buffer& buffer, const BlasMatrix& x, std::int64_t batch, std::int64_t row,
                        std::int64_t column) {
    if (x.transpose != 0) std::swap(row, column);
    return buffer.get(static_cast<std::size_t>(batch * x.stride + column * x.leading + row));
  }
};

class Gemm : public testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "libopenblas.so.0 is not installed";
  }
};

// The types of operands, results and factors that are carried out.
struct CaseTypes {
  BlasElement in, out, scalar;
};
inline constexpr CaseTypes supported_types[] = {{BlasElement::f32, BlasElement::f32, BlasElement::f32},
                                                {BlasElement::f16, BlasElement::f16, BlasElement::f32},
                                                {BlasElement::f16, BlasElement::f16, BlasElement::f16},
                                                {BlasElement::f16, BlasElement::f32, BlasElement::f32},
                                                {BlasElement::bf16, BlasElement::bf16, BlasElement::f32},
                                                {BlasElement::bf16, BlasElement::f32, BlasElement::f32},
                                                {BlasElement::f64, BlasElement::f64, BlasElement::f64}};

}  // namespace softgpu::blas
