// Turns vgpud's answer to {"request":"stats"} into Prometheus metrics. Pure; tolerant of missing keys, since
// vgpud may be of another version: a figure that is not there is not exposed, never guessed.
#pragma once

#include <prometheus/metric_family.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace vgpu::metrics {

// Every metric of an answer that came at `now` (Unix seconds).
[[nodiscard]] std::vector<prometheus::MetricFamily> metrics_of(const nlohmann::json& answer, double now);

// What is exposed while vgpud does not answer: vgpud_up 0.
[[nodiscard]] std::vector<prometheus::MetricFamily> metrics_of_silence();

// The text format, version 0.0.4.
[[nodiscard]] std::string to_text(const std::vector<prometheus::MetricFamily>& families);

}  // namespace vgpu::metrics
