// Which questions are found behind a command that waits, and that each is answered once. Over a ring; without
// a session.
#include "daemon/worker/early_questions.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "protocol/testing.hpp"
#include "vgpu/records.hpp"

namespace vgpu::worker {
namespace {

struct EarlyQuestionsTest : testing::Test {
  void SetUp() override {
    channel = testing_support::new_channel();
    ASSERT_TRUE(channel);
    producer = std::make_unique<RingProducer>(*channel);
    ring = std::make_unique<RingConsumer>(*channel);
    early = std::make_unique<EarlyQuestions>(*ring);
    held.header.size = sizeof held;
  }

  template <class Record>
  void post(Record record, std::uint32_t reply = 0, std::uint16_t context = 0) {
    record.header.size = sizeof record;
    record.header.reply = reply;
    record.header.context = context;
    const auto slot = producer->reserve(sizeof record, [] { return true; });
    ASSERT_TRUE(slot);
    std::memcpy(slot.bytes, &record, sizeof record);
    producer->publish(slot, reply != 0);
  }
  void ask(std::uint64_t event, std::uint32_t reply, std::uint16_t context = 0) {
    record::cuEventSynchronize question;
    question.hEvent = event;
    post(question, reply, context);
  }
  void make_event(std::uint64_t event) {
    record::cuEventRecord recorded;
    recorded.hEvent = event;
    post(recorded);
  }
  /// The reply reference of the next question; 0: there is none.
  std::uint32_t next(std::uint16_t context = 0) {
    const auto bytes = early->next(std::as_bytes(std::span(&held, 1)), context);
    RecordHeader header;
    if (!bytes.empty()) std::memcpy(&header, bytes.data(), sizeof header);
    return header.reply;
  }
  /// Takes a record as the dispatcher does; true if it was answered early.
  bool take() {
    const std::uint64_t position = ring->position();
    std::size_t size = 0;
    EXPECT_EQ(ring->next(buffer, size), RingConsumer::Status::record);
    return early->answered(position);
  }

  std::unique_ptr<Channel> channel;
  std::unique_ptr<RingProducer> producer;
  std::unique_ptr<RingConsumer> ring;
  std::unique_ptr<EarlyQuestions> early;
  record::cuLaunchKernel held;
  std::vector<std::byte> buffer = std::vector<std::byte>(max_record_bytes);
};

TEST_F(EarlyQuestionsTest, AnEventThatNothingInBetweenRecordsIsAskedOfAtOnceAndOnce) {
  post(record::cuLaunchKernel{});
  make_event(7);
  ask(8, 0x100);
  EXPECT_EQ(next(), 0x100u);
  EXPECT_EQ(next(), 0u);
  EXPECT_TRUE(early->looking());
  EXPECT_FALSE(take());
  EXPECT_FALSE(take());
  EXPECT_TRUE(take());
  ask(8, 0x200);
  EXPECT_EQ(next(), 0x200u);
  EXPECT_TRUE(take());
}

TEST_F(EarlyQuestionsTest, AnEventThatIsStillToBeRecordedHasToWait) {
  make_event(7);
  ask(7, 0x100);
  EXPECT_EQ(next(), 0u);
  EXPECT_FALSE(take());  // recorded now
  ask(7, 0x200);
  EXPECT_EQ(next(), 0x200u);
  EXPECT_FALSE(take());  // the first question comes in its turn
  EXPECT_TRUE(take());
}

TEST_F(EarlyQuestionsTest, BothEventsOfATimeMustBeThere) {
  record::cuEventElapsedTime_v2 time;
  time.hStart = 7;
  time.hEnd = 8;
  post(time, 0x100);
  EXPECT_EQ(next(), 0x100u);
  make_event(8);
  post(time, 0x200);
  EXPECT_EQ(next(), 0u);
}

TEST_F(EarlyQuestionsTest, WhatMakesOrEndsEventsOrMayRecordSomeIsNotPassed) {
  record::cuLaunchKernel with_attributes;
  with_attributes.attribute_count = 1;
  const auto stops = [&](auto record) {
    post(record);
    ask(8, 0x100);
    const bool stopped = next() == 0 && !early->looking();
    take();
    const bool goes_on = next() == 0x100;
    take();
    return stopped && goes_on;
  };
  EXPECT_TRUE(stops(with_attributes));
  EXPECT_TRUE(stops(record::cuEventCreate{}));
  EXPECT_TRUE(stops(record::cuEventDestroy_v2{}));
  EXPECT_TRUE(stops(record::cuGraphLaunch{}));
  EXPECT_TRUE(stops(record::cuStreamBeginCapture_v2{}));
}

TEST_F(EarlyQuestionsTest, NothingIsAnsweredBehindACommandThatMayRecordEvents) {
  held.attribute_count = 1;
  ask(8, 0x100);
  EXPECT_EQ(next(), 0u);
  EXPECT_FALSE(early->looking());
}

TEST_F(EarlyQuestionsTest, AnotherContextsQuestionComesInItsTurn) {
  ask(8, 0x100, 1);
  ask(8, 0x200, 0);
  EXPECT_EQ(next(0), 0x200u);
  EXPECT_FALSE(take());
  EXPECT_TRUE(take());
}

TEST_F(EarlyQuestionsTest, AFullRingIsLookedThroughOnce) {
  constexpr std::uint64_t units = units_of(sizeof(record::cuLaunchKernel));
  constexpr unsigned launches = ring_units / units - 1;
  for (unsigned i = 0; i < launches; ++i) post(record::cuLaunchKernel{});
  ask(8, 0x100);
  std::uint32_t found = 0;
  for (unsigned looks = 0; looks < launches && found == 0; ++looks) found = next();
  EXPECT_EQ(found, 0x100u);
  for (unsigned i = 0; i < launches; ++i) EXPECT_FALSE(take());
  EXPECT_TRUE(take());
}

TEST_F(EarlyQuestionsTest, AnUnreadableRecordEndsTheLook) {
  ask(8, 0x100);
  const auto slot = producer->reserve(ring_unit, [] { return true; });
  const RecordHeader nonsense{1, 0, max_record_bytes + 1, 0, 0, 0};
  std::memcpy(slot.bytes, &nonsense, sizeof nonsense);
  producer->publish(slot);
  EXPECT_EQ(next(), 0x100u);
  EXPECT_EQ(next(), 0u);
  EXPECT_FALSE(early->looking());
}

TEST_F(EarlyQuestionsTest, OnlyAQuestionWakesWhoSleepsAtItsGate) {
  const std::atomic<std::uint32_t> word{5};
  std::atomic<int> woken{0};
  EXPECT_EQ(next(), 0u);
  std::thread consumer([&] {
    ring->sleep_at_gate(word, 5, early->seen(), 10'000'000'000);
    ++woken;
  });
  while (channel->control().consumer_sleeps.load() != consumer_at_gate) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  post(record::cuLaunchKernel{});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(woken, 0);
  ask(8, 0x100);
  consumer.join();
  EXPECT_EQ(next(), 0x100u);
}

}  // namespace
}  // namespace vgpu::worker
