#include "cli/top/model.hpp"

#include <gtest/gtest.h>

namespace vgpu::cli {
namespace {

using nlohmann::json;

json client(std::uint64_t session, int pid, const std::string& program, std::uint64_t device_ns,
            std::uint64_t memory) {
  return {{"session", session},
          {"pid", pid},
          {"uid", 0},
          {"program", program},
          {"class", "default"},
          {"device", "gpu0"},
          {"state", "running"},
          {"weight", 100},
          {"memory_used", memory},
          {"launches", device_ns / 1000},
          {"device_ns", device_ns}};
}

json answer(std::uint64_t first_ns, std::uint64_t second_ns) {
  return {{"clients", {client(1, 30, "one", first_ns, 10), client(2, 20, "two", second_ns, 900)}},
          {"devices", {{{"name", "gpu0"}, {"busy", 0.5}, {"memory", 1U << 30U}}}},
          {"broker", {{"version", "9.9"}}}};
}

std::string screen(const TopModel& model, std::size_t width = 200, std::size_t height = 30) {
  std::string all;
  for (const TopLine& line : model.lines(width, height)) all += line.text + "\n";
  return all;
}

void type(TopModel& model, const std::string& keys) {
  for (const char key : keys) EXPECT_FALSE(model.on_key(key));
}

TEST(TopModel, SharesAndRatesAreThoseSinceTheLastLook) {
  TopModel model;
  model.update(answer(1'000'000, 5'000'000), 10);
  model.update(answer(4'000'000, 6'000'000), 12);
  ASSERT_EQ(model.rows().size(), 2U);
  EXPECT_EQ(model.rows()[0].program, "one");
  EXPECT_DOUBLE_EQ(model.rows()[0].share, 0.75);
  EXPECT_DOUBLE_EQ(model.rows()[0].launch_rate, 1500);
  EXPECT_NE(screen(model).find("75%"), std::string::npos) << screen(model);
}

TEST(TopModel, SortsByKeyAndKeepsTheSelectedClient) {
  TopModel model;
  model.update(answer(0, 0), 1);
  model.update(answer(9, 1), 2);
  EXPECT_EQ(model.selected()->pid, 30);
  type(model, "P");
  EXPECT_EQ(model.rows()[0].pid, 20);
  EXPECT_EQ(model.selected()->pid, 30);
  type(model, "M");
  EXPECT_EQ(model.rows()[0].pid, 20);
  type(model, "R");
  EXPECT_EQ(model.rows()[0].pid, 30);
}

TEST(TopModel, KeysActOnTheSelectedClient) {
  TopModel model;
  model.update(answer(0, 0), 1);
  model.on_key(kTopDown);
  EXPECT_EQ(model.on_key('p'), (json{{"request", "pause"}, {"session", 2}}));
  model.on_key(kTopUp);
  EXPECT_EQ(model.on_key('r'), (json{{"request", "resume"}, {"session", 1}}));
  type(model, "w25");
  model.on_key(kTopErase);
  EXPECT_NE(screen(model).find("weight of one (30): 2_"), std::string::npos);
  EXPECT_EQ(
      model.on_key(kTopEnter),
      (json{{"request", "set"}, {"session", 1}, {"target", "client"}, {"settings", {{"weight", "2"}}}}));
  type(model, "cgold");
  EXPECT_EQ((*model.on_key(kTopEnter))["settings"], (json{{"class", "gold"}}));
}

TEST(TopModel, QuarantineAsksForHowLong) {
  TopModel model;
  model.update(answer(0, 0), 1);
  type(model, "z1h");
  EXPECT_NE(screen(model).find("quarantine one (30)"), std::string::npos) << screen(model);
  EXPECT_EQ(model.on_key(kTopEnter), (json{{"request", "quarantine"}, {"session", 1}, {"for", "1h"}}));
  type(model, "z");
  EXPECT_EQ(model.on_key(kTopEnter), (json{{"request", "quarantine"}, {"session", 1}}));
  type(model, "z10");
  EXPECT_FALSE(model.on_key(kTopEscape));
  EXPECT_FALSE(model.on_key(kTopEnter)) << "it was called off";
  EXPECT_EQ(model.on_key('u'), (json{{"request", "release"}, {"session", 1}}));
}

TEST(TopModel, KillingIsAskedForTwice) {
  TopModel model;
  model.update(answer(0, 0), 1);
  type(model, "kn");
  type(model, "k");
  EXPECT_NE(screen(model).find("kill one (30)? y to do it"), std::string::npos);
  EXPECT_EQ(model.on_key('y'), (json{{"request", "kill"}, {"session", 1}}));
}

TEST(TopModel, EscapeLeavesAPromptAndQEnds) {
  TopModel model;
  model.update(answer(0, 0), 1);
  type(model, "w3");
  model.on_key(kTopEscape);
  EXPECT_FALSE(model.on_key(kTopEnter));
  type(model, "?");
  EXPECT_NE(screen(model).find("reverse the order"), std::string::npos);
  type(model, "q");
  EXPECT_FALSE(model.finished());
  type(model, "q");
  EXPECT_TRUE(model.finished());
}

TEST(TopModel, ThePeriodIsChecked) {
  TopModel model;
  type(model, "d0.5");
  model.on_key(kTopEnter);
  EXPECT_DOUBLE_EQ(model.period(), 0.5);
  type(model, "d0");
  model.on_key(kTopEnter);
  EXPECT_DOUBLE_EQ(model.period(), 0.5);
  EXPECT_NE(screen(model).find("no time"), std::string::npos);
}

TEST(TopModel, SmallWindowsShowTheSelectedClientAndNothingTooMuch) {
  TopModel model;
  json many = answer(0, 0);
  for (int i = 0; i < 50; ++i)
    many["clients"].push_back(client(100U + static_cast<unsigned>(i), 1000 + i, "p", 0, 0));
  model.update(many, 1);
  type(model, "P");
  model.on_key(kTopEnd);
  const auto lines = model.lines(40, 10);
  ASSERT_LE(lines.size(), 10U);
  bool seen = false;
  for (const TopLine& line : lines) {
    EXPECT_LE(line.text.size(), 40U);
    seen = seen || (line.style == TopStyle::selected && line.text.find("1049") != std::string::npos);
  }
  EXPECT_TRUE(seen);
  EXPECT_LE(model.lines(1, 1).size(), 1U);
}

TEST(TopModel, NamesOfClientsCannotControlTheTerminal) {
  TopModel model;
  json hostile = answer(0, 0);
  hostile["clients"][0]["program"] = "\x1b[2Jx";
  model.update(hostile, 1);
  EXPECT_EQ(screen(model).find('\x1b'), std::string::npos);
}

TEST(TopModel, AnswersOfAnotherVersionAreNoError) {
  TopModel model;
  model.update(json{{"clients", {json::object()}}, {"devices", {json::object()}}}, 1);
  EXPECT_EQ(model.rows().size(), 1U);
  EXPECT_FALSE(screen(model).empty());
  model.lost("no vgpud answers");
  EXPECT_NE(screen(model).find("no vgpud answers"), std::string::npos);
}

}  // namespace
}  // namespace vgpu::cli
