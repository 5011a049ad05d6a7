"""A real jail on this kernel: what CMD finds in it, what leads out of it, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.jailed import ROOT, Place, place, python_for
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("sentence", "command", "code"),
    [
        ("CMD's exit code is ours", ["sh", "-c", "exit 7"], 7),
        ("zero too", ["true"], 0),
        ("a killed CMD is 128 + the signal, as shells say", ["sh", "-c", "kill -KILL $$"], 137),
        ("a signal that CMD sends itself has its default effect", ["sh", "-c", "kill -TERM $$"], 143),
        ("not found is 127", ["no-such-program-here"], 127),
        ("not executable is 126", ["/etc/hostname"], 126),
        ("a directory is 126", ["/etc"], 126),
    ],
)
def test_exit_codes(jail: Place, sentence: str, command: list[str], code: int) -> None:
    assert jail.run(command).code == code, sentence


def test_every_listener_is_handed_over_and_leads_to_the_gate(jail: Place) -> None:
    script = """
import socket
def tcp(host, port):
    with socket.create_connection((host, port), 10) as s:
        s.sendall(b"hello"); print(s.recv(100).decode())
tcp("127.0.0.1", 3128)
tcp("198.18.0.9", 5432)
tcp("203.0.113.77", 443)
tcp("2001:db8::7", 443)
tcp("9.9.9.9", 53)
for family, to in ((socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "2001:4860::8844"), (socket.AF_INET, "127.0.0.53")):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(10); s.connect((to, 53)); s.send(b"query"); print(s.recv(100).decode())
"""
    done = jail.python(script)
    assert done.code == 0, done.err
    assert done.kinds == ["http", "transparent", "dns-udp4", "dns-udp6", "dns-tcp", "sockets"] and done.without == []
    assert done.out.splitlines() == [
        "gate http 127.0.0.1 3128",
        "gate transparent ::ffff:198.18.0.9 5432",
        "gate transparent ::ffff:203.0.113.77 443",
        "gate transparent 2001:db8::7 443",
        "gate transparent ::ffff:9.9.9.9 53",
        "gate dns-udp4",
        "gate dns-udp6",
        "gate dns-udp4",
    ]


def test_loopback_is_the_jails_own_on_every_port(jail: Place) -> None:
    script = """
import socket, threading
server = socket.create_server(("0.0.0.0", 5432))
threading.Thread(target=lambda: server.accept()[0].sendall(b"mine"), daemon=True).start()
print(socket.create_connection(("127.0.0.1", 5432), 10).recv(10).decode())
print(socket.create_connection(("198.18.0.9", 5432), 10).sendall(b"x"))
"""
    done = jail.python(script)
    assert done.out.split() == ["mine", "None"], done.err
    until_got = [e["to"] for e in done.gate]
    assert until_got in ([["::ffff:198.18.0.9", 5432]], [])


def test_udp_other_than_dns_is_refused_at_once(jail: Place) -> None:
    script = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("203.0.113.9", 443)); s.send(b"quic"); s.settimeout(10)
try: s.recv(10)
except ConnectionRefusedError: print("refused")
"""
    assert jail.python(script).out == "refused\n"


def test_a_forwarded_port_is_a_listener_of_the_gates(jail: Place) -> None:
    script = (
        "import socket; s = socket.create_connection(('127.0.0.1', 6379), 10); s.sendall(b'PING'); print(s.recv(100).decode())"
    )
    done = jail.python(script, request={"forward": [6379]})
    assert done.out == "gate forward:6379 127.0.0.1 6379\n", done.err


