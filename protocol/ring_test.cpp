#include "protocol/ring.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "protocol/message_socket.hpp"
#include "protocol/testing.hpp"

namespace vgpu {
namespace {

struct RingTest : testing::Test {
  void SetUp() override {
    client = testing_support::new_channel();
    ASSERT_TRUE(client);
    // One mapping for both sides: ThreadSanitizer knows memory by its address.
    worker = client;
    buffer.resize(max_record_bytes);
  }

  static bool always() { return true; }

  /// Writes a record of `size` bytes whose tail is a function of (call, size).
  static void put(RingProducer& producer, std::uint16_t call, std::size_t size, std::uint32_t reply = 0) {
    const auto slot = producer.reserve(size, always);
    ASSERT_TRUE(slot);
    RecordHeader header{call, 0, static_cast<std::uint32_t>(size), reply, 0, 0};
    std::memcpy(slot.bytes, &header, sizeof header);
    std::memset(slot.bytes + sizeof header, static_cast<int>(call + size), size - sizeof header);
    producer.publish(slot);
  }

  RecordHeader take(RingConsumer& consumer, std::size_t& size) {
    RecordHeader header;
    RingConsumer::Status status = RingConsumer::Status::empty;
    while ((status = consumer.next(buffer, size)) == RingConsumer::Status::empty) consumer.sleep(10'000'000);
    EXPECT_EQ(status, RingConsumer::Status::record);
    std::memcpy(&header, buffer.data(), sizeof header);
    return header;
  }

  bool tail_is_right(const RecordHeader& header, std::size_t size) const {
    for (std::size_t i = sizeof header; i < size; ++i) {
      if (buffer[i] != static_cast<std::byte>(header.call + size)) return false;
    }
    return true;
  }

  std::shared_ptr<Channel> client, worker;
  std::vector<std::byte> buffer;
};

TEST_F(RingTest, RecordArrivesAsWritten) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  std::size_t size = 0;
  EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
  put(producer, 7, 1000);
  ASSERT_EQ(consumer.next(buffer, size), RingConsumer::Status::record);
  EXPECT_EQ(size, 1000u);
  RecordHeader header;
  std::memcpy(&header, buffer.data(), sizeof header);
  EXPECT_EQ(header.call, 7);
  EXPECT_TRUE(tail_is_right(header, size));
  EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
}

TEST_F(RingTest, WrapsAroundManyTimesInOrder) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  std::mt19937 random(1);
  for (std::uint32_t i = 0; i < 3000; ++i) {
    const std::size_t bytes = 16 + random() % 9000;  // 13 MiB in all: several laps
    put(producer, static_cast<std::uint16_t>(i % 1000 + 1), bytes, i);
    std::size_t size = 0;
    const RecordHeader header = take(consumer, size);
    ASSERT_EQ(size, bytes);
    ASSERT_EQ(header.reply, i);
    ASSERT_TRUE(tail_is_right(header, size));
  }
}

TEST_F(RingTest, LargestRecordFitsAcrossTheEnd) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  std::size_t size = 0;
  for (int i = 0; i < 100; ++i) {
    put(producer, 3, i % 2 == 0 ? max_record_bytes : max_record_bytes - 100);
    const RecordHeader header = take(consumer, size);
    ASSERT_TRUE(tail_is_right(header, size));
  }
}

TEST_F(RingTest, EveryProducersRecordsKeepTheirOrder) {
  constexpr std::uint32_t threads = 4;
  constexpr std::uint32_t each = 4000;
  RingConsumer consumer(*worker);
  std::vector<std::thread> producers;
  for (std::uint32_t t = 0; t < threads; ++t) {
    producers.emplace_back([this, t] {
      RingProducer producer(*client);
      std::mt19937 random(t);
      for (std::uint32_t i = 0; i < each; ++i) {
        put(producer, static_cast<std::uint16_t>(t), 16 + random() % 500, i);
      }
    });
  }
  std::vector<std::uint32_t> next(threads, 0);
  for (std::uint32_t n = 0; n < threads * each; ++n) {
    std::size_t size = 0;
    const RecordHeader header = take(consumer, size);
    ASSERT_LT(header.call, threads);
    ASSERT_EQ(header.reply, next[header.call]++);
    ASSERT_TRUE(tail_is_right(header, size));
  }
  for (std::thread& thread : producers) thread.join();
}

TEST_F(RingTest, FullRingHoldsProducersBackUntilThereIsRoom) {
  std::atomic<std::uint32_t> written{0};
  constexpr std::uint32_t total = 200;  // 65536 bytes each: 32 fit
  std::thread thread([&] {
    RingProducer producer(*client);
    for (std::uint32_t i = 0; i < total; ++i) {
      put(producer, 1, max_record_bytes, i);
      written.fetch_add(1);
    }
  });
  while (written.load() < ring_bytes / max_record_bytes) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(written.load(), ring_bytes / max_record_bytes);
  RingConsumer consumer(*worker);
  for (std::uint32_t i = 0; i < total; ++i) {
    std::size_t size = 0;
    ASSERT_EQ(take(consumer, size).reply, i);
  }
  thread.join();
}

