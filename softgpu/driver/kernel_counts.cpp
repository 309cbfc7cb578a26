#include "softgpu/driver/kernel_counts.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>

namespace softgpu {

void KernelCounts::add(std::string_view name, std::uint64_t busy_ns, std::uint64_t lane_instructions) {
  const std::lock_guard lock(mutex_);
  auto found = counts_.find(name);
  if (found == counts_.end()) found = counts_.emplace(name, KernelCount{.name = std::string(name)}).first;
  KernelCount& count = found->second;
  ++count.launches;
  count.busy_ns += busy_ns;
  count.lane_instructions += lane_instructions;
}

std::vector<KernelCount> KernelCounts::by_time() const {
  std::vector<KernelCount> sorted;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, count] : counts_) sorted.push_back(count);
  }
  std::ranges::stable_sort(sorted, std::greater{}, &KernelCount::busy_ns);
  return sorted;
}

void KernelCounts::write(std::ostream& out) const {
  out << "kernel\tlaunches\tbusy_ns\tlane_instructions\n";
  for (const KernelCount& count : by_time())
    out << count.name << '\t' << count.launches << '\t' << count.busy_ns << '\t' << count.lane_instructions
        << '\n';
}

bool KernelCounts::save() const {
  if (destination_ == "-") {
    write(std::cerr);
    return true;
  }
  std::ofstream file(destination_, std::ios::trunc);
  write(file);
  file.close();
  return !file.fail();
}

std::unique_ptr<KernelCounts> wanted_kernel_counts() {
  const char* const destination = std::getenv("SOFTGPU_KERNELS");
  if (destination == nullptr || *destination == '\0') return nullptr;
  return std::make_unique<KernelCounts>(destination);
}

}  // namespace softgpu
