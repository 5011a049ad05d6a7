"""The doctor's probes: steps tried in a process of their own."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from outpass.jail import advice, host, probe, steps


def test_a_step_that_works_says_nothing() -> None:
    assert probe.attempt([steps.CloseOthers(())]) == ("", "")


def test_a_step_that_fails_is_named_with_the_kernels_answer() -> None:
    said, hint = probe.attempt([steps.Workdir("/no/such/place")])
    assert said == "could not enter /no/such/place: no such file or directory"
    assert hint.startswith("the working directory is hidden in the jail")


def test_a_missing_door_counts() -> None:
    said, _ = probe.attempt([steps.Listen("http", "tcp", "192.0.2.1", 3128)])
    assert said == "not possible: http"


def test_trying_leaves_this_process_as_it_was() -> None:
    before = Path("/proc/self/status").read_text().split("voluntary")[0], os.getcwd(), Path("/proc/self/mountinfo").read_text()
    probe.examine(host.look(os.environ))
    after = Path("/proc/self/status").read_text().split("voluntary")[0], os.getcwd(), Path("/proc/self/mountinfo").read_text()
    lines = [[x for x in t.splitlines() if x.startswith(("Cap", "NoNew", "Seccomp", "Uid"))] for t in (before[0], after[0])]
    assert lines[0] == lines[1] and before[1:] == after[1:]


def test_every_finding_has_a_name_and_a_failing_one_says_why() -> None:
    found = probe.examine(host.look(os.environ))
    assert len({f.name for f in found}) == len(found) > 8
    assert all(f.works or f.said for f in found)


@pytest.mark.parametrize(
    ("step", "number", "says"),
    [
        ("Unshare", errno.ENOSPC, "user.max_user_namespaces"),
        ("Unshare", errno.EPERM, "unprivileged_userns_clone"),
        ("MapIds", errno.EACCES, "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("LoopbackUp", errno.EPERM, "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("FreshProc", errno.EPERM, "masked"),
        ("Veil", errno.EIO, "outpass doctor"),
    ],
)
def test_advice_names_what_to_change(step: str, number: int, says: str) -> None:
    assert says in advice.on(step, number) and advice.DOCTOR in advice.on(step, number)


def test_every_switch_that_advice_names_is_one_that_the_doctor_shows() -> None:
    """Advice that names what does not exist is worse than none."""
    shown = {name.removeprefix("/proc/sys/").replace("/", ".") for name in probe.settings()}
    named = {word for text in advice._BY_STEP.values() for word in re.findall(r"(?:user|kernel)\.\w+", text)}
    assert named and named <= shown
    assert not any("profile that outpass ships" in text for text in advice._BY_STEP.values())
