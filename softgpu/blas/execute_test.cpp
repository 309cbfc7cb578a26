// Every operand type and layout against a plain triple loop, and what must be refused.

#include "softgpu/blas/execute.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cudaabi/half.hpp"
#include "softgpu/blas/execute_case.hpp"

namespace softgpu::blas {
namespace {

TEST_F(Gemm, EveryTypeAndLayoutMatchesATripleLoop) {
  for (const CaseTypes& types : supported_types) {
    for (int layout = 0; layout < 32; ++layout) {
      Case test;
      test.in = types.in, test.out = types.out, test.scalar = types.scalar;
      test.transpose_a = (layout & 1) != 0, test.transpose_b = (layout & 2) != 0;
      test.pointers = (layout & 4) != 0;
      test.pad = (layout & 8) != 0 ? 3 : 0;
      test.beta = (layout & 16) != 0 ? 0.25 : 0.0;
      test.batches = 3;
      test.check();
    }
  }
}

TEST_F(Gemm, LargeProductsMatchToo) {
  for (const BlasElement type : {BlasElement::f32, BlasElement::f16}) {
    Case test;
    test.in = type;
    test.m = 65, test.n = 130, test.k = 257;
    test.transpose_a = true;
    test.check();
  }
}

TEST_F(Gemm, ZeroStrideSharesAnOperand) {
  std::vector<float> a{1, 2, 3, 4}, b{1, 0, 0, 1, 2, 0, 0, 2}, c(8);
  BlasDescriptor d;
  d.m = d.n = d.k = 2;
  d.batches = 2;
  d.a = {reinterpret_cast<std::uint64_t>(a.data()), 2, 0};
  d.b = {reinterpret_cast<std::uint64_t>(b.data()), 2, 4};
  d.c = {reinterpret_cast<std::uint64_t>(c.data()), 2, 4};
  d.d = d.c;
  d.alpha.value = 1;
  ASSERT_EQ(execute(d, everything), Status::ok);
  EXPECT_EQ(c, (std::vector<float>{1, 2, 3, 4, 2, 4, 6, 8}));
}

TEST_F(Gemm, WithoutASumOnlyBetaCounts) {
  std::vector<std::uint16_t> a(4), b(4), c{round_f16(2), round_f16(4), round_f16(6), round_f16(8)};
  BlasDescriptor d;
  d.m = d.n = 2;
  d.k = 0;
  d.a = {reinterpret_cast<std::uint64_t>(a.data()), 2, 0, BlasElement::f16};
  d.b = {reinterpret_cast<std::uint64_t>(b.data()), 1, 0, BlasElement::f16};
  d.c = {reinterpret_cast<std::uint64_t>(c.data()), 2, 0, BlasElement::f16};
  d.d = d.c;
  d.alpha.value = 1, d.beta.value = 0.5;
  ASSERT_EQ(execute(d, everything), Status::ok);
  EXPECT_EQ(widen_f16(c[0]), 1.0F);
  EXPECT_EQ(widen_f16(c[3]), 4.0F);
}

TEST_F(Gemm, FactorsAreReadFromDeviceMemoryWhenTheOperationRuns) {
  float a = 3, b = 5, c = 7;
  const float alpha = 2, beta = 10;
  BlasDescriptor d;
  d.m = d.n = d.k = 1;
  d.a = {reinterpret_cast<std::uint64_t>(&a), 1, 0};
  d.b = {reinterpret_cast<std::uint64_t>(&b), 1, 0};
  d.c = {reinterpret_cast<std::uint64_t>(&c), 1, 0};
  d.d = d.c;
  d.alpha.address = reinterpret_cast<std::uint64_t>(&alpha);
  d.beta.address = reinterpret_cast<std::uint64_t>(&beta);
  ASSERT_EQ(execute(d, everything), Status::ok);
  EXPECT_EQ(c, 100.0F);
}

// What execute() asks about, one range refused.
class GemmAddresses : public Gemm {
 protected:
  void SetUp() override {
    Gemm::SetUp();
    d_.m = 4, d_.n = 3, d_.k = 2, d_.batches = 2;
    d_.a = {0x1000, 4, 8}, d_.b = {0x2000, 2, 6}, d_.c = d_.d = {0x3000, 4, 12};
  }
  Status refusing(std::uint64_t from) {
    return execute(d_,
                   [from](std::uint64_t address, std::uint64_t bytes) { return address + bytes <= from; });
  }
  BlasDescriptor d_;
};

TEST_F(GemmAddresses, OperandsOutsideAccessibleMemoryAreNotTouched) {
  EXPECT_EQ(refusing(0x1000), Status::illegal_address);
  EXPECT_EQ(refusing(0x2000), Status::illegal_address);
  EXPECT_EQ(refusing(0x3000 + 4 * 3 * 4 - 1), Status::illegal_address);  // one byte short
}

TEST_F(GemmAddresses, AbsurdStridesAreRefusedNotFollowed) {
  float zero[12] = {};
  d_.a = {reinterpret_cast<std::uint64_t>(zero), 4, std::numeric_limits<std::int64_t>::min()};
  d_.b = {reinterpret_cast<std::uint64_t>(zero), 2, 0};
  d_.c = d_.d = {reinterpret_cast<std::uint64_t>(zero), 4, std::numeric_limits<std::int64_t>::max() / 4};
  const auto only_mine = [&](std::uint64_t address, std::uint64_t bytes) {
    return address >= reinterpret_cast<std::uint64_t>(zero) && bytes <= sizeof zero &&
           address + bytes <= reinterpret_cast<std::uint64_t>(zero) + sizeof zero;
  };
  EXPECT_EQ(execute(d_, only_mine), Status::illegal_address);
}

TEST_F(GemmAddresses, SizesThatOverflowAreRefused) {
  std::uint64_t asked = 0;
  const auto anything = [&](std::uint64_t, std::uint64_t bytes) {
    asked = std::max(asked, bytes);
    return false;
  };
  constexpr std::int64_t huge = std::numeric_limits<int>::max();
  d_.a = {0x1000, huge, 0, BlasElement::f64}, d_.b = {0x2000, huge, 0, BlasElement::f64};
  d_.c = d_.d = {0x3000, huge, 0, BlasElement::f64};
  d_.scalar_type = BlasElement::f64;
  d_.m = d_.n = d_.k = huge;
  EXPECT_EQ(execute(d_, anything), Status::illegal_address);
  EXPECT_EQ(asked, 0U);
}

TEST_F(GemmAddresses, PointerTablesAreCheckedAsWellAsWhatTheyPointTo) {
  d_.batch = BlasBatch::pointers;
  EXPECT_EQ(refusing(0), Status::illegal_address);
  std::uint64_t table[2] = {0xdead0000, 0};
  d_.a.address = d_.b.address = d_.c.address = d_.d.address = reinterpret_cast<std::uint64_t>(table);
  const auto only_table = [&](std::uint64_t address, std::uint64_t bytes) {
    return address == reinterpret_cast<std::uint64_t>(table) && bytes == sizeof table;
  };
  EXPECT_EQ(execute(d_, only_table), Status::illegal_address);
}

TEST(BlasValidation, SensibleAndSupportedAreToldApart) {
  BlasDescriptor d;
  d.m = 4, d.n = 3, d.k = 2;
  d.a.leading = 4, d.b.leading = 2, d.c.leading = d.d.leading = 4;
  EXPECT_EQ(cudaabi::check_blas(d), cudaabi::BlasCheck::ok);
  const auto with = [&](auto change) {
    BlasDescriptor changed = d;
    change(changed);
    return cudaabi::check_blas(changed);
  };
  EXPECT_EQ(with([](auto& x) { x.m = -1; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.a.leading = 3; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.c.leading = std::int64_t{1} << 40; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.a.transpose = 2; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.a.type = static_cast<BlasElement>(9); }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.operation = static_cast<BlasOperation>(9); }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.d.leading = 3; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.d.transpose = 1; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.c.transpose = 1; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.c.address = x.d.address = 64, x.d.leading = 5; }),
            cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.activation = static_cast<cudaabi::BlasActivation>(3); }),
            cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.bias.to_rows = 2; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.bias.type = static_cast<BlasElement>(4); }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.reserved = 1; }), cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) {
              x.operation = BlasOperation::trsm, x.a.leading = x.b.leading = 4;
              x.activation = cudaabi::BlasActivation::relu;
            }),
            cudaabi::BlasCheck::invalid);
  EXPECT_EQ(with([](auto& x) { x.bias.address = 64, x.bias.type = BlasElement::f64; }),
            cudaabi::BlasCheck::unsupported);
  EXPECT_EQ(with([](auto& x) { x.d.type = BlasElement::f16; }), cudaabi::BlasCheck::unsupported);
  EXPECT_EQ(with([](auto& x) { x.batches = std::int64_t{1} << 40; }), cudaabi::BlasCheck::unsupported);
  EXPECT_EQ(with([](auto& x) { x.b.type = BlasElement::f16; }), cudaabi::BlasCheck::unsupported);
  EXPECT_EQ(with([](auto& x) { x.c.type = BlasElement::bf16; }), cudaabi::BlasCheck::unsupported);
  EXPECT_EQ(with([](auto& x) { x.scalar_type = BlasElement::f16; }), cudaabi::BlasCheck::unsupported);
}

