"""Claim: code in the jail has no other way out. Every way that was found in the research is tried, as root and as a user.

Judged from outside: an attacker's servers on TCP, UDP and Unix sockets, and a victim process of the same user with a secret, got
nothing. Rows that `remain` are documented expectations and must keep winning, or their documentation is out of date.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.claims.jail_attacks import PRELUDE, TABLE, Attack
from tests.support.jailed import ROOT, Attacker, Identity, Place, identities, place, python_for
from tests.support.waiting import until

VICTIM = """
import os, sys, time
f = open("secret", "w+"); f.write("secret " + sys.argv[2]); f.flush(); os.dup2(f.fileno(), 9); os.lseek(9, 0, 0)
open("/dev/shm/" + sys.argv[1], "w").write("secret " + sys.argv[2])
print("up", flush=True)
time.sleep(600)
"""


@dataclass
class Scene:
    """An attacker's servers, a victim, a jail to be made."""

    place: Place
    attacker: Attacker
    victim: subprocess.Popen[str]
    secret: str
    facts: dict[str, Any]
    folder: int
    """A descriptor of the attacker's directory."""

    def harmed(self, out: str) -> list[str]:
        """What the attack got, by each measure."""
        got = [*self.attacker.log, *(line for line in out.splitlines() if line.startswith("WON"))]
        got += ["the victim's secret"] if self.secret in out else []
        got += ["the victim's life"] if self.victim.poll() is not None else []
        alive, own = self.victim.poll() is None, os.getpriority(os.PRIO_PROCESS, 0)  # the victim inherited it
        got += ["the victim's priority"] if alive and os.getpriority(os.PRIO_PROCESS, self.victim.pid) != own else []
        return got


