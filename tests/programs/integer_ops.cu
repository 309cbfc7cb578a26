// Integer instructions: carry chains, 128-bit products, bit fields, byte permutation, dot products,
// saturation, division and shifts at their edges.
#include "check.hpp"

namespace {

constexpr int kResults = 16;

__host__ __device__ unsigned long long high_product(unsigned long long a, unsigned long long b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64U);
#endif
}

__global__ void run(const unsigned* in, unsigned long long* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const unsigned a = in[2 * i];
  const unsigned b = in[2 * i + 1];
  const int sa = static_cast<int>(a);
  const int sb = static_cast<int>(b);
  unsigned long long* to = out + kResults * i;
  unsigned low = 0;
  unsigned high = 0;
  asm("add.cc.u32 %0, %2, %3; addc.u32 %1, %2, 7;" : "=r"(low), "=r"(high) : "r"(a), "r"(b));
  to[0] = static_cast<unsigned long long>(high) << 32U | low;
  to[1] = high_product(static_cast<unsigned long long>(a) << 32U | b,
                       static_cast<unsigned long long>(b) << 32U | a);
  to[2] = __brev(a) ^ static_cast<unsigned>(__clz(sb)) ^ static_cast<unsigned>(__ffs(sa) << 8);
  to[3] = __byte_perm(a, b, 0x6274);
  to[4] = static_cast<unsigned>(__dp4a(sa, sb, 1000));
  to[5] = __dp4a(a, b, 5U);
  to[6] = static_cast<unsigned>(__popc(a) + __popcll(static_cast<unsigned long long>(a) * b));
  unsigned field = 0;
  asm("bfe.u32 %0, %1, 5, 11;" : "=r"(field) : "r"(a));
  to[7] = field;
  asm("bfi.b32 %0, %1, %2, 9, 7;" : "=r"(field) : "r"(a), "r"(b));
  to[8] = field;
  asm("bfe.s32 %0, %1, 20, 6;" : "=r"(field) : "r"(a));
  to[9] = field;
  to[10] = b != 0 ? a / b + a % b : 0;
  to[11] = sb != 0 && sb != -1 ? static_cast<unsigned>(sa / sb) + static_cast<unsigned>(sa % sb) : 0;
  to[12] = __funnelshift_l(a, b, b % 32);
  to[13] = static_cast<unsigned>(max(sa, sb)) + min(a, b) + static_cast<unsigned>(__sad(sa, sb, 3));
  unsigned saturated = 0;
  asm("add.sat.s32 %0, %1, %2;" : "=r"(saturated) : "r"(sa), "r"(sb));
  to[14] = saturated;
  asm("shl.b32 %0, %1, %2;" : "=r"(saturated) : "r"(a), "r"(b % 64));  // Beyond 31: all zeros.
  to[15] = saturated;
}

unsigned bit_field(unsigned value, unsigned at, unsigned length) {
  return value >> at & ((1U << length) - 1);
}

unsigned permute(unsigned a, unsigned b, unsigned selector) {
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned which = selector >> (4 * i) & 7U;
    const unsigned byte = (which < 4 ? a >> (8 * which) : b >> (8 * (which - 4))) & 0xffU;
    result |= byte << (8 * i);
  }
  return result;
}

unsigned reverse(unsigned value) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (value >> i & 1U) << (31 - i);
  return result;
}

}  // namespace

int main() {
  std::vector<unsigned> in = {0,           0,           1, 0, 0xffffffffU, 1,           0x80000000U,
                              0xffffffffU, 0x7fffffffU, 1, 5, 7,           0x80000000U, 2};
  check::Random random(71);
  while (in.size() < 4000) in.push_back(random.next() >> (random.next() % 20));
  const int count = static_cast<int>(in.size() / 2);
  unsigned* device_in = nullptr;
  unsigned long long* device_out = nullptr;
  CUDA_OK(cudaMalloc(&device_in, in.size() * sizeof(unsigned)));
  CUDA_OK(cudaMalloc(&device_out, count * kResults * sizeof(unsigned long long)));
  CUDA_OK(cudaMemcpy(device_in, in.data(), in.size() * sizeof(unsigned), cudaMemcpyHostToDevice));
  run<<<(count + 127) / 128, 128>>>(device_in, device_out, count);
  std::vector<unsigned long long> out(static_cast<size_t>(count) * kResults);
  CUDA_OK(
      cudaMemcpy(out.data(), device_out, out.size() * sizeof(unsigned long long), cudaMemcpyDeviceToHost));
  for (int i = 0; i < count; ++i) {
    const unsigned a = in[2 * i];
    const unsigned b = in[2 * i + 1];
    const auto sa = static_cast<int>(a);
    const auto sb = static_cast<int>(b);
    const unsigned long long sum = static_cast<unsigned long long>(a) + b;
    int signed_dot = 1000;
    unsigned dot = 5;
    for (int k = 0; k < 4; ++k) {
      signed_dot += static_cast<signed char>(a >> (8 * k)) * static_cast<signed char>(b >> (8 * k));
      dot += (a >> (8 * k) & 0xffU) * (b >> (8 * k) & 0xffU);
    }
    const long long signed_sum = static_cast<long long>(sa) + sb;
    const unsigned field = bit_field(a, 20, 6);
    const unsigned shift = b % 32;
    const unsigned long long wide = static_cast<unsigned long long>(b) << 32U | a;
    const unsigned long long wanted[kResults] = {
        static_cast<unsigned long long>(a + 7 + static_cast<unsigned>(sum >> 32U)) << 32U |
            static_cast<unsigned>(sum),
        high_product(static_cast<unsigned long long>(a) << 32U | b,
                     static_cast<unsigned long long>(b) << 32U | a),
        reverse(a) ^ static_cast<unsigned>(b == 0 ? 32 : __builtin_clz(b)) ^
            static_cast<unsigned>(__builtin_ffs(sa) << 8),
        permute(a, b, 0x6274),
        static_cast<unsigned>(signed_dot),
        dot,
        static_cast<unsigned>(__builtin_popcount(a) +
                              __builtin_popcountll(static_cast<unsigned long long>(a) * b)),
        bit_field(a, 5, 11),
        (b & ~(0x7fU << 9U)) | (a & 0x7fU) << 9U,
        (field & 0x20U) != 0 ? field | ~0x3fU : field,
        b != 0 ? a / b + a % b : 0U,
        sb != 0 && sb != -1 ? static_cast<unsigned>(sa / sb) + static_cast<unsigned>(sa % sb) : 0U,
        static_cast<unsigned>((wide << shift) >> 32U),
        static_cast<unsigned>(std::max(sa, sb)) + std::min(a, b) +
            static_cast<unsigned>(std::llabs(static_cast<long long>(sa) - sb)) + 3U,
        static_cast<unsigned>(static_cast<int>(std::min(2147483647LL, std::max(-2147483648LL, signed_sum)))),
        b % 64 > 31 ? 0U : a << (b % 64)};
    for (int k = 0; k < kResults; ++k) {
      EXPECT(out[kResults * i + k] == wanted[k], "result %d of 0x%x, 0x%x is 0x%llx, wanted 0x%llx", k, a, b,
             out[kResults * i + k], wanted[k]);
    }
  }
  return check::done("integer_ops");
}