// Where element (row, column) of a column-major matrix is.
std::size_t position(int row, int column, int leading) {
  return static_cast<std::size_t>(column) * static_cast<std::size_t>(leading) + static_cast<std::size_t>(row);
}

TEST_F(Gemm, TriangularSolvesUndoTheProduct) {
  for (int variant = 0; variant < 16; ++variant) {
    const bool right = (variant & 1) != 0, upper = (variant & 2) != 0, transpose = (variant & 4) != 0,
               unit = (variant & 8) != 0;
    SCOPED_TRACE(variant);
    constexpr int m = 5, n = 4;
    const int order = right ? n : m;
    std::mt19937 rng(3);
    std::uniform_real_distribution<float> any(0.5F, 1.0F);
    std::vector<float> a(position(0, order, order), 99.0F), x(position(0, n, m)), b(x.size(), 0.0F);
    std::vector<double> triangle(a.size(), 0.0);
    for (int column = 0; column < order; ++column) {
      for (int row = 0; row < order; ++row) {
        const auto at = position(row, column, order);
        if (row == column) {
          if (!unit) a[at] = any(rng) + 2.0F;
          triangle[at] = unit ? 1.0 : static_cast<double>(a[at]);
        } else if (upper == (row < column)) {
          a[at] = any(rng);
          triangle[at] = static_cast<double>(a[at]);
        }
      }
    }
    for (float& value : x) value = any(rng);
    const auto op = [&](int row, int column) {
      if (transpose) std::swap(row, column);
      return triangle[position(row, column, order)];
    };
    for (int column = 0; column < n; ++column) {
      for (int row = 0; row < m; ++row) {
        double sum = 0;
        for (int step = 0; step < order; ++step) {
          sum += right ? static_cast<double>(x[position(row, step, m)]) * op(step, column)
                       : op(row, step) * static_cast<double>(x[position(step, column, m)]);
        }
        b[position(row, column, m)] = static_cast<float>(sum / 2);
      }
    }
    const std::uint64_t table_a[1] = {reinterpret_cast<std::uint64_t>(a.data())};
    const std::uint64_t table_b[1] = {reinterpret_cast<std::uint64_t>(b.data())};
    BlasDescriptor d;
    d.operation = BlasOperation::trsm;
    d.batch = BlasBatch::pointers;
    d.right_side = right, d.upper = upper, d.unit_diagonal = unit;
    d.m = m, d.n = n;
    d.a = {reinterpret_cast<std::uint64_t>(table_a), order, 0, BlasElement::f32, transpose ? 1U : 0U};
    d.b = {reinterpret_cast<std::uint64_t>(table_b), m, 0};
    d.alpha.value = 2;
    ASSERT_EQ(execute(d, everything), Status::ok);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(b[i], x[i], 1e-4F);
  }
}

