#!/usr/bin/python3 -IS
"""vpc-cni for hosts without a C compiler: vpc_cni.c again, which holds the reasons; read it first.

What differs is what Python costs. The interpreter's start is nearly all of the time, so this file
imports only modules that are loaded or compiled in anyway: `time` is there before the first line
runs (zipimport needs it), `fcntl` is imported on the one path that locks. It is compiled anew at
each start, so it stays short.
"""
# ruff: noqa: SIM105, SLF001  # contextlib would have to be loaded; posix._exit is the quick way out

import _socket
import posix
import sys
import time

MYPY = False  # True for the type checker alone: typing is dear to load
if MYPY:
    from typing import NoReturn

VERSION_DOCUMENT = (
    b'{"cniVersion":"1.1.0","supportedVersions":'
    b'["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
)
ANSWER_HEADER = 16
ENV_LIMIT, STDIN_LIMIT, STDOUT_LIMIT, STDERR_LIMIT = 64 << 10, 4 << 20, 4 << 20, 64 << 10
QUEUE_LIMIT, ID_LIMIT, RUN_LIMIT = 4096, 200, 98
PAUSE_SECONDS, LOCK_SECONDS, HEARTBEAT_SECONDS, LOOK_SECONDS = 0.05, 3.0, 60, 0.2
ENOENT, EAGAIN, ENOSPC, ECONNREFUSED = 2, 11, 28, 111  # the same on every Linux that has a VPC
# verb: its deadline; how long to wait for a daemon that was not reached yet (seconds); has a netns
VERBS = {
    b"ADD": (30.0, 10.0, True),
    b"DEL": (10.0, 0.75, True),
    b"CHECK": (5.0, 0.75, True),
    b"GC": (30.0, 0.75, False),
    b"STATUS": (0.06, 0.0, False),
}
ID_BYTES = b"_.-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
LONG_BYTES = 8 if sys.maxsize > 1 << 32 else 4


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; OSError when the reader has gone."""
    while data:
        data = data[posix.write(fd, data) :]


def finish(status: int, out: bytes) -> "NoReturn":
    """Print and end."""
    try:
        write_all(1, out)
    except OSError:
        status = 1
    posix._exit(status)


def find_version(stdin: bytes) -> bytes:
    """The first "cniVersion" in stdin, if digits and dots follow."""
    rest = stdin.partition(b'"cniVersion"')[2].lstrip()
    if rest[:1] == b":":
        rest = rest[1:].lstrip()
        text, quote, _ = rest[1:].partition(b'"')
        is_number = 0 < len(text) < 16 and not text.strip(b"0123456789.")
        if rest[:1] == b'"' and quote and is_number:
            return text
    return b"1.1.0"


def fail(code: int, msg: bytes, details: bytes, stdin: bytes = b"") -> "NoReturn":
    """Print one error document and end."""
    safe = bytes(c if 0x20 <= c <= 0x7E and c not in b'"\\' else 0x3F for c in details)
    finish(
        1,
        b'{"cniVersion": "%b", "code": %d, "msg": "%b", "details": "%b"}\n'
        % (find_version(stdin), code, msg, safe),
    )


def read_stdin() -> bytes:
    """All of stdin, one byte more than allowed at most."""
    blocks, length = [], 0
    try:
        while length <= STDIN_LIMIT:
            block = posix.read(0, STDIN_LIMIT + 1 - length)
            if not block:
                break
            blocks.append(block)
            length += len(block)
    except OSError as e:
        fail(5, b"cannot read the network configuration", b"stdin: errno %d" % (e.errno or 0))
    return b"".join(blocks)


def pack_env(environ: dict[bytes, bytes]) -> bytes:
    """The variables that go along, NUL-terminated."""
    trace = (b"TRACEPARENT", b"TRACESTATE", b"BAGGAGE")
    block = b"".join(
        b"%b=%b\0" % pair for pair in environ.items() if pair[0][:4] == b"CNI_" or pair[0] in trace
    )
    if len(block) > ENV_LIMIT:
        details = b"CNI variables have more than %d bytes" % ENV_LIMIT
        fail(4, b"the environment is too long", details)
    return block


class Call:
    """One verb from the request to the answer. Every path ends the process."""

    def __init__(self, command: bytes, started: float, environ: dict[bytes, bytes]) -> None:
        self.runtime = posix.getppid()
        seconds, away_seconds, wants_netns = VERBS[command]
        lower = environ.get(b"VPC_CNI_DEADLINE_MS", b"")
        if lower.isdigit() and 0 < int(lower) < seconds * 1000:
            seconds = int(lower) / 1000
        self.command = command
        self.environ = environ
        self.away_seconds = away_seconds
        self.away_until = started + away_seconds
        self.deadline = started + seconds
        self.run = environ.get(b"VPC_CNI_RUN_DIR") or b"/run/vpc-ipamd"
        if len(self.run) > RUN_LIMIT:
            fail(4, b"VPC_CNI_RUN_DIR is too long", self.run[:200])
        self.env = pack_env(environ)
        self.stdin = read_stdin()
        if len(self.stdin) > STDIN_LIMIT:
            details = b"more than %d bytes on stdin" % STDIN_LIMIT
            self.fail(6, b"the network configuration is too long", details)
        self.netns, self.netns_errno = -1, 0
        if wants_netns and environ.get(b"CNI_NETNS"):
            self.open_netns(environ[b"CNI_NETNS"])

    def fail(self, code: int, msg: bytes, details: bytes) -> "NoReturn":
        """Print one error document in the config's version and end."""
        fail(code, msg, details, self.stdin)

    def open_netns(self, path: bytes) -> None:
        """Open the namespace, or keep the reason why not."""
        try:
            self.netns = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
        except OSError as e:
            self.netns_errno = e.errno or 0

    def frame(self, *, has_netns: bool) -> bytes:
        """The request as it is now; see frames.py."""
        left_ms = max(1, int((self.deadline - time.monotonic()) * 1000))
        words = (left_ms, self.netns_errno, len(self.env), len(self.stdin))
        header = b"".join(word.to_bytes(4, "little") for word in words)
        return b"VCNI\1\0%c\0%b%b%b" % (has_netns, header, self.env, self.stdin)

    def give_up(self, error: int) -> "NoReturn":
        """The end without an answer: why no connection, or 0 where the deadline passed on one."""
        path = self.run + (b"/heartbeat" if self.command == b"STATUS" else b"/cni.sock")
        if self.command == b"STATUS":
            self.status_by_heartbeat(path)
        if error == 0:
            details = b"%b waited on %b; see vpc-cnid's log" % (self.command, path)
            self.fail(11, b"vpc-cnid did not answer in time", details)
        why = {ENOENT: b"absent", ECONNREFUSED: b"nobody listens"}.get(error, b"no connection")
        details = b"%b: %b (errno %d); check that vpc-cnid runs on this node" % (path, why, error)
        self.fail(11, b"vpc-cnid is not reachable", details)

    def status_by_heartbeat(self, path: bytes) -> "NoReturn":
        """Success while the daemon was seen within a minute."""
        try:
            is_fresh = int(time.time()) - int(posix.stat(path).st_mtime) <= HEARTBEAT_SECONDS
        except OSError:
            is_fresh = False
        if is_fresh:
            posix._exit(0)
        details = b"%b is absent or older than %d s" % (path, HEARTBEAT_SECONDS)
        self.fail(50, b"vpc-cnid is not running", details)

    def look_around(self, *, is_waiting: bool) -> None:
        """At every pause: whether it makes sense to go on."""
        if self.command == b"ADD" and posix.getppid() != self.runtime:
            posix._exit(1)
        if is_waiting and time.monotonic() >= self.deadline:
            self.give_up(0)

    def bound_waits(self, sock: _socket.socket) -> None:
        """Let the kernel end every wait of this socket when it is time to look around."""
        left = min(self.deadline - time.monotonic(), LOOK_SECONDS)
        left_us = max(1, int(left * 1000000))
        words = divmod(left_us, 1000000)
        timeval = b"".join(word.to_bytes(LONG_BYTES, sys.byteorder) for word in words)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeval)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, timeval)

    def connect(self) -> "tuple[_socket.socket | None, int]":
        """A connected socket, or the errno."""
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        while True:
            self.bound_waits(sock)
            try:
                sock.connect(self.run + b"/cni.sock")
            except OSError as e:
                if e.errno != EAGAIN:
                    sock.close()
                    return None, e.errno or 0
                self.look_around(is_waiting=True)
            else:
                return sock, 0

    def send_request(self, sock: _socket.socket) -> None:
        """Send it, the fd on its first byte; a broken connection shows when the answer is read."""
        left = self.frame(has_netns=self.netns >= 0)
        fds = []
        if self.netns >= 0:
            fd = self.netns.to_bytes(4, sys.byteorder)
            fds = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd)]
        while left:
            self.bound_waits(sock)
            try:
                left = left[sock.sendmsg([left], fds) :]
                fds = []
            except OSError as e:
                self.go_on_after(e)

    def receive(self, sock: _socket.socket, wanted: int) -> bytes:
        """So many bytes; fewer if the connection ended."""
        received = b""
        while len(received) < wanted:
            self.bound_waits(sock)
            try:
                block = sock.recv(wanted - len(received))
            except OSError as e:
                self.go_on_after(e)
                continue
            if not block:
                break
            received += block
        return received

    def go_on_after(self, error: OSError) -> None:
        """A wait that timed out goes on, anything else is the end of the connection."""
        if error.errno != EAGAIN:
            raise error
        self.look_around(is_waiting=True)

    def exchange(self, sock: _socket.socket) -> None:
        """One request and its answer; returns if the connection ended before that was whole."""
        for step in (self.send_request, self.read_answer):
            try:
                step(sock)
            except OSError:
                pass
        sock.close()

    def read_answer(self, sock: _socket.socket) -> None:
        """Read the answer, print it and end; returns if it was cut short."""
        header = self.receive(sock, ANSWER_HEADER)
        if len(header) < ANSWER_HEADER:
            return
        status = int.from_bytes(header[6:8], "little")
        out = int.from_bytes(header[8:12], "little")
        err = int.from_bytes(header[12:16], "little")
        if header[:6] != b"VCNA\1\0" or status > 255 or out > STDOUT_LIMIT or err > STDERR_LIMIT:
            theirs = int.from_bytes(header[4:6], "little")
            details = b"%b/cni.sock speaks %d, vpc-cni 1; install one version" % (self.run, theirs)
            self.fail(5 if theirs == 1 else 11, b"vpc-cnid answered in another protocol", details)
        body = self.receive(sock, out + err)
        if len(body) < out + err:
            return
        try:
            write_all(2, body[out:])
        except OSError:
            pass
        finish(status, body[:out])

    def fail_queue(self, what: bytes, error: int) -> "NoReturn":
        """A DEL that can neither be done nor be queued: the runtime has to come again."""
        details = b"%b/delete-queue: %b (errno %d)" % (self.run, what, error)
        self.fail(11, b"vpc-cnid is away and the DEL cannot be queued", details)

    def entry_name(self) -> bytes:
        """The entry's name, made of names that are safe in one."""
        cid = self.environ.get(b"CNI_CONTAINERID", b"")
        ifname = self.environ.get(b"CNI_IFNAME", b"")
        if not 0 < len(cid) <= ID_LIMIT or cid[0] in b"_.-" or cid.translate(None, ID_BYTES):
            self.fail(4, b"CNI_CONTAINERID cannot be used", cid[:250])
        is_clean = ifname.translate(None, b"/: \t\n\v\f\r") == ifname
        if not 0 < len(ifname) <= 15 or ifname in (b".", b"..") or not is_clean:
            self.fail(4, b"CNI_IFNAME cannot be used", ifname[:250])
        return b"%b,%b" % (cid, ifname)

    def open_queue(self) -> tuple[int, int]:
        """The queue's directory and its lock, taken shared."""
        from fcntl import LOCK_NB, LOCK_SH, flock  # posix has no flock; only this path pays for it

        path = self.run + b"/delete-queue"
        try:
            posix.mkdir(path, 0o700)
        except OSError:
            pass  # mostly there already: the daemon makes it
        try:
            home = posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY)
            lock = posix.open(b"lock", posix.O_RDWR | posix.O_CREAT, 0o600, dir_fd=home)
        except OSError as e:
            self.fail_queue(b"cannot open", e.errno or 0)
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                flock(lock, LOCK_SH | LOCK_NB)
            except OSError as e:
                if time.monotonic() >= until:
                    self.fail_queue(b"cannot lock", e.errno or 0)
                time.sleep(PAUSE_SECONDS)
            else:
                return home, lock

    def check_room(self, home: int, entry: bytes) -> None:
        """Entries have a comma and no leading dot; a key that is there is replaced."""
        try:
            names = posix.listdir(home)
        except OSError as e:
            self.fail_queue(b"cannot list", e.errno or 0)
        entries = sum("," in name and name[0] != "." for name in names)
        if entries >= QUEUE_LIMIT and entry.decode("utf-8", "surrogateescape") not in names:
            self.fail_queue(b"full", ENOSPC)

    def write_entry(self, home: int, entry: bytes) -> None:
        """Write it durably, or fail and leave nothing."""
        temp = b".%b.%d.%d" % (entry, posix.getpid(), int(time.monotonic() * 1000))
        try:
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL
            fd = posix.open(temp, flags, 0o600, dir_fd=home)
            write_all(fd, self.frame(has_netns=False))
            posix.fsync(fd)
            posix.rename(temp, entry, src_dir_fd=home, dst_dir_fd=home)
            posix.fsync(home)
        except OSError as e:
            try:
                posix.unlink(temp, dir_fd=home)
            except OSError:
                pass
            self.fail_queue(b"cannot write", e.errno or 0)

    def queue_delete(self) -> _socket.socket:
        """End with the DEL durably queued, or return a socket: a daemon has turned up."""
        entry = self.entry_name()
        home, lock = self.open_queue()
        sock, _ = self.connect()
        if sock is None:
            self.check_room(home, entry)
            self.write_entry(home, entry)
            posix._exit(0)
        posix.close(lock)
        return sock

    def talk(self) -> "NoReturn":
        """Knock, send, and send again after a restart, until one of the paths ends the process."""
        is_del = self.command == b"DEL"
        while True:
            sock, error = self.connect()
            if sock is None and time.monotonic() >= min(self.away_until, self.deadline):
                if not is_del:
                    self.give_up(error)
                sock = self.queue_delete()
            if sock is not None:
                self.exchange(sock)
                self.away_until = self.deadline
                if is_del:
                    self.away_until = time.monotonic() + self.away_seconds
            time.sleep(PAUSE_SECONDS)
            self.look_around(is_waiting=False)


def main() -> None:
    """Choose the verb; VERSION needs neither stdin nor a daemon."""
    started = time.monotonic()
    fd = 0
    while fd < 3:
        fd = posix.open("/dev/null", posix.O_RDWR)
    environ = posix.environ
    command = environ.get(b"CNI_COMMAND")
    if not command:
        write_all(2, b"vpc-cni: CNI plugin, started by a container runtime\n")
        posix._exit(0)
    if command == b"VERSION":
        finish(0, VERSION_DOCUMENT)
    if command not in VERBS:
        fail(4, b"CNI_COMMAND is unknown", command[:200])
    Call(command, started, environ).talk()


main()
