// A rate limit: so many tokens a second, of which a tenth of a second's may be saved up. Knows no clock.
#pragma once

#include <algorithm>
#include <cstdint>

namespace vgpu::worker {

class TokenBucket {
 public:
  /// Takes `tokens` at `now_ns`, at `rate` tokens a second, and says for how many ns the caller must wait
  /// before it acts: 0 when there were enough. What was taken in advance is paid by those who come later.
  std::uint64_t take(std::uint64_t tokens, double rate, std::uint64_t now_ns) {
    if (rate == 0) {
      tokens_ = 0;
      last_ns_ = 0;
      return 0;
    }
    const double most = std::max(rate / 10, 1.0);
    tokens_ =
        last_ns_ == 0 ? most : std::min(most, tokens_ + static_cast<double>(now_ns - last_ns_) * rate / 1e9);
    last_ns_ = now_ns;
    tokens_ -= static_cast<double>(tokens);
    return tokens_ >= 0 ? 0 : static_cast<std::uint64_t>(-tokens_ * 1e9 / rate);
  }

 private:
  double tokens_ = 0;
  std::uint64_t last_ns_ = 0;
};

}  // namespace vgpu::worker