def test_cmd_holds_no_privilege_that_means_anything_outside(jail: Place) -> None:
    status = dict(line.split(":\t", 1) for line in jail.run(["cat", "/proc/self/status"]).out.splitlines())
    kept = "00000000800005fb" if jail.who.uid == 0 else "0" * 16
    assert {status[k] for k in ("CapPrm", "CapEff", "CapBnd")} == {kept}
    assert (status["CapInh"], status["CapAmb"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")


def test_ids_inside_are_ids_outside(jail: Place) -> None:
    assert jail.run(["sh", "-c", "id -u; id -g; touch made"]).out.split() == [str(jail.who.uid), str(jail.who.uid)]
    assert (jail.project / "made").stat().st_uid == jail.who.uid


def test_only_loopback_exists(jail: Place) -> None:
    names = [line.split(":")[0].strip() for line in jail.run(["cat", "/proc/net/dev"]).out.splitlines()[2:]]
    assert names == ["lo"]


def test_only_the_mint_socket_of_the_daemon_is_reachable(jail: Place) -> None:
    script = """
import os, socket, sys
d = sys.argv[1]
print(sorted(os.listdir(d)))
for name, kind in (("mint.sock", 5), ("control.sock", 5), ("admin.sock", 1)):
    s = socket.socket(socket.AF_UNIX, kind)
    try: s.connect(f"{d}/{name}"); print(s.recv(20).decode())
    except OSError as e: print(name, type(e).__name__)
"""
    done = jail.python(script, str(jail.runtime))
    assert done.out.splitlines() == [
        "['bundle.pem', 'ca.pem', 'maps', 'mint.sock']",
        "mint.sock",
        "control.sock FileNotFoundError",
        "admin.sock FileNotFoundError",
    ]
    assert done.daemon == ["mint.sock"]


def test_what_the_daemon_adds_to_its_maps_later_is_visible_and_cannot_be_changed(jail: Place) -> None:
    script = """
import os, sys, time
maps = sys.argv[1] + "/maps"
print("up", flush=True)
while not os.path.exists(maps + "/later.json"): time.sleep(0.02)
print(open(maps + "/later.json").read())
try: open(maps + "/later.json", "w")
except OSError as e: print(type(e).__name__, e.errno)
"""
    command = jail.spec([python_for(jail.who.uid), "-I", "-c", script, str(jail.runtime)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        (jail.runtime / "maps" / "later.new").write_text("{}")
        (jail.runtime / "maps" / "later.new").rename(jail.runtime / "maps" / "later.json")  # whole from its first moment
        assert process.stdout.read().splitlines() == ["{}", "OSError 30"]


def test_the_bundle_stands_where_programs_look_for_the_systems_trust(jail: Place) -> None:
    assert jail.run(["cat", "/etc/ssl/certs/ca-certificates.crt"]).out == "the bundle"


def test_a_directory_of_certificates_replaces_the_systems_whole(jail: Place) -> None:
    certs = jail.path / "certs"
    certs.mkdir()
    (certs / "ca-certificates.crt").write_text("prepared")
    jail.give(certs, certs / "ca-certificates.crt")
    assert jail.run(["cat", "/etc/ssl/certs/ca-certificates.crt"], door={"certs": str(certs)}).out == "prepared"


def test_a_policy_in_force_cannot_be_written_or_replaced(jail: Place) -> None:
    policy = jail.project / "outpass.yaml"
    policy.write_text("version: 1\n")
    jail.give(policy)
    script = """
import os
for act in (lambda: open("outpass.yaml", "a"), lambda: os.unlink("outpass.yaml"), lambda: os.rename("x", "outpass.yaml"),
            lambda: os.chmod("outpass.yaml", 0o777), lambda: os.rename("outpass.yaml", "y")):
    open("x", "w").close()
    try: act(); print("done")
    except OSError as e: print(e.errno)
"""
    done = jail.python(script, request={"policies": [str(policy)]})
    assert done.out.split() == ["30", "16", "16", "30", "16"], "read-only, and busy as a mount point"
    assert policy.read_text() == "version: 1\n"


def test_the_directory_around_a_policy_cannot_be_moved_away(jail: Place) -> None:
    policy = jail.project / "outpass.yaml"
    policy.write_text("version: 1\n")
    jail.give(policy)
    script = """
import os
for path in (os.getcwd(), os.path.dirname(os.getcwd())):
    try: os.rename(path, path + "-aside"); print("moved", path)
    except OSError as e: print(e.errno)
os.rename("x", "y") if os.path.exists("x") else open("x", "w").close()
os.rename("x", "y")
"""
    done = jail.python(script, request={"policies": [str(policy)]})
    assert done.out.split() == ["16", "16"] and done.code == 0, done.out + done.err
    assert (jail.project / "y").exists()


def test_nothing_in_sys_can_be_written(jail: Place) -> None:
    points = [line.split() for line in jail.run(["cat", "/proc/self/mountinfo"]).out.splitlines()]
    assert {p[5].split(",")[0] for p in points if p[4] == "/sys" or p[4].startswith("/sys/")} >= {"ro"}
    writable = "import os; print([d for d, _, _ in os.walk('/sys') if os.access(d, os.W_OK)])"
    assert jail.python(writable).out == "[]\n"


def test_without_a_pid_namespace_cmd_keeps_its_number_and_with_one_it_is_not_number_one(jail: Place) -> None:
    done = jail.run(["sh", "-c", "echo $$"])
    assert int(done.out) == (2 if jail.who.uid == 0 else done.registered[0])


def test_orphans_are_buried(jail: Place) -> None:
    script = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:
        os.fork() or time.sleep(0.05)
        os._exit(0)
for _ in range(3): os.wait()
time.sleep(0.4)
zombies = [p for p in os.listdir("/proc") if p.isdigit() and open(f"/proc/{p}/stat").read().split(") ")[1][0] == "Z"]
print(len(zombies))
"""
    if jail.who.uid != 0:
        pytest.skip("orphans of a user's jail go to the system's own init")
    assert jail.python(script).out == "0\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_sent_to_the_launcher_reaches_cmd(jail: Place, signum: signal.Signals) -> None:
    trap = f"trap 'exit 42' {signum.name[3:]}; echo up; while :; do sleep 0.05; done"
    with subprocess.Popen(jail.spec(["sh", "-c", trap]), stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(signum)
        assert process.wait(20) == 42


def test_interrupt_from_the_terminal_is_left_to_cmd(jail: Place) -> None:
    trap = "trap 'exit 42' INT; echo up; while :; do sleep 0.05; done"
    command = jail.spec(["sh", "-c", trap])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 42


def test_a_cmd_without_a_handler_dies_of_interrupt(jail: Place) -> None:
    command = jail.spec(["sh", "-c", "echo up; exec sleep 60"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130


def test_the_terminal_is_cmds(jail: Place) -> None:
    ours, theirs = os.openpty()
    command = jail.spec(["sh", "-c", "test -t 0 && test -t 1 && : </dev/tty && stty size && echo fine"])
    with subprocess.Popen(["setsid", "-c", "-w", *command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT) as process:
        os.close(theirs)
        said = b""
        try:
            while data := os.read(ours, 4096):
                said += data
        except OSError:  # EIO: the other end is closed
            pass
        assert process.wait(20) == 0, said
    os.close(ours)
    assert said.split() == [b"0", b"0", b"fine"]


def test_the_launchers_death_takes_the_network_away_and_with_a_pid_namespace_cmd_too(jail: Place) -> None:
    script = """
import socket, sys, time
print("up", flush=True)
while True:
    try: socket.create_connection(("127.0.0.1", 3128), 5).close()
    except OSError: break
    time.sleep(0.02)
open("cut-off", "w").close()
"""
    command = jail.spec([python_for(jail.who.uid), "-I", "-c", script])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.kill()
        process.wait()
        if jail.who.uid == 0:
            assert process.stdout.read() == "", "CMD held the pipe; it is gone"
        else:
            until("the gate's listener was still there", (jail.project / "cut-off").exists)


def test_a_cmd_that_daemonises_leaves_nothing_that_reaches_the_gate(jail: Place) -> None:
    script = """
import os, socket, time
if os.fork(): os._exit(0)
os.setsid()
time.sleep(0.2)
try: socket.create_connection(("127.0.0.1", 3128), 5).sendall(b"still here")
except OSError: open("refused", "w").close()
"""
    done = jail.python(script, stdout=subprocess.DEVNULL)
    assert done.code == 0
    if jail.who.uid != 0:
        until("the listener outlived the run", (jail.project / "refused").exists)
    assert not any("still here" in e["data"] for e in done.gate)


def test_everyday_programs_work(jail: Place) -> None:
    script = """
import asyncio, concurrent.futures, multiprocessing, os, socket, subprocess, tempfile, threading
def square(n): return n * n
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool: print(pool.map(square, [1, 2, 3]))
    with concurrent.futures.ThreadPoolExecutor(2) as pool: print(list(pool.map(square, [4, 5])))
    async def ping():
        server = await asyncio.start_server(lambda r, w: w.close(), "localhost", 0)
        r, w = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        return await r.read()
    print(asyncio.run(ping()))
    print(subprocess.run(["sh", "-c", "echo child"], capture_output=True).stdout)
    print(socket.if_nameindex(), socket.getaddrinfo("127.0.0.1", 80)[0][4])
    with tempfile.TemporaryFile() as f: f.write(b"x")
    import pty; print(pty.openpty() is not None, os.cpu_count() > 0)
"""
    done = jail.python(script)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "[1, 4, 9]",
        "[16, 25]",
        "b''",
        "b'child\\n'",
        "[(1, 'lo')] ('127.0.0.1', 80)",
        "True True",
    ]


def test_two_jails_at_once_do_not_meet(jail: Place) -> None:
    script = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", 7000)) if sys.argv[1] == "first" else None
print("up", flush=True)
sys.stdin.readline()
try: socket.create_connection(("127.0.0.1", 7000), 5); print("met")
except OSError as e: print("alone")
"""
    python = python_for(jail.who.uid)
    with place(jail.who) as other:
        runs = [
            subprocess.Popen(
                p.spec([python, "-I", "-c", script, name]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for p, name in ((jail, "first"), (other, "second"))
        ]
        for run in runs:
            assert run.stdout is not None and run.stdout.readline() == "up\n"
        second = runs[1].communicate("go\n", timeout=20)[0]
        first = runs[0].communicate("go\n", timeout=20)[0]
        assert (first, second) == ("met\n", "alone\n")


def test_a_jail_leaves_no_mount_outside(jail: Place) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    jail.run(["true"], request={"private_tmp": True, "read_only": True})
    assert Path("/proc/self/mountinfo").read_text() == before
