// Every operand type and layout against a plain triple loop, and what must be refused.

#include "softgpu/blas/execute.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cudaabi/half.hpp"

namespace softgpu::blas {
namespace {

using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;
using cudaabi::BlasMatrix;
using cudaabi::BlasOperation;
using cudaabi::round_bf16;
using cudaabi::round_f16;
using cudaabi::widen_bf16;
using cudaabi::widen_f16;

std::size_t bytes_of(BlasElement type) {
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

bool everything(std::uint64_t, std::uint64_t) {
  return true;
}

double tolerance(BlasElement type) {
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

  std::string name() const {
    return "in " + std::to_string(static_cast<int>(in)) + " out " + std::to_string(static_cast<int>(out)) +
           " ta " + std::to_string(transpose_a) + " tb " + std::to_string(transpose_b) + " pointers " +
           std::to_string(pointers) + " pad " + std::to_string(pad) + " beta " + std::to_string(beta);
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
    Buffer a(in, count(d.a)), b(in, count(d.b)), c(out, count(d.c));
    a.randomize(rng);
    b.randomize(rng);
    c.randomize(rng);
    if (beta == 0.0) c.set(0, std::numeric_limits<double>::quiet_NaN());  // must not be read
    const Buffer before = c;
    std::vector<std::uint64_t> table_a, table_b, table_c;
    d.a.address = place(a, d.a, table_a);
    d.b.address = place(b, d.b, table_b);
    d.c.address = place(c, d.c, table_c);

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
          ASSERT_NEAR(element(c, d.c, i, row, column), expected, tolerance(out) * (1 + std::abs(expected)));
        }
        // What lies between the columns is not ours.
        for (std::int64_t row = m; row < d.c.leading && pad != 0; ++row) {
          const auto at = static_cast<std::size_t>(i * d.c.stride + column * d.c.leading + row);
          ASSERT_EQ(c.get(at), before.get(at));
        }
      }
    }
  }

 private:
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

TEST_F(Gemm, EveryTypeAndLayoutMatchesATripleLoop) {
  struct Types {
    BlasElement in, out, scalar;
  };
  constexpr Types all[] = {{BlasElement::f32, BlasElement::f32, BlasElement::f32},
                           {BlasElement::f16, BlasElement::f16, BlasElement::f32},
                           {BlasElement::f16, BlasElement::f16, BlasElement::f16},
                           {BlasElement::f16, BlasElement::f32, BlasElement::f32},
                           {BlasElement::bf16, BlasElement::bf16, BlasElement::f32},
                           {BlasElement::bf16, BlasElement::f32, BlasElement::f32},
                           {BlasElement::f64, BlasElement::f64, BlasElement::f64}};
  for (const Types& types : all) {
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
    d_.a = {0x1000, 4, 8}, d_.b = {0x2000, 2, 6}, d_.c = {0x3000, 4, 12};
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
  d_.c = {reinterpret_cast<std::uint64_t>(zero), 4, std::numeric_limits<std::int64_t>::max() / 4};
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
  d_.c = {0x3000, huge, 0, BlasElement::f64};
  d_.scalar_type = BlasElement::f64;
  d_.m = d_.n = d_.k = huge;
  EXPECT_EQ(execute(d_, anything), Status::illegal_address);
  EXPECT_EQ(asked, 0U);
}

TEST_F(GemmAddresses, PointerTablesAreCheckedAsWellAsWhatTheyPointTo) {
  d_.batch = BlasBatch::pointers;
  EXPECT_EQ(refusing(0), Status::illegal_address);
  std::uint64_t table[2] = {0xdead0000, 0};
  d_.a.address = d_.b.address = d_.c.address = reinterpret_cast<std::uint64_t>(table);
  const auto only_table = [&](std::uint64_t address, std::uint64_t bytes) {
    return address == reinterpret_cast<std::uint64_t>(table) && bytes == sizeof table;
  };
  EXPECT_EQ(execute(d_, only_table), Status::illegal_address);
}

TEST(BlasValidation, SensibleAndSupportedAreToldApart) {
  BlasDescriptor d;
  d.m = 4, d.n = 3, d.k = 2;
  d.a.leading = 4, d.b.leading = 2, d.c.leading = 4;
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
