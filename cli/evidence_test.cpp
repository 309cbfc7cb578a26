#include "cli/evidence.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/format.hpp"
#include "cli/loaded_libraries.hpp"
#include "cli/stats_view.hpp"

namespace vgpu::cli {
namespace {

Evidence good() {
  Evidence evidence;
  evidence.expected_library = "/usr/lib/vgpud/libcuda.so.1";
  evidence.cuda_libraries = {"/usr/lib/vgpud/libcuda.so.1"};
  evidence.add_client({{"device", "gpu0"},
                       {"allocations", 3},
                       {"modules", 1},
                       {"launches", 2},
                       {"kernel_ns", 5000},
                       {"bytes_to_device", 4096},
                       {"ending", "the process ended"}});
  return evidence;
}

std::string last_line(const Verdict& verdict) {
  const std::string text = verdict.report.substr(0, verdict.report.size() - 1);
  return text.substr(text.rfind('\n') + 1);
}

TEST(Verify, ProgramWhoseKernelsRanIsVerified) {
  const Verdict verdict = judge(good());
  EXPECT_TRUE(verdict.verified) << verdict.report;
  EXPECT_EQ(last_line(verdict), "VERIFIED: the program's kernels ran on the device through vgpud.");
}

TEST(Verify, ProgramThatComputesOnTheCpuIsNot) {
  Evidence evidence = good();
  evidence.launches = 0;
  evidence.kernel_ns = 0;
  const Verdict verdict = judge(evidence);
  EXPECT_FALSE(verdict.verified);
  EXPECT_NE(last_line(verdict).find("NOT VERIFIED: no kernel was launched"), std::string::npos)
      << verdict.report;
}

TEST(Verify, LaunchesWithoutDeviceTimeAreNot) {
  Evidence evidence = good();
  evidence.kernel_ns = 0;
  EXPECT_NE(last_line(judge(evidence)).find("NOT VERIFIED: no kernel was executed"), std::string::npos);
}

TEST(Verify, ProgramThatNeverLoadedTheLibraryIsNot) {
  const Verdict verdict = judge(Evidence{});
  EXPECT_EQ(last_line(verdict),
            "NOT VERIFIED: the program never loaded libcuda.so.1, so it made no CUDA call.");
}

TEST(Verify, AnotherLibraryIsNamed) {
  Evidence evidence;
  evidence.expected_library = "/usr/lib/vgpud/libcuda.so.1";
  evidence.cuda_libraries = {"/usr/lib/x86_64-linux-gnu/libcuda.so.1"};
  EXPECT_NE(last_line(judge(evidence)).find("another libcuda.so.1 than vgpud's: /usr/lib/x86_64"),
            std::string::npos);
}

TEST(Verify, HiddenDevicesAreTheReason) {
  Evidence evidence;
  evidence.expected_library = "/a/libcuda.so.1";
  evidence.cuda_libraries = {"/a/libcuda.so.1"};
  evidence.devices_hidden = true;
  EXPECT_EQ(last_line(judge(evidence)),
            "NOT VERIFIED: CUDA_VISIBLE_DEVICES hides every device from the program.");
}

TEST(Verify, FailedProgramIsNotEvenIfItsKernelsRan) {
  Evidence evidence = good();
  evidence.ending.status = 3;
  EXPECT_EQ(last_line(judge(evidence)), "NOT VERIFIED: the program ended with exit status 3.");
  evidence.ending.status = 0;
  evidence.ending.signal = 9;
  EXPECT_NE(last_line(judge(evidence)).find("signal 9"), std::string::npos);
}

TEST(Verify, RefusalAndFaultsAreReasons) {
  Evidence refused;
  refused.expected_library = "/a/libcuda.so.1";
  refused.cuda_libraries = {"/a/libcuda.so.1"};
  refused.refused = 1;
  EXPECT_NE(last_line(judge(refused)).find("vgpud refused the program"), std::string::npos);
  refused.refused = 0;
  refused.add_refusal("too many\nclients");
  EXPECT_EQ(last_line(judge(refused)), "NOT VERIFIED: vgpud refused the program: too many?clients.");
  Evidence unknown = refused;
  unknown.refused = 0;
  unknown.refusal.clear();
  unknown.turned_away = 2;
  EXPECT_NE(last_line(judge(unknown)).find("perhaps the program's"), std::string::npos);
  unknown.forgotten = 1;
  EXPECT_NE(last_line(judge(unknown)).find("it cannot be told"), std::string::npos);
  Evidence fault = good();
  fault.sticky_error = 700;
  EXPECT_NE(last_line(judge(fault)).find("CUDA error 700"), std::string::npos);
  Evidence crash = good();
  crash.add_client({{"ending", "the process ended; its worker had ended with signal 11"}});
  EXPECT_FALSE(judge(crash).verified);
}

TEST(Verify, ChildrenCountTogether) {
  Evidence evidence = good();
  evidence.add_client({{"launches", 5}, {"graph_launches", 1}});
  EXPECT_EQ(evidence.launches, 8U);
  EXPECT_EQ(evidence.connections, 2U);
}

TEST(LoadedLibraries, OnlyInitialisedCudaLibrariesCount) {
  EXPECT_EQ(initialised_cuda_library("   12:\tcalling init: /a/b/libcuda.so.1"), "/a/b/libcuda.so.1");
  EXPECT_EQ(initialised_cuda_library("   12:\tcalling init: /a/b/libcudart.so.12"), "");
  EXPECT_EQ(initialised_cuda_library("   12:\t  trying file=/a/b/libcuda.so.1"), "");
}

TEST(LoadedLibraries, NotesOfARealProgramAreRead) {
  const LibraryNotes notes;
  const Ending ending = run_and_wait({"true"}, notes.environment());
  EXPECT_EQ(ending.shell_status(), 0);
  EXPECT_TRUE(notes.cuda_libraries().empty());
}

TEST(Launcher, EndingsAreReportedAsAShellDoes) {
  EXPECT_EQ(run_and_wait({"sh", "-c", "exit 7"}, {}).shell_status(), 7);
  EXPECT_EQ(run_and_wait({"sh", "-c", "kill -9 $$"}, {}).shell_status(), 137);
  const Ending missing = run_and_wait({"/nonexistent/program"}, {});
  EXPECT_EQ(missing.shell_status(), 127);
  EXPECT_EQ(missing.text(), "could not be started: /nonexistent/program: No such file or directory");
}

TEST(Launcher, EnvironmentReachesTheProgram) {
  EXPECT_EQ(
      run_and_wait(
          {"sh", "-c",
           "test \"$VGPUD_SOCKET\" = /x && case $LD_LIBRARY_PATH in /lib/here:/lib/too*) ;; *) false; esac"},
          client_environment({"/lib/here", "/lib/too"}, "/x"))
          .shell_status(),
      0);
}

TEST(Format, FiguresAreShort) {
  EXPECT_EQ(format_bytes(0), "0");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(3ULL << 29U), "1.50 GiB");
  EXPECT_EQ(format_time(850), "850 ns");
  EXPECT_EQ(format_time(12'300), "12.3 us");
  EXPECT_EQ(format_time(7'200'000'000), "7.20 s");
  EXPECT_EQ(format_count(99'999), "99999");
  EXPECT_EQ(format_count(1'234'567), "1.23 M");
}

TEST(Format, TableAlignsAndHidesControlCharacters) {
  EXPECT_EQ(format_table({"A", "N"}, {{"x\x1b[2J", "1"}, {"y", "100"}}, 1),
            "A        N\n"
            "x?[2J    1\n"
            "y      100\n");
}

TEST(StatsView, ToleratesAnswersOfAnotherVersion) {
  EXPECT_EQ(stats_table({}, false), "no clients (--ended shows those that have left)\n");
  const std::string grouped = stats_table(
      {{"clients",
        {{{"pid", 1}, {"vm", "b"}, {"guest_pid", 11}, {"program", "in_b"}, {"launches", 3}},
         {{"pid", 2}, {"vm", "a"}, {"guest_pid", 12}, {"program", "in_a"}},
         {{"pid", 3}, {"program", "here"}, {"link_records", 5}},
         {{"pid", 4}, {"vm", "b"}, {"guest_pid", 14}, {"program", "also_in_b"}, {"launches", 4}}}},
       {"vms", {{{"name", "a"}}, {{"name", "b"}, {"attached", true}}}}},
      false);
  std::size_t before = 0;
  for (const char* const text : {"here", "VM ", "12 ", "a:in_a", "VM ", "attached", " 7 ", "11 ", "b:in_b",
                                 "14 ", "b:also_in_b", "TO HOST", "here"}) {
    const std::size_t at = grouped.find(text, before);
    ASSERT_NE(at, std::string::npos) << text << " in\n" << grouped;
    before = at;
  }
  const std::string table = stats_table({{"clients", {{{"pid", 7}}}}}, false);
  EXPECT_NE(table.find("\n7 "), std::string::npos) << table;
  EXPECT_EQ(device_table({{"devices", nlohmann::json::array()}}), "no devices\n");
}

TEST(StatsView, DevicesShowWhatCudaVisibleDevicesCanName) {
  const std::string table =
      device_table({{"devices", {{{"name", "gpu3"}, {"pool", "b"}, {"pool_index", 1}, {"uuid", "GPU-12"}}}}});
  EXPECT_NE(table.find("gpu3  b     1      GPU-12"), std::string::npos) << table;
}

}  // namespace
}  // namespace vgpu::cli
