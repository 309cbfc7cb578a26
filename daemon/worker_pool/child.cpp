#include "daemon/worker_pool/child.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace vgpu::daemon {

void leave_broker() {
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0,
        0);  // the unit's CAP_SYS_PTRACE is for the broker alone
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  setsid();  // a Ctrl-C at the broker's terminal is the broker's to handle
}

}  // namespace vgpu::daemon