TEST(Half, EveryNumberSurvivesWideningAndRounding) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float wide = widen_f16(half);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(widen_f16(round_f16(wide))));
    } else {
      ASSERT_EQ(round_f16(wide), half);
    }
    if (!std::isnan(widen_bf16(half))) {
      ASSERT_EQ(round_bf16(widen_bf16(half)), half);
    }
  }
  EXPECT_EQ(widen_f16(0x3c00), 1.0F);
  EXPECT_EQ(widen_f16(0x0001), 0x1p-24F);
  EXPECT_EQ(widen_f16(0xfbff), -65504.0F);
}

TEST(Half, RoundingIsToNearestWithTiesToEven) {
  EXPECT_EQ(round_f16(1.0F + 0x1p-11F), 0x3c00);
  EXPECT_EQ(round_f16(1.0F + 3 * 0x1p-11F), 0x3c02);
  EXPECT_EQ(round_f16(std::nextafter(1.0F + 0x1p-11F, 2.0F)), 0x3c01);
  EXPECT_EQ(round_f16(0x1p-25F), 0x0000);
  EXPECT_EQ(round_f16(0x1.8p-24F), 0x0002);
  EXPECT_EQ(round_f16(65519.0F), 0x7bff);
  EXPECT_EQ(round_f16(65520.0F), 0x7c00);
  EXPECT_EQ(round_f16(-1e9F), 0xfc00);
  EXPECT_EQ(round_bf16(std::bit_cast<float>(0x3f808000U)), 0x3f80);
  EXPECT_EQ(round_bf16(std::bit_cast<float>(0x3f818000U)), 0x3f82);
}

}  // namespace
}  // namespace softgpu::blas