TEST_F(RingTest, SpaceIsToldInStepsAndAllOfItOnceNothingIsLeft) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  const auto& consumed = client->control().consumed_units;
  constexpr std::uint64_t records = 300;
  for (std::uint32_t i = 0; i < records; ++i) put(producer, 1, ring_unit, i);
  std::size_t size = 0;
  for (std::uint64_t taken = 1; taken <= records; ++taken) {
    ASSERT_EQ(consumer.next(buffer, size), RingConsumer::Status::record);
    ASSERT_LE(consumed.load(), taken);
    ASSERT_LT(taken - consumed.load(), 64u);
  }
  EXPECT_EQ(consumed.load(), records);
  put(producer, 1, ring_unit);
  take(consumer, size);
  EXPECT_EQ(consumed.load(), records + 1);
}

TEST_F(RingTest, ClosedChannelReleasesWaitingProducer) {
  std::atomic<bool> released{false};
  std::thread thread([&] {
    RingProducer producer(*client);
    for (;;) {
      const auto slot = producer.reserve(max_record_bytes, always);
      if (!slot) break;
      RecordHeader header{1, 0, max_record_bytes, 0, 0, 0};
      std::memcpy(slot.bytes, &header, sizeof header);
      producer.publish(slot);
    }
    released = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(released.load());
  close_channel(*worker);
  thread.join();
  EXPECT_TRUE(released.load());
}

TEST_F(RingTest, SleepingConsumerIsWokenByARecord) {
  RingConsumer consumer(*worker);
  std::thread thread([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    RingProducer producer(*client);
    put(producer, 9, 64);
  });
  const std::uint64_t before = now_ns();
  std::size_t size = 0;
  while (consumer.next(buffer, size) == RingConsumer::Status::empty) consumer.sleep(5'000'000'000);
  EXPECT_LT(now_ns() - before, 2'000'000'000u);
  thread.join();
}

TEST_F(RingTest, ReservedButUnpublishedRecordIsNotSeen) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  const auto first = producer.reserve(64, always);
  put(producer, 2, 64);  // a later record is complete; the order still holds
  std::size_t size = 0;
  EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
  RecordHeader header{1, 0, 64, 0, 0, 0};
  std::memcpy(first.bytes, &header, sizeof header);
  producer.publish(first);
  EXPECT_EQ(take(consumer, size).call, 1);
  EXPECT_EQ(take(consumer, size).call, 2);
}

TEST_F(RingTest, ProducerKilledMidRecordIsSeenAsGoneAndNotAsARecord) {
  auto sockets = message_socket_pair();
  ASSERT_TRUE(sockets);
  const pid_t child = fork();
  if (child == 0) {
    RingProducer producer(*client);
    put(producer, 5, 128);
    const auto slot = producer.reserve(4096, always);
    RecordHeader header{6, 0, 4096, 0, 0, 0};
    std::memcpy(slot.bytes, &header, sizeof header);  // written, not published
    raise(SIGKILL);
  }
  sockets->second.reset();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  RingConsumer consumer(*worker);
  std::size_t size = 0;
  EXPECT_EQ(take(consumer, size).call, 5);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
  EXPECT_TRUE(peer_hung_up(sockets->first.get()));
}

TEST_F(RingTest, StaleBytesNeverLookLikeARecord) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  std::size_t size = 0;
  // Fill the whole ring with valid headers at every unit, consume it, and look at the next lap's positions.
  for (std::size_t i = 0; i < ring_units; ++i) {
    put(producer, 1, 64);
    take(consumer, size);
  }
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
  // A payload full of publishable-looking headers is data.
  const auto slot = producer.reserve(4096, always);
  for (std::size_t at = 0; at < 4096; at += 64) {
    RecordHeader header{1, 0, 64, 0, 0, 0};
    if (at == 0) header.size = 4096;
    std::memcpy(slot.bytes + at, &header, sizeof header);
  }
  producer.publish(slot);
  take(consumer, size);
  EXPECT_EQ(size, 4096u);
  EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
}

TEST_F(RingTest, HostileSizesAreCorruptAndStayInBounds) {
  for (const std::uint32_t bad :
       {0u, 1u, 15u, static_cast<std::uint32_t>(max_record_bytes + 1), 0x80000000u, UINT32_MAX}) {
    SetUp();
    RingProducer producer(*client);
    RingConsumer consumer(*worker);
    const auto slot = producer.reserve(64, always);
    RecordHeader header{1, 0, bad, 0, 0, 0};
    std::memcpy(slot.bytes, &header, sizeof header);
    producer.publish(slot);
    std::size_t size = 0;
    EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::corrupt) << bad;
  }
}

TEST_F(RingTest, HostileCountersDoNotMoveTheConsumer) {
  RingProducer producer(*client);
  RingConsumer consumer(*worker);
  std::size_t size = 0;
  put(producer, 1, 64, 11);
  client->control().consumed_units.store(UINT64_MAX);
  client->control().reserved_units.store(0x123456789ABCDEF0);
  EXPECT_EQ(take(consumer, size).reply, 11u);
  EXPECT_EQ(consumer.next(buffer, size), RingConsumer::Status::empty);
  EXPECT_EQ(consumer.backlog_units(), 0u);
  // Random publish words and random data: any answer will do, in bounds and without a crash.
  std::mt19937_64 random(3);
  for (int round = 0; round < 2000; ++round) {
    for (int i = 0; i < 64; ++i) {
      client->publish_words()[random() % ring_units].store(static_cast<std::uint32_t>(random() % 3));
      const std::uint64_t value = random();
      std::memcpy(client->ring_data() + random() % (ring_bytes - 8), &value, 8);
    }
    if (consumer.next(buffer, size) == RingConsumer::Status::corrupt) break;
  }
}

}  // namespace
}  // namespace vgpu
