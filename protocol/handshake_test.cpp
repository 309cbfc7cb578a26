#include "protocol/handshake.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "protocol/message_socket.hpp"

namespace vgpu {
namespace {

TEST(Handshake, OwnHelloIsAccepted) {
  Hello hello;
  hello.protocol_hash = protocol_hash();
  EXPECT_EQ(hello_problem(hello), "");
}

TEST(Handshake, OtherProtocolIsRefusedInWordsThatHelp) {
  Hello hello;
  hello.protocol_hash = protocol_hash() + 1;
  const std::string problem = hello_problem(hello);
  EXPECT_NE(problem.find("install both from one build"), std::string::npos) << problem;
  hello.protocol_hash = protocol_hash();
  hello.version = 99;
  EXPECT_NE(hello_problem(hello).find("99"), std::string::npos);
  hello.magic = 0;
  EXPECT_NE(hello_problem(hello).find("not a vgpud client"), std::string::npos);
}

TEST(Handshake, ClientsOfOtherVersionsAreKnownByTheirFirstWords) {
  // The hello of version 1 was these words and the hash.
  struct {
    FirstWords words;
    std::uint64_t hash;
  } old{{MessageType::hello, 1, hello_magic}, 7};
  const auto problem = [&](std::size_t bytes) {
    return first_words_problem(std::as_bytes(std::span(&old, 1)).first(bytes));
  };
  EXPECT_NE(problem(sizeof old).find("version 1"), std::string::npos);
  EXPECT_EQ(problem(sizeof(FirstWords) - 1), "");
  EXPECT_EQ(problem(0), "");
  old.words.type = MessageType::status_query;
  EXPECT_NE(problem(sizeof(FirstWords)).find("install both"), std::string::npos);
  old.words.type = MessageType::attach;
  EXPECT_EQ(problem(sizeof old), "");
  old.words = {MessageType::hello, 1, 0};
  EXPECT_EQ(problem(sizeof old), "");
  old.words = {MessageType::hello, handshake_version, hello_magic};
  EXPECT_EQ(problem(sizeof old), "") << "this build's words in a message of another size";
}

TEST(Handshake, RefusalTravelsWithItsText) {
  auto ends = message_socket_pair();
  ASSERT_TRUE(ends);
  Refused refused;
  refused.code = RefusalCode::protocol;
  set_text(refused.text, std::string(1000, 'x'));
  ASSERT_TRUE(send_message(ends->first.get(), refused));
  const auto message = receive_message(ends->second.get(), 1000);
  ASSERT_TRUE(message);
  const auto* const got = message->as<Refused>();
  ASSERT_NE(got, nullptr);
  EXPECT_EQ(got->code, RefusalCode::protocol);
  EXPECT_EQ(std::strlen(got->text), sizeof got->text - 1);
  EXPECT_EQ(message->as<Hello>(), nullptr);
}

TEST(Messages, DescriptorsTravel) {
  auto ends = message_socket_pair();
  const UniqueFd memory(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(write(memory.get(), "abc", 3), 3);
  const int fds[] = {memory.get(), memory.get()};
  ASSERT_TRUE(send_message(ends->first.get(), Attach{}, fds));
  const auto message = receive_message(ends->second.get(), 1000);
  ASSERT_TRUE(message);
  ASSERT_NE(message->as<Attach>(), nullptr);
  ASSERT_EQ(message->fds.size(), 2u);
  char text[3] = {};
  EXPECT_EQ(pread(message->fds[1].get(), text, 3, 0), 3);
  EXPECT_EQ(std::memcmp(text, "abc", 3), 0);
}

TEST(Messages, NothingThereAndPeerGoneAreTold) {
  auto ends = message_socket_pair();
  auto message = receive_message(ends->second.get(), 0);
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->none);
  EXPECT_FALSE(peer_hung_up(ends->second.get()));
  ends->first.reset();
  EXPECT_TRUE(peer_hung_up(ends->second.get()));
  message = receive_message(ends->second.get(), 1000);
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->closed);
  EXPECT_FALSE(send_message(ends->second.get(), Hello{}));
}

TEST(Messages, ConnectingToNothingFailsAtOnce) {
  EXPECT_FALSE(connect_message_socket("/nonexistent/vgpud.sock", 100));
  EXPECT_FALSE(connect_message_socket(std::string(200, 'x'), 100));
}

}  // namespace
}  // namespace vgpu
