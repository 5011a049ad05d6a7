"""Children: by fork, subprocess, multiprocessing and exec, each with a session of its own that its parent vouches for.

Lives here: what a child's hello says. May not live here: whether the broker believes it.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.shim.rig import World
from tests.support.waiting import until

FETCH = "from urllib.request import urlopen; urlopen('http://x.example.com/').read()"
CHILD = f"import os; assert 'OUTPASS_SPAWN' not in os.environ; {FETCH}"
WAYS = {
    "subprocess": f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)",
    "subprocess with an environment": f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True, env=dict(os.environ))",
    "subprocess by posix_spawn": f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True, close_fds=False)",
    "asyncio's subprocess": f"import asyncio, sys\nasync def m():\n    p = await asyncio.create_subprocess_exec(sys.executable, '-c', {CHILD!r}); assert await p.wait() == 0\nasyncio.run(m())",
    "os.posix_spawn": f"import os, sys; os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', {CHILD!r}], os.environ), 0)",
    "os.spawnv": f"import os, sys; assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, '-c', {CHILD!r}]) == 0",
    "os.system": f"import os, shlex, sys; assert os.system(shlex.join([sys.executable, '-c', {CHILD!r}])) == 0",
    "os.execv": f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {CHILD!r}])",
    "os.execvpe": f"import os, sys; os.execvpe(sys.executable, [sys.executable, '-c', {CHILD!r}], os.environ)",
}


@pytest.mark.parametrize("first", [False, True], ids=["before any request", "after a request"])
@pytest.mark.parametrize("way", WAYS)
def test_a_python_child_presents_the_spawn_pass_that_was_minted_for_its_starter(world: World, way: str, first: bool) -> None:
    world.package("build", "def run(f):\n    return f()\n")
    body = "\n".join("    " + line for line in WAYS[way].split("\n"))
    world.run((FETCH + "\n" if first else "") + f"import build\ndef go():\n{body}\nbuild.run(go)")
    spawns = [(i, m) for i, m in enumerate(world.broker.got) if m.get("use") == "spawn"]
    assert all(m["dst"] == "*:0" and m["cap"] == "network:http" for _, m in spawns)
    hello = world.broker.of("hello")[-1]
    # The rig's passes are numbered over all mints: the child presents the last spawn pass.
    number = [m for m in world.broker.got if m["op"] == "mint"].index(spawns[-1][1]) + 1
    assert hello["spawn"] == f"pass-{number}"
    assert hello["fork_of"] is None or way == "os.spawnv"
    assert world.broker.chains()[-1] == ["app"]
    assert len(world.broker.of("hello")) == (3 if way == "os.spawnv" else 2)


SYSTEM = """
import os, signal, sys, threading
same = lambda: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGQUIT), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
before = same()
assert os.WEXITSTATUS(os.system("exit 7")) == 7 and os.WTERMSIG(os.system(b"kill -9 $$")) == 9
assert os.system("kill -INT $PPID; kill -QUIT $PPID") == 0  # a system() in progress ignores both
assert same() == before
signals = "grep -E 'SigIgn|SigBlk|SigCgt' /proc/self/status > signals"
ours = os.system(signals), open("signals").read()
os.environ.pop("OUTPASS_MINT")
assert ours == (os.system(signals), open("signals").read())
os.environ["OUTPASS_MINT"] = sys.argv[1]
seen = []
thread = threading.Thread(target=lambda: seen.append(os.system("exit 3"))); thread.start(); thread.join()
assert os.WEXITSTATUS(seen[0]) == 3
def reap(*_):
    try: os.waitpid(-1, os.WNOHANG)
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, reap)
assert os.system("exit 4") == 4 << 8  # not taken by the handler
def raising(*_): raise TimeoutError
signal.signal(signal.SIGUSR1, raising)
try: os.system("kill -USR1 $PPID; echo done > finished")
except TimeoutError: assert open("finished").read() == "done\\n"
else: raise AssertionError("the handler's exception is lost")
assert "OUTPASS_SPAWN" not in os.environ
"""


def test_os_system_does_to_signals_and_statuses_what_it_does_without_the_shim(world: World) -> None:
    world.run(SYSTEM.replace("sys.argv[1]", repr(world.broker.path)))
    assert len(world.broker.of("hello")) == 1


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing(world: World, method: str) -> None:
    source = f"""
    import multiprocessing, alpha
    if __name__ == "__main__":
        c = multiprocessing.get_context({method!r})
        p = c.Process(target=alpha.get); p.start(); p.join()
        assert p.exitcode == 0
    """
    world.package("alpha", f"def get():\n    {FETCH}\n")
    world.run(source)
    hellos = {m["_pid"]: m for m in world.broker.of("hello")}
    asker = world.broker.of("mint")[-1]["_pid"]
    hello = hellos[asker]
    if method == "spawn":
        assert str(hello["spawn"]).startswith("pass-")
        assert hello["fork_of"] is None
    else:
        assert hello["spawn"] is None
        assert hello["fork_of"] == "s-1" if method == "fork" else str(hello["fork_of"]).startswith("s-")
    assert world.broker.chains()[-1][0] == "alpha"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_main_module_of_a_multiprocessing_child_is_the_application_there_too(world: World, method: str) -> None:
    source = f"""
    import multiprocessing
    def work():
        {FETCH}
    if __name__ == "__main__":
        p = multiprocessing.get_context({method!r}).Process(target=work); p.start(); p.join()
        assert p.exitcode == 0
    """
    world.run(source)
    assert world.broker.chains() == [["app"]]


def test_a_child_of_fork_has_its_own_connection_and_names_its_parent_even_if_that_had_no_session_yet(world: World) -> None:
    world.run(
        f"""
        import os
        pid = os.fork()
        if pid == 0:
            {FETCH}
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        {FETCH}
        """
    )
    parent, child = world.broker.of("hello")
    assert (parent["fork_of"], child["fork_of"]) == (None, "s-1")
    assert parent["_pid"] != child["_pid"]
    assert world.broker.chains() == [["app"], ["app"]]


def test_threads_of_a_forking_program_keep_their_sessions(world: World) -> None:
    world.run(
        f"""
        import os, threading
        {FETCH}  # the first one alone: OpenSSL and import locks do not survive a fork, shim or not
        def work():
            for _ in range(5): {FETCH}
        t = threading.Thread(target=work); t.start()
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                {FETCH}
                os._exit(0)
            pids.append(pid)
        assert all(os.waitpid(p, 0)[1] == 0 for p in pids)
        t.join()
        """
    )
    assert len(world.broker.chains()) == 9
    assert not any("error" in h for h in world.proxy.heads)
    assert all("proxy-authorization" in h for h in world.proxy.heads)


@pytest.mark.parametrize("env", ["{}", "{'A': 'b'}"], ids=["empty", "without outpass"])
def test_a_child_that_inherits_nothing_gets_no_pass_and_none_is_minted(world: World, env: str) -> None:
    world.run(f"import subprocess; subprocess.run(['/bin/sh', '-c', 'test -z \"$OUTPASS_SPAWN\"'], env={env}, check=True)")
    # but the broker knows the parent: a program below a process without a session would be charged alone
    assert [m["op"] for m in world.broker.got] == ["hello"]


def test_a_program_that_is_no_python_finds_the_pass_too_and_the_parent_s_environment_is_unchanged(world: World) -> None:
    world.run(
        """
        import os, subprocess
        before = dict(os.environ)
        assert subprocess.run(["/bin/sh", "-c", "echo $OUTPASS_SPAWN"], stdout=subprocess.PIPE).stdout == b"pass-1\\n"
        assert dict(os.environ) == before
        """
    )


def test_a_grandchild_presents_its_parent_s_pass_not_its_grandparent_s(world: World) -> None:
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    world.run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)")
    assert [m["spawn"] for m in world.broker.of("hello")] == [None, "pass-1", "pass-2"]


def test_a_child_says_hello_at_once_because_its_parent_may_be_gone_later(world: World) -> None:
    world.run("import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)")
    until("the hello of a child that did not wait for an answer", lambda: len(world.broker.of("hello")) == 2)
    assert [m["spawn"] for m in world.broker.of("hello")] == [None, "pass-1"]


def test_a_program_that_never_uses_the_network_says_nothing(world: World) -> None:
    assert world.run("import json, os; print(1)").stderr == ""
    assert world.broker.got == []
    assert os.path.basename(sys.executable)


@pytest.mark.parametrize(
    "way", ["subprocess.run(c, env=e)", "os.execve(c[0], c, e)", "os.waitpid(os.posix_spawn(c[0], c, e), 0)"]
)
def test_a_child_of_another_outpass_run_gets_no_pass_of_ours(world: World, way: str) -> None:
    """`outpass run` within `outpass run`: the inner broker would take ours for a forgery and give no session."""
    told = world.run(
        f"""
        import os, subprocess
        e = {{**os.environ, "OUTPASS_MINT": "/another/mint.sock"}}
        c = ["/bin/sh", "-c", "echo pass: $OUTPASS_SPAWN"]
        {way}
        """
    )
    assert told.stdout.split() == ["pass:"]
    assert [m["op"] for m in world.broker.got] == ["hello"]  # no mint
