"""Where no jail can be made: nothing of CMD runs, and the message says what is missing and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.jailed import ROOT, Identity, Place, place


@pytest.fixture
def ours() -> Iterator[Place]:
    with place(Identity("ourselves", os.getuid())) as made:
        yield made


def driven(at: Place, wrapper: str, **more: object) -> tuple[int, str, bool]:
    """Runs the driver below a shell in namespaces of its own; returns code, outpass's words, and whether CMD ran."""
    command = at.spec(["touch", "ran"], **more)
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{wrapper}; exec "$@"', "sh", *command]
    spec = at.path / "spec.json"
    spec.write_text(spec.read_text().replace(f'"uid": {at.who.uid}', '"uid": 0'))
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    told = at.result(done.returncode, done.stdout, done.stderr)
    return told.code, told.error, (at.project / "ran").exists()


def test_a_jail_within_another_user_namespace_works(ours: Place) -> None:
    assert driven(ours, "true") == (0, "", True)


def test_exhausted_user_namespaces_are_named(ours: Place) -> None:
    code, said, ran = driven(ours, "echo 0 >/proc/sys/user/max_user_namespaces")
    assert (code, ran) == (125, False)
    assert said.startswith("the jail cannot be made: could not enter new namespaces") and "no space left on device" in said
    assert "user.max_user_namespaces" in said and "outpass doctor" in said


def test_a_read_only_proc_is_named(ours: Place) -> None:
    code, said, ran = driven(ours, "mount --bind /proc /proc && mount -o remount,ro,bind /proc")
    assert (code, ran) == (125, False)
    assert "could not map user ids" in said and "read-only file system" in said


@pytest.mark.skipif(os.getuid() != 0, reason="needs uid 0; the interpreter of the inner launcher must be readable in both")
@pytest.mark.parametrize(("allowed", "code"), [(False, 125), (True, 0)])
def test_outpass_in_outpass_needs_leave(ours: Place, allowed: bool, code: int) -> None:
    with place(ours.who) as inner:
        command = inner.spec(["touch", "ran"])
        done = ours.run(
            command,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
            request={"allow_userns": allowed},
        )
        assert done.code == code, done.err
        assert (inner.project / "ran").exists() is allowed
        said = inner.result(done.code, done.out, done.err).error
        assert allowed or "could not enter new namespaces: user, net" in said


def test_the_doctor_agrees_as_whoever_runs_the_suite() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "outpass", "doctor", "--json"], capture_output=True, text=True, cwd="/", timeout=60, check=False
    )
    assert done.returncode == 0 and '"possible": true' in done.stdout, done.stdout + done.stderr


def test_the_doctor_says_what_is_missing() -> None:
    shell = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", shell, "sh", sys.executable, "-m", "outpass", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    [line] = [x for x in done.stdout.splitlines() if x.startswith("user namespace")]
    assert "NO" in line and "no space left on device" in line
    assert "raise user.max_user_namespaces" in done.stdout and "no jail is possible here" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_dry_run_prints_every_step_and_starts_nothing(tmp_path) -> None:
    command = [sys.executable, "-m", "outpass", "run", "--deny-all", "--dry-run", "--private-tmp", "--", "touch", "ran"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("enter new namespaces: user, net, mount, ipc") and "filter system calls" in done.stdout
    assert lines[-1] == "close every descriptor but 0, 1, 2" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("sentence", "options", "says"),
    [
        ("no jail, but an option of the jail", ["--no-jail", "--private-tmp"], "--private-tmp is about the jail"),
        ("no jail and a dry run", ["--no-jail", "--dry-run"], "--dry-run is about the jail"),
        ("a port that a jail needs not", ["--port", "3128"], "--port is for --no-jail"),
        ("a socket that is not there", ["--dry-run", "--allow-unix", "/nowhere.sock"], "there is no such socket"),
        ("a descriptor that is standard", ["--keep-fd", "1"], "keep-fd"),
    ],
)
def test_options_that_make_no_sense(sentence: str, options: list[str], says: str) -> None:
    command = [sys.executable, "-m", "outpass", "run", "--deny-all", *options, "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60, check=False)
    assert done.returncode == 125 and says in done.stderr and "Traceback" not in done.stderr, sentence + done.stderr
