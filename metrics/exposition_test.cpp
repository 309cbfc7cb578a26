#include "metrics/exposition.hpp"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "metrics/http_server.hpp"

namespace vgpu::metrics {
namespace {

using nlohmann::json;

json answer() {
  return {{"broker", {{"version", "1.2"}, {"uptime_ns", 5'000'000'000}, {"clients_admitted", 3}}},
          {"devices", {{{"name", "gpu0"}, {"busy", 0.25}, {"kind", "software"}, {"problem", ""}}}},
          {"rejections", {{{"uid", 1000}, {"class", "batch"}, {"reason", "limit"}, {"count", 4}}}},
          {"clients",
           {{{"session", 7},
             {"pid", 42},
             {"uid", 1000},
             {"program", "a\"b\\c\nd"},
             {"class", "default"},
             {"device", "gpu0"},
             {"state", "running"},
             {"device_ns", 1'500'000'000},
             {"latency",
              {{"sum_ns", 9'000}, {"buckets", {{1024, 2}, {1280, 1}, {std::uint64_t{1} << 40U, 1}}}}}}}}};
}

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(Exposition, FiguresHaveTheirUnitsAndLabels) {
  const std::string text = to_text(metrics_of(answer(), 100));
  EXPECT_TRUE(has_line(text, "vgpud_up 1")) << text;
  EXPECT_TRUE(has_line(text, "vgpud_start_time_seconds 95")) << text;
  EXPECT_TRUE(has_line(text, "# TYPE vgpud_clients_admitted_total counter")) << text;
  EXPECT_TRUE(has_line(text, "vgpud_rejections_total{uid=\"1000\",class=\"batch\",reason=\"limit\"} 4"))
      << text;
  EXPECT_TRUE(has_line(text, "vgpud_device_busy_ratio{device=\"gpu0\"} 0.25")) << text;
  EXPECT_TRUE(has_line(
      text,
      "vgpud_client_gpu_seconds_total{session=\"7\",pid=\"42\",uid=\"1000\",program=\"a\\\"b\\\\c\\nd\","
      "class=\"default\",device=\"gpu0\"} 1.5"))
      << text;
}

TEST(Exposition, HistogramsAreCumulativeAndCountWhatIsBeyondTheLastBound) {
  const auto families = metrics_of(answer(), 100);
  const auto found = std::find_if(families.begin(), families.end(), [](const auto& family) {
    return family.name == "vgpud_client_call_latency_seconds";
  });
  ASSERT_NE(found, families.end());
  const auto& histogram = found->metric.at(0).histogram;
  EXPECT_EQ(histogram.sample_count, 4U);
  EXPECT_DOUBLE_EQ(histogram.sample_sum, 9e-6);
  EXPECT_EQ(histogram.bucket.front().cumulative_count, 2U);
  EXPECT_DOUBLE_EQ(histogram.bucket.front().upper_bound, 1024e-9);
  EXPECT_EQ(histogram.bucket.at(1).cumulative_count, 3U);
  EXPECT_EQ(histogram.bucket.back().cumulative_count, 3U);
}

TEST(Exposition, MissingFiguresAreNotExposed) {
  const std::string text = to_text(metrics_of(json::object(), 1));
  EXPECT_TRUE(has_line(text, "vgpud_clients 0")) << text;
  EXPECT_EQ(text.find("vgpud_client_"), std::string::npos) << text;
  EXPECT_TRUE(has_line(to_text(metrics_of_silence()), "vgpud_up 0"));
}

TEST(Exposition, NamesFollowTheConventions) {
  for (const auto& family : metrics_of(answer(), 1)) {
    const bool total =
        family.name.size() > 6 && family.name.compare(family.name.size() - 6, 6, "_total") == 0;
    EXPECT_EQ(total, family.type == prometheus::MetricType::Counter) << family.name;
    EXPECT_EQ(family.name.rfind("vgpud_", 0), 0U) << family.name;
    EXPECT_FALSE(family.help.empty()) << family.name;
  }
}

// Sends `request` to the port and returns all that comes back.
std::string talk(std::uint16_t port, const std::string& request) {
  const UniqueFd peer(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(peer.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return "no connection";
  if (send(peer.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "not sent";
  std::string all;
  std::array<char, 4096> buffer{};
  for (ssize_t size = 0; (size = recv(peer.get(), buffer.data(), buffer.size(), 0)) > 0;) {
    all.append(buffer.data(), static_cast<std::size_t>(size));
  }
  return all;
}

TEST(HttpServer, ServesThePageAndNothingElse) {
  auto listener = listen_at("127.0.0.1:0");
  ASSERT_TRUE(listener) << listener.error();
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ASSERT_EQ(getsockname(listener->get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::uint16_t port = ntohs(address.sin_port);
  const auto server = HttpServer::start(std::move(*listener), [] { return std::string("x 1\n"); });
  ASSERT_TRUE(server) << server.error();
  const auto ask = [&](const std::string& line) {
    return talk(port, line + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  };
  const std::string page = ask("GET /metrics");
  EXPECT_EQ(page.rfind("HTTP/1.1 200", 0), 0U) << page;
  EXPECT_NE(page.find("text/plain; version=0.0.4"), std::string::npos) << page;
  EXPECT_EQ(page.substr(page.size() - 4), "x 1\n");
  EXPECT_EQ(ask("GET /").rfind("HTTP/1.1 404", 0), 0U);
  EXPECT_EQ(ask("DELETE /metrics").rfind("HTTP/1.1 405", 0), 0U);
  // A peer that says nothing holds up nobody.
  const UniqueFd silent(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(connect(silent.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(ask("GET /metrics").rfind("HTTP/1.1 200", 0), 0U);
}

TEST(HttpServer, WrongAddressesAreSaid) {
  EXPECT_FALSE(listen_at("9745"));
  EXPECT_FALSE(listen_at("localhost:9745"));
  EXPECT_FALSE(listen_at("127.0.0.1:port"));
}

}  // namespace
}  // namespace vgpu::metrics
