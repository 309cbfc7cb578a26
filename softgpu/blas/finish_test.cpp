// What a product gets besides its sum: a result apart from C, a bias, an activation function; and what of it
// must be refused.

#include <gtest/gtest.h>

#include "softgpu/blas/execute_case.hpp"

namespace softgpu::blas {
namespace {

TEST_F(Gemm, EveryEndingMatchesATripleLoopInEveryType) {
  for (const CaseTypes& types : supported_types) {
    for (const BlasActivation activation :
         {BlasActivation::none, BlasActivation::relu, BlasActivation::gelu}) {
      for (const Case::Bias bias : {Case::Bias::none, Case::Bias::columns, Case::Bias::rows}) {
        for (int layout = 0; layout < 16; ++layout) {
          Case test;
          test.in = types.in, test.out = types.out, test.scalar = types.scalar;
          test.activation = activation, test.bias = bias, test.bias_type = types.out;
          test.separate = (layout & 1) != 0, test.pointers = (layout & 2) != 0;
          test.pad = (layout & 4) != 0 ? 3 : 0;
          test.beta = (layout & 8) != 0 ? 0.25 : 0.0;
          test.transpose_a = (layout & 1) != 0, test.transpose_b = (layout & 2) == 0;
          test.batches = 2;
          test.check();
        }
      }
    }
  }
}

TEST_F(Gemm, ABiasMayHaveAnotherTypeThanTheResult) {
  for (const BlasElement out : {BlasElement::f32, BlasElement::f16}) {
    for (const BlasElement bias : {BlasElement::f32, BlasElement::f16, BlasElement::bf16}) {
      Case test;
      test.in = BlasElement::f16, test.out = out;
      test.bias = Case::Bias::columns, test.bias_type = bias;
      test.check();
    }
  }
}

TEST_F(Gemm, OneBiasMayServeAWholeBatch) {
  std::vector<float> a{1, 2}, b{1, 10}, bias{100, 200}, d(4);
  BlasDescriptor x;
  x.m = 2, x.n = x.k = 1, x.batches = 2;
  x.a = {reinterpret_cast<std::uint64_t>(a.data()), 2, 0};
  x.b = {reinterpret_cast<std::uint64_t>(b.data()), 1, 1};
  x.c = x.d = {reinterpret_cast<std::uint64_t>(d.data()), 2, 2};
  x.bias = {reinterpret_cast<std::uint64_t>(bias.data()), 0};
  x.alpha.value = 1;
  ASSERT_EQ(execute(x, everything), Status::ok);
  EXPECT_EQ(d, (std::vector<float>{101, 202, 110, 220}));
}

// Every operand in memory of its own, one range at a time refused.
class GemmRanges : public Gemm {
 protected:
  void SetUp() override {
    Gemm::SetUp();
    d_.m = 4, d_.n = 3, d_.k = 2, d_.batches = 2;
    const auto at = [](std::vector<float>& of) { return reinterpret_cast<std::uint64_t>(of.data()); };
    d_.a = {at(a_), 4, 8}, d_.b = {at(b_), 2, 6}, d_.c = {at(c_), 4, 12}, d_.d = {at(result_), 4, 12};
    d_.bias = {at(bias_), 4};
    d_.alpha.value = 1;
  }
  Status refusing(const std::vector<float>& what) {
    const auto from = reinterpret_cast<std::uint64_t>(what.data()), end = from + what.size() * sizeof(float);
    // The last byte of its last matrix is not there.
    return execute(d_, [=](std::uint64_t address, std::uint64_t bytes) {
      return address + bytes <= end - 1 || address >= end;
    });
  }
  BlasDescriptor d_;
  std::vector<float> a_ = std::vector<float>(16), b_ = std::vector<float>(12), c_ = std::vector<float>(24),
                     result_ = std::vector<float>(24), bias_ = std::vector<float>(8);
};

TEST_F(GemmRanges, TheResultAndTheBiasMustBeAccessible) {
  EXPECT_EQ(execute(d_, everything), Status::ok);
  EXPECT_EQ(refusing(result_), Status::illegal_address);
  EXPECT_EQ(refusing(bias_), Status::illegal_address);
  constexpr std::int64_t far = std::int64_t{1} << 40;
  d_.bias.stride = far;
  const auto near = [&](std::uint64_t address, std::uint64_t) { return address < d_.bias.address + far; };
  EXPECT_EQ(execute(d_, near), Status::illegal_address);
}

TEST_F(GemmRanges, CMattersOnlyWithABeta) {
  EXPECT_EQ(refusing(c_), Status::ok);
  d_.c.address = 0;
  EXPECT_EQ(execute(d_, everything), Status::ok);
  EXPECT_EQ(c_, std::vector<float>(24));
  d_.beta.value = 1;
  EXPECT_EQ(execute(d_, everything), Status::illegal_address);
  d_.c.address = reinterpret_cast<std::uint64_t>(c_.data());
  EXPECT_EQ(refusing(c_), Status::illegal_address);
}

}  // namespace
}  // namespace softgpu::blas
