// The worker's questions to the broker, against a broker of the test's own.
#include "daemon/worker/ipc_link.hpp"

#include <gtest/gtest.h>

#include <span>
#include <thread>
#include <vector>

namespace vgpu::worker {
namespace {

class IpcLinkTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pair = message_socket_pair();
    ASSERT_TRUE(pair);
    worker_ = std::move(pair->first);
    broker_ = std::move(pair->second);
  }
  // Receives a request as the broker; fails the test when there is none.
  IpcRequest request() {
    const auto message = receive_message(broker_.get(), 2000);
    const auto* const said = message ? message->as<IpcRequest>() : nullptr;
    EXPECT_NE(said, nullptr);
    return said != nullptr ? *said : IpcRequest{};
  }
  void answer(const IpcRequest& to, IpcResult result, std::byte mark = {}) {
    IpcAnswer made;
    made.result = result;
    made.number = to.number;
    made.native[0] = mark;
    EXPECT_TRUE(send_message(broker_.get(), made));
  }
  void say_again() { EXPECT_TRUE(send_message(broker_.get(), IpcAgain{})); }

  UniqueFd worker_, broker_;
};

TEST_F(IpcLinkTest, OffersAgainAfterARestartWhatWasNotWithdrawn) {
  IpcLink link(worker_.get());
  std::thread broker([this] {
    for (int i = 0; i < 2; ++i) answer(request(), IpcResult::done);
  });
  IpcToken kept{};
  IpcToken dropped{};
  NativeHandle native{};
  native[5] = std::byte{9};
  EXPECT_EQ(link.offer(IpcKind::event, 0, native, UniqueFd(), kept), CUDA_SUCCESS);
  EXPECT_EQ(link.offer(IpcKind::event, 0, {}, UniqueFd(), dropped), CUDA_SUCCESS);
  broker.join();
  EXPECT_NE(kept, dropped);
  link.withdraw(dropped);
  const IpcRequest gone = request();
  EXPECT_EQ(gone.action, IpcAction::withdraw);
  EXPECT_EQ(gone.token, dropped);

  say_again();
  link.listen();
  const IpcRequest again = request();
  EXPECT_EQ(again.action, IpcAction::offer);
  EXPECT_EQ(again.token, kept);
  EXPECT_EQ(again.native, native);
  EXPECT_TRUE(receive_message(broker_.get(), 0)->none);
}

TEST_F(IpcLinkTest, ARestartInTheMiddleOfAQuestionIsNoAnswerToIt) {
  IpcLink link(worker_.get());
  std::thread broker([this] {
    const IpcRequest asked = request();
    say_again();
    IpcRequest earlier = asked;
    earlier.number = asked.number + 1000;  // an answer to nobody
    answer(earlier, IpcResult::done);
    answer(asked, IpcResult::done, std::byte{7});
  });
  NativeHandle native{};
  UniqueFd fd;
  EXPECT_EQ(link.resolve(IpcKind::memory, IpcToken{3}, native, fd), CUDA_SUCCESS);
  EXPECT_EQ(native[0], std::byte{7});
  broker.join();
}

TEST_F(IpcLinkTest, AsksAgainWhileTheBrokerDoesNotKnowAllYet) {
  IpcLink link(worker_.get());
  std::thread broker([this] {
    answer(request(), IpcResult::later);
    answer(request(), IpcResult::done);
  });
  NativeHandle native{};
  UniqueFd fd;
  EXPECT_EQ(link.resolve(IpcKind::memory, IpcToken{3}, native, fd), CUDA_SUCCESS);
  broker.join();
}

TEST_F(IpcLinkTest, SaysByItsErrorWhatIsWrong) {
  IpcLink link(worker_.get());
  std::thread broker([this] {
    answer(request(), IpcResult::unknown);
    answer(request(), IpcResult::other_device);
    answer(request(), IpcResult::full);
  });
  NativeHandle native{};
  UniqueFd fd;
  IpcToken token{};
  EXPECT_EQ(link.resolve(IpcKind::memory, IpcToken{3}, native, fd), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(link.resolve(IpcKind::memory, IpcToken{3}, native, fd), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
  EXPECT_EQ(link.offer(IpcKind::memory, 0, native, UniqueFd(), token), CUDA_ERROR_OUT_OF_MEMORY);
  broker.join();
}

TEST_F(IpcLinkTest, WithoutABrokerNothingIsShared) {
  IpcLink alone(-1);
  IpcToken token{};
  EXPECT_EQ(alone.offer(IpcKind::memory, 0, {}, UniqueFd(), token), CUDA_ERROR_NOT_SUPPORTED);
  alone.withdraw(token);
  IpcLink link(worker_.get());
  broker_.reset();
  EXPECT_EQ(link.offer(IpcKind::memory, 0, {}, UniqueFd(), token), CUDA_ERROR_SYSTEM_NOT_READY);
}

}  // namespace
}  // namespace vgpu::worker
