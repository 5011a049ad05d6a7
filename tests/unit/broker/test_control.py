"""Replies of the control protocol as values; the protocol itself is in tests/integration/broker/test_daemon.py."""

from __future__ import annotations

import json
import os
import socket

import pytest

from outpass.broker import control, jails, packets
from outpass.errors import Fault, Place, PolicyError, StartError


def test_a_policys_faults_are_told_one_by_one() -> None:
    error = PolicyError((Fault(Place("a.yaml", 3, 5), "unknown key", "did you mean http?"), Fault(Place("b.yaml", 1), "empty")))
    reply = control.refusal_of(error)
    assert reply["error"] == "the policy has 2 faults" and reply["ok"] is False
    assert reply["faults"][0] == {
        "file": "a.yaml",
        "line": 3,
        "column": 5,
        "message": "unknown key",
        "hint": "did you mean http?",
    }


def test_a_reply_with_ten_thousand_faults_fits_into_a_packet() -> None:
    faults = tuple(Fault(Place("policy.yaml", n), "ü" * 100, "") for n in range(1, 10_001))
    reply = control._refusal(PolicyError(faults))
    assert len(json.dumps(reply)) <= packets.MAX_BYTES
    assert reply["error"] == "the policy has 10000 faults" and len(reply["faults"]) > 50


@pytest.mark.parametrize("what", ["nothing", "file", "deaf", "udp", "closed", "many"])
def test_only_listening_stream_sockets_are_doors(what: str) -> None:
    with socket.socket() as deaf, socket.socket(type=socket.SOCK_DGRAM) as udp, socket.create_server(("127.0.0.1", 0)) as good:
        fds = {
            "nothing": [],
            "file": [os.open("/dev/null", os.O_RDONLY)],
            "deaf": [os.dup(good.fileno()), os.dup(deaf.fileno())],
            "udp": [os.dup(udp.fileno())],
            "closed": [1 << 20],
            "many": [os.dup(good.fileno()) for _ in range(control.MAX_LISTENERS + 1)],
        }[what]
        with pytest.raises(StartError):
            jails.check_listeners(None, control._listeners(fds))
        packets.close_fds(fds)


def test_the_doors_are_ours_and_the_descriptors_that_came_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as good:
        [door] = control._listeners([os.dup(good.fileno())])
        assert door.getsockname() == good.getsockname()
        door.close()
    assert len(os.listdir("/proc/self/fd")) == before
