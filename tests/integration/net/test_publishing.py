"""A published port's leash, held by a real daemon: it ends when the rule that allowed the port expires."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from tests.support.daemon import RunningDaemon
from tests.support.enclosed import enclosure
from tests.support.waiting import until

GRANTED = "version: 1\npackages:\n  uvicorn: {allow: [network:listen], listen: [{at: '8000', expires: '%s'}]}\n"


def at(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + seconds))


def test_a_rule_that_expires_ends_the_leash_and_is_recorded_once(outpassd: RunningDaemon, where: Path) -> None:
    file = where / "listening.yaml"
    file.write_text(GRANTED % at(3600))
    ours, leash = socket.socketpair()
    with ours, enclosure(outpassd, file, where) as jail:
        assert jail.control.ask({"op": "jail.publish", "ports": [["127.0.0.1", 8000]]}, [leash.fileno()])["ok"]
        leash.close()
        file.write_text(GRANTED % at(2))
        assert jail.control.ask({"op": "reload"})["ok"]
        ours.settimeout(30)
        assert ours.recv(1) == b"", "the relay outside hears of it"
        (ended,) = jail.records(capability="network:listen", verdict="deny")
        assert (ended["reason"], ended["principal"], ended["tier"]) == ("expired", "uvicorn", "enforced")
        until("the daemon says it", lambda: "no longer listen on 8000" in outpassd.said())
