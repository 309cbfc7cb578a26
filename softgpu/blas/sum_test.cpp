// Sums of two matrices in every mixture of types and transpositions against a plain loop, and what must be
// refused.

#include <gtest/gtest.h>

#include "softgpu/blas/execute_case.hpp"

namespace softgpu::blas {
namespace {

constexpr std::int64_t rows = 3, columns = 4, count_of_batches = 2, gap = 2;

struct SumOperand {
  BlasElement type;
  bool transposed;
};

BlasMatrix layout_of(SumOperand operand) {
  BlasMatrix matrix;
  matrix.type = operand.type;
  matrix.transpose = operand.transposed ? 1 : 0;
  matrix.leading = (operand.transposed ? columns : rows) + gap;
  matrix.stride = matrix.leading * (operand.transposed ? rows : columns) + gap;
  return matrix;
}

double value_at(const Buffer& buffer, const BlasMatrix& matrix, std::int64_t batch, std::int64_t row,
                std::int64_t column) {
  if (matrix.transpose != 0) std::swap(row, column);
  return buffer.get(static_cast<std::size_t>(batch * matrix.stride + column * matrix.leading + row));
}

void check_sum(SumOperand a, SumOperand b, BlasElement out, double alpha, double beta) {
  SCOPED_TRACE(testing::Message() << static_cast<int>(a.type) << a.transposed << " "
                                  << static_cast<int>(b.type) << b.transposed << " " << static_cast<int>(out)
                                  << " " << alpha << " " << beta);
  BlasDescriptor d;
  d.operation = BlasOperation::sum;
  d.scalar_type = out == BlasElement::f64 ? BlasElement::f64 : BlasElement::f32;
  d.m = rows, d.n = columns, d.batches = count_of_batches;
  d.alpha.value = alpha, d.beta.value = beta;
  d.a = layout_of(a), d.b = layout_of(b), d.d = layout_of({out, false});
  std::mt19937 rng(5);
  const auto filled = [&](const BlasMatrix& matrix) {
    Buffer buffer(matrix.type, static_cast<std::size_t>(matrix.stride * count_of_batches));
    buffer.randomize(rng);
    return buffer;
  };
  const Buffer left = filled(d.a), right = filled(d.b), result = filled(d.d);
  const Buffer before = result;
  d.a.address = alpha != 0 ? left.address() : 0, d.b.address = beta != 0 ? right.address() : 0;
  d.d.address = result.address();
  ASSERT_EQ(execute(d, everything), Status::ok);
  for (std::int64_t batch = 0; batch < count_of_batches; ++batch) {
    for (std::int64_t column = 0; column < columns; ++column) {
      for (std::int64_t row = 0; row < d.d.leading; ++row) {
        const double found = value_at(result, d.d, batch, row, column);
        if (row >= rows) {
          ASSERT_EQ(found, value_at(before, d.d, batch, row, column));
          continue;
        }
        double expected = 0;
        if (alpha != 0) expected += alpha * value_at(left, d.a, batch, row, column);
        if (beta != 0) expected += beta * value_at(right, d.b, batch, row, column);
        ASSERT_NEAR(found, expected, tolerance(out));
      }
    }
  }
}

TEST_F(Gemm, SumsMatchALoopInEveryMixtureOfTypes) {
  constexpr BlasElement narrow[] = {BlasElement::f32, BlasElement::f16, BlasElement::bf16};
  for (int transposed = 0; transposed < 4; ++transposed) {
    const bool ta = (transposed & 1) != 0, tb = (transposed & 2) != 0;
    for (const double beta : {0.0, 0.5}) {
      for (const double alpha : {0.0, 2.0}) {
        for (const BlasElement a : narrow) {
          for (const BlasElement b : narrow) {
            for (const BlasElement out : narrow) check_sum({a, ta}, {b, tb}, out, alpha, beta);
          }
        }
        check_sum({BlasElement::f64, ta}, {BlasElement::f64, tb}, BlasElement::f64, alpha, beta);
      }
    }
  }
}

TEST_F(Gemm, SumsAreMadeInAccessibleMemoryOnly) {
  std::vector<float> a(4), b(4), result(4);
  BlasDescriptor d;
  d.operation = BlasOperation::sum;
  d.m = d.n = 2;
  const auto operand = [](const std::vector<float>& of) {
    return BlasMatrix{reinterpret_cast<std::uint64_t>(of.data()), 2};
  };
  d.a = operand(a), d.b = operand(b), d.d = operand(result);
  d.alpha.value = d.beta.value = 1;
  EXPECT_EQ(execute(d, everything), Status::ok);
  for (const std::vector<float>* refused : {&a, &b, &result}) {
    const auto at = reinterpret_cast<std::uint64_t>(refused->data());
    EXPECT_EQ(execute(d, [=](std::uint64_t address, std::uint64_t) { return address != at; }),
              Status::illegal_address);
  }
}

TEST(BlasValidation, SumsHaveTypesAndShapesToo) {
  BlasDescriptor d;
  d.operation = BlasOperation::sum;
  d.m = 4, d.n = 3;
  d.a.leading = d.b.leading = d.d.leading = 4;
  const auto with = [&](auto change) {
    BlasDescriptor changed = d;
    change(changed);
    return cudaabi::check_blas(changed);
  };
  EXPECT_EQ(with([](auto&) {}), cudaabi::BlasCheck::ok);
  EXPECT_EQ(with([](auto& x) { x.a.transpose = 1, x.a.leading = 3; }), cudaabi::BlasCheck::ok);
  EXPECT_EQ(with([](auto& x) { x.b.leading = 3; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.d.leading = 3; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.d.transpose = 1; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.bias.address = 64; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.scalar_type = BlasElement::f16; }), cudaabi::BlasCheck::unsupported);
  EXPECT_EQ(with([](auto& x) { x.a.type = BlasElement::f64; }), cudaabi::BlasCheck::unsupported);
}

}  // namespace
}  // namespace softgpu::blas