@pytest.fixture
def scene(who: Identity, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("OUTSIDE_MARK", "1")  # in the launcher's environment as in CMD's: only CMD's own is CMD's to read
    with place(who) as at:
        name, secret = f"opj-{uuid.uuid4().hex}", uuid.uuid4().hex
        session = at.path / "session"
        session.mkdir()
        attacker = Attacker(at.path)
        attacker.late(str(session / "s.sock"))
        os.link(attacker.stream, at.path / "hardlink.sock")
        suid = at.path / "suid-id"
        shutil.copy("/usr/bin/id", suid)
        suid.chmod(0o4755)
        at.give(session)
        command = [python_for(who.uid), "-I", "-c", VICTIM, name, secret]
        folder = os.open(at.path, os.O_RDONLY)
        victim = who.popen(command, stdout=subprocess.PIPE, cwd=at.path, env={"SECRET": secret, "PATH": "/usr/bin"})
        try:
            assert victim.stdout is not None and victim.stdout.readline() == "up\n"
            facts = {
                "tcp": attacker.tcp,
                "tcp6": attacker.tcp6,
                "everywhere": attacker.tcp_everywhere,
                "udp": attacker.udp,
                "address": attacker.address,
                "abstract": attacker.name,
                "stream": attacker.stream,
                "dgram": attacker.dgram,
                "hardlink": str(at.path / "hardlink.sock"),
                "session": str(session),
                "runtime": str(at.runtime),
                "victim": victim.pid,
                "suid": str(suid),
                "shm": name,
            }
            yield Scene(at, attacker, victim, secret, facts, folder)
        finally:
            os.close(folder)
            attacker.close()
            victim.kill()
            victim.wait()
            Path("/dev/shm", name).unlink(missing_ok=True)


def rows(keep: Any = lambda _: True) -> list[Any]:
    """One test for each attack and identity that it is for."""
    return [
        pytest.param(who.values[0], attack, id=f"{who.id}: {attack.sentence}", marks=who.marks)
        for attack in TABLE
        for who in identities()
        if who.id in attack.only and keep(attack)
    ]


@pytest.mark.parametrize("who,attack", rows())
def test_nothing_arrives_outside(who: Identity, attack: Attack, scene: Scene) -> None:
    if "suid" in attack.script and os.getuid() != 0:
        pytest.skip("only root can make a set-user-id program of root's to try")
    more: dict[str, Any] = {"request": {"session": [scene.facts["session"]]}, "env": {}}
    inherited: list[socket.socket] = []
    if attack.remark == "cwd=session":
        more["cwd"] = scene.facts["session"]
    if attack.remark == "inherit":
        inherited = [socket.create_connection(("127.0.0.1", scene.attacker.tcp))]
        more["pass_fds"] = [inherited[0].fileno(), scene.folder]
        until("the inherited connection was not made", lambda: bool(scene.attacker.log))
        scene.attacker.log.clear()
    done = scene.place.python(PRELUDE + attack.script, json.dumps(scene.facts), **more)
    for sock in inherited:
        sock.shutdown(socket.SHUT_RDWR)
    assert done.opened, f"there was no jail: {done.error}"
    assert "SyntaxError" not in done.err and "NameError" not in done.err, done.err
    got = [g for g in scene.harmed(done.out) if g != "tcp: b''"]
    if who.name in attack.remains:
        assert got, f"documented as remaining, but it did not win: {done.out}{done.err}"
    else:
        assert got == [], f"{done.out}{done.err}"


@pytest.mark.parametrize("who,attack", rows(lambda a: a.bare and a.remark != "inherit"))
def test_the_same_attack_wins_without_a_jail(who: Identity, attack: Attack, scene: Scene) -> None:
    """Or it would prove nothing."""
    if "suid" in attack.script and os.getuid() != 0:
        pytest.skip("only root can make a set-user-id program of root's to try")
    script = PRELUDE + ("os.chdir(F['session'])\n" if attack.remark == "cwd=session" else "") + attack.script
    done = scene.place.bare(script, json.dumps(scene.facts))

    def won() -> bool:
        return bool(scene.harmed(done.stdout))

    until(f"it did not win: {done.stdout}{done.stderr}", won)


NESTED = """
uid, gid = os.getuid(), os.getgid()
assert libc.unshare(0x10000000 | 0x20000) == 0, "--allow-userns was asked for"
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
def lift(): [libc.umount2(l.split()[4].encode(), 2) for l in reversed(list(open("/proc/self/mountinfo")))]
def around():
    os.mkdir("b")
    for flags in (4096, 4096 | 16384):
        if libc.mount(b"/", b"b", None, flags, None) == 0:
            each([lambda: unix("b" + F["stream"]), lambda: unix("b" + F["runtime"] + "/control.sock", 5), lambda: unix("b" + F["session"] + "/s.sock")])
each([lift, around, lambda: unix(F["stream"]), lambda: unix(F["session"] + "/s.sock"), lambda: unix(F["runtime"] + "/control.sock", 5)])
each([lambda: tcp("127.0.0.1", F["tcp"]), lambda: os.kill(V, 9), lambda: print(open(f"/proc/{V}/environ").read())])
print("tried")
"""


@pytest.mark.parametrize("who", identities())
def test_a_nested_user_namespace_that_was_allowed_lifts_no_mask(who: Identity, scene: Scene) -> None:
    done = scene.place.python(
        PRELUDE + NESTED, json.dumps(scene.facts), request={"session": [scene.facts["session"]], "allow_userns": True}
    )
    assert done.out.splitlines()[-1:] == ["tried"], done.err
    assert scene.harmed(done.out) == [] and done.daemon == [], done.out + done.err


WAITING = """
print("up", flush=True)
sys.stdin.readline()
try: unix(sys.argv[2])
except OSError as e: print("no:", e)
"""


@pytest.mark.parametrize("who", identities())
@pytest.mark.parametrize(
    ("sentence", "where", "remains"),
    [
        ("a socket that is made later in a directory of the session", "session/later.sock", False),
        ("a socket that is made later elsewhere: documented, the masks are a snapshot", "later.sock", True),
    ],
)
def test_sockets_that_are_made_later(who: Identity, scene: Scene, sentence: str, where: str, remains: bool) -> None:
    path = str(scene.place.path / where)
    arguments = [python_for(who.uid), "-I", "-c", PRELUDE + WAITING, json.dumps(scene.facts), path]
    command = scene.place.spec(arguments, request={"session": [scene.facts["session"]]})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        scene.attacker.late(path)
        process.communicate("go\n", timeout=20)
    assert bool(scene.attacker.log) is remains, sentence


@pytest.mark.parametrize("who", identities())
def test_files_written_for_later_are_found_outside_as_documented(who: Identity, scene: Scene) -> None:
    scene.place.python("open('.bashrc', 'w').write('loot')")
    assert (scene.place.project / ".bashrc").read_text() == "loot"


@pytest.mark.parametrize("who", identities())
def test_files_written_for_later_stay_in_the_project_with_read_only(who: Identity, scene: Scene) -> None:
    """The working directory's parent lies in /tmp here, so it is the private one; test_jail.py tries other places."""
    scene.place.python("open('../bashrc', 'w').write('loot')", request={"read_only": True})
    assert not (scene.place.path / "bashrc").exists()


@pytest.mark.parametrize("who", identities())
def test_a_lock_on_a_common_file_is_seen_outside_as_documented(who: Identity, scene: Scene) -> None:
    """The covert channel that is easiest to show: somebody outside who cooperates reads a bit from a lock, or from timing."""
    common = scene.place.path / "common"
    common.touch()
    scene.place.give(common)
    script = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('up', flush=True); sys.stdin.readline()"
    )
    command = scene.place.spec([python_for(who.uid), "-I", "-c", script, str(common)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        seen = subprocess.run(["flock", "-n", str(common), "true"], check=False).returncode
        process.communicate("go\n", timeout=20)
    assert seen == 1
