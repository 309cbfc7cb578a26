"""A vgpud that can be restarted in the middle of its clients' work: what systemd does for it (listening sockets, the
descriptor store) is done here, so that no systemd is needed."""

import array
import os
import signal
import socket
import subprocess
import sys
import threading

import harness

# sd_listen_fds(3): descriptors from 3 on, meant for this pid. Arguments: how many, they, and the command.
_START = """
import fcntl, os, sys
count = int(sys.argv[1])
copies = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 1000) for fd in sys.argv[2:2 + count]]
os.closerange(3, 1000)
for place, fd in enumerate(copies):
    os.dup2(fd, 3 + place, inheritable=True)
os.closerange(3 + count, 4096)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


class DescriptorStore:
    """What systemd keeps of a service between two lives of it (sd_pid_notify_with_fds(3))."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.stored = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            words, fds = self.receive()
            if words.get("STOP"):
                return
            name = words.get("FDNAME", "")
            with self.lock:
                if words.get("FDSTOREREMOVE") == "1":
                    self.drop(name)
                if words.get("FDSTORE") == "1" and len(fds) == 1:
                    self.drop(name)
                    self.stored[name] = fds.pop()
            for fd in fds:
                os.close(fd)

    def receive(self):
        numbers = array.array("i")
        text, parts, *_ = self.socket.recvmsg(4096, socket.CMSG_SPACE(8 * numbers.itemsize))
        for level, kind, data in parts:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers.frombytes(data[:len(data) - len(data) % numbers.itemsize])
        words = dict(line.partition("=")[::2] for line in text.decode(errors="replace").split("\n"))
        if words.get("BARRIER") == "1":  # sd_notify_barrier(3): closing the descriptor answers
            for fd in numbers:
                os.close(fd)
            return {}, []
        return words, list(numbers)

    def drop(self, name):
        if name in self.stored:
            os.close(self.stored.pop(name))

    def close(self):
        """Like a service that is stopped for good: what was stored goes, and with it the workers."""
        self.socket.sendto(b"STOP=1", str(self.path))
        self.thread.join()
        self.socket.close()
        for name in list(self.stored):
            self.drop(name)


class RestartableService(harness.Service):
    """A harness.Service whose clients go on over restart()."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.store = DescriptorStore(self.folder / "notify")
        self.sockets = []
        for path, kind in ((self.socket, socket.SOCK_SEQPACKET), (self.control, socket.SOCK_STREAM)):
            listening = socket.socket(socket.AF_UNIX, kind)
            listening.bind(str(path))
            listening.listen(64)
            self.sockets.append(listening)

    def launch(self):
        with self.store.lock:
            stored = {name: os.dup(fd) for name, fd in self.store.stored.items()}
        descriptors = [listening.fileno() for listening in self.sockets] + list(stored.values())
        names = ":".join(["vgpud.socket"] * len(self.sockets) + list(stored))
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.store.path), "LISTEN_FDS": str(len(descriptors)),
                       "LISTEN_FDNAMES": names}
        command = [str(harness.BUILD / "bin" / "vgpud"), "--config", str(self.config)]
        try:
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-c", _START, str(len(descriptors)), *map(str, descriptors), *command], env=environment,
                    pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        finally:
            for fd in stored.values():
                os.close(fd)

    def restart(self, with_signal=signal.SIGTERM):
        """Ends vgpud, orderly or not, and starts the next one; sessions go on."""
        self.end(with_signal)
        self.start()

    def stop(self):
        """Ends vgpud in order; its workers live on until the store is closed."""
        if self.process is not None:
            self.end(signal.SIGTERM)

    def end(self, with_signal):
        process, self.process = self.process, None
        process.send_signal(with_signal)
        status = process.wait(20)
        if status != (0 if with_signal == signal.SIGTERM else -with_signal):
            raise AssertionError(f"vgpud ended with {status}:\n{self.log_text()}")

    def _clean_up(self):
        self.store.close()
        for listening in self.sockets:
            listening.close()
        super()._clean_up()
