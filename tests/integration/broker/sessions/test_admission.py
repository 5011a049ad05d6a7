"""Which process gets a session: real processes, a real daemon, the real gate beside it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.broker.sessions.conftest import Jail, spawn_pass
from tests.support.daemon import HELLO, Puppet, RunningDaemon, claims, request
from tests.support.waiting import until


class TestAdmission:
    """Who may say hello, and as what."""

    def test_a_registered_process_gets_a_session_with_all_that_the_protocol_names(
        self, jail: Jail, puppet: Puppet, site: str
    ) -> None:
        reply = puppet.hello(paths=[site])
        named = {"v", "sid", "jail", "roots", "map", "transparent", "instruments", "origin", "proxy", "jailed", "forward"}
        assert set(reply) == named and reply["jailed"] is False and reply["forward"] == []
        assert reply["jail"] == jail.id and reply["roots"] == ["/srv/app"] and reply["origin"] == []
        assert reply["transparent"] == ["requests"] and reply["proxy"].startswith("127.0.0.1:")
        assert os.stat(reply["map"]).st_mode & 0o777 == 0o600

    def test_a_second_hello_of_the_same_program_is_the_same_session(self, puppet: Puppet) -> None:
        first = puppet.hello()
        second, _, third = puppet.do({"say": HELLO}, {"again": True}, {"say": HELLO})
        assert first["sid"] == second["sid"] == third["sid"]

    def test_a_stranger_is_not_registered(self, served: RunningDaemon) -> None:
        with Puppet(served.ready["mint"]) as stranger:
            assert stranger.hello()["error"] == "not_registered"
            assert stranger.mint("app")["error"] == "session_refused"

    def test_what_a_registered_process_starts_is_admitted(self, puppet: Puppet) -> None:
        [[reply]] = puppet.do({"child": [{"say": HELLO}]})
        assert "sid" in reply and reply["origin"] == []

    def test_below_a_session_a_spawn_pass_is_needed(self, puppet: Puppet) -> None:
        puppet.hello()
        [[reply]] = puppet.do({"child": [{"say": HELLO}]})
        assert reply["error"] == "spawn_pass_required"

    def test_a_spawned_process_ends_its_chains_with_its_spawners(self, puppet: Puppet, site: str) -> None:
        puppet.hello(paths=[site])
        token = spawn_pass(puppet, "evil", "app")
        hello = {**HELLO, "spawn": token, "paths": [site]}
        [[reply, minted]] = puppet.do({"child": [{"say": hello}, {"say": request("six", "app")}]})
        assert reply["origin"] == ["evil", "app"]
        assert claims(minted["pass"])["chain"] == ["six@1.16", "app", "evil@6.6.6", "app"]
        assert minted["deny"] == "no_capability"

    def test_a_package_cannot_shed_its_chain_through_the_application_of_a_child(self, puppet: Puppet, site: str) -> None:
        puppet.hello(paths=[site])
        hello = {**HELLO, "spawn": spawn_pass(puppet, "evil", "app"), "paths": [site]}
        [[_, minted]] = puppet.do({"child": [{"say": hello}, {"say": request("app")}]})
        assert minted["deny"] == "no_capability", "python -c is app in the child, and still evil's doing"

    @pytest.mark.parametrize(
        ("why", "spawn", "error"),
        [
            ("not a pass", "garbage", "pass_malformed"),
            ("a pass for one use, which is signed with another key", "REQUEST", "pass_forged"),
            ("a pass with another signature", "FORGED", "pass_forged"),
        ],
    )
    def test_a_spawn_pass_must_be_one(self, puppet: Puppet, why: str, spawn: str, error: str) -> None:
        puppet.hello()
        good = spawn_pass(puppet, "app")
        head, body, signature = good.split(".")
        forged = f"{head}.{body}.{('A' if signature[0] != 'A' else 'B') + signature[1:]}"
        text = {"REQUEST": puppet.mint("app")["pass"], "FORGED": forged}.get(spawn, spawn)
        [[reply]] = puppet.do({"child": [{"say": {**HELLO, "spawn": text}}]})
        assert reply["error"] == error, why

    def test_a_grandchild_cannot_use_the_spawn_pass_of_its_grandparent(self, puppet: Puppet) -> None:
        puppet.hello()
        token = spawn_pass(puppet, "app")
        hello = {**HELLO, "spawn": token}
        [[first, [second]]] = puppet.do({"child": [{"say": hello}, {"child": [{"say": hello}]}]})
        assert "sid" in first
        assert second["error"] == "spawn_pass_required"

    def test_an_orphan_with_a_spawn_pass_keeps_its_place(self, puppet: Puppet) -> None:
        puppet.hello()
        token = spawn_pass(puppet, "app")
        [[[reply]]] = puppet.do({"orphan": [{"child": [{"say": {**HELLO, "spawn": token}}]}]})
        assert reply["origin"] == ["app"]

    def test_an_orphan_without_one_has_none(self, puppet: Puppet) -> None:
        [[[reply]]] = puppet.do({"orphan": [{"child": [{"say": HELLO}]}]})
        assert reply["error"] == "not_registered"


class TestForkAndExec:
    """One pid is not one program."""

    def test_a_fork_gets_a_session_of_its_own(self, puppet: Puppet) -> None:
        own = puppet.hello()
        [[_, reply, minted]] = puppet.do(
            {"fork": [{"again": True}, {"say": {**HELLO, "fork_of": own["sid"]}}, {"say": request("app")}]}
        )
        assert reply["sid"] != own["sid"] and reply["map"] == own["map"]
        assert claims(minted["pass"])["sid"] == reply["sid"]

    def test_a_fork_cannot_speak_on_its_parents_connection(self, puppet: Puppet) -> None:
        puppet.hello()
        [[reply]] = puppet.do({"fork": [{"say": request("app")}]})
        assert reply["error"] == "session_refused"

    def test_and_that_connection_is_closed(self, puppet: Puppet) -> None:
        puppet.hello()
        puppet.do({"fork": [{"say": request("app")}]})
        assert puppet.mint("app") is None
        assert "pass" in puppet.mint("app"), "a new connection of the same process"

    def test_a_fork_without_its_parents_name_needs_a_spawn_pass(self, puppet: Puppet) -> None:
        puppet.hello()
        [[_, reply]] = puppet.do({"fork": [{"again": True}, {"say": HELLO}]})
        assert reply["error"] == "spawn_pass_required"

    def test_a_new_program_is_no_fork_whatever_it_says(self, puppet: Puppet) -> None:
        own = puppet.hello()
        [[reply]] = puppet.do({"child": [{"say": {**HELLO, "fork_of": own["sid"]}}]})
        assert reply["error"] == "session_refused"

    def test_a_daemons_double_fork_keeps_its_place(self, puppet: Puppet) -> None:
        own = puppet.hello()
        [[_, reply]] = puppet.do({"orphan": [{"again": True}, {"say": {**HELLO, "fork_of": own["sid"]}}]})
        assert "sid" in reply

    @pytest.mark.parametrize("sid", ["s-0000", "", "x" * 9000])
    def test_a_fork_of_nobody_is_refused(self, puppet: Puppet, sid: str) -> None:
        puppet.hello()
        [[_, reply]] = puppet.do({"fork": [{"again": True}, {"say": {**HELLO, "fork_of": sid}}]})
        assert reply["error"] in ("session_refused", "spawn_pass_required")

    def test_exec_without_a_spawn_pass_gets_no_session(self, puppet: Puppet) -> None:
        puppet.hello()
        puppet.do({"exec": True})
        assert puppet.mint("app")["error"] == "session_refused"
        assert puppet.hello()["error"] == "spawn_pass_required"

    def test_exec_with_the_spawn_pass_is_a_spawned_process_and_ends_the_old_session(self, puppet: Puppet) -> None:
        old = puppet.hello()
        token = spawn_pass(puppet, "app")
        puppet.do({"exec": True})
        new = puppet.hello(spawn=token)
        assert new["sid"] != old["sid"] and new["origin"] == ["app"]

    def test_other_threads_need_no_hello(self, puppet: Puppet) -> None:
        own = puppet.hello()
        [replies] = puppet.do({"threads": 8, "message": request("app")})
        assert [claims(r["pass"])["sid"] for r in replies] == [own["sid"]] * 8
        assert len({claims(r["pass"])["jti"] for r in replies}) == 8

    def test_many_hellos_at_once_are_one_session(self, puppet: Puppet) -> None:
        [replies] = puppet.do({"threads": 8, "message": HELLO})
        assert len({r["sid"] for r in replies}) == 1


class TestRegistration:
    """What a launcher may register."""

    def test_only_what_it_started(self, jail: Jail) -> None:
        assert jail.register(os.getppid())["ok"] is False

    @pytest.mark.parametrize("pid", [0, -1, "1", None, True, 2**22 + 5])
    def test_only_a_process(self, jail: Jail, pid: Any) -> None:
        assert jail.register(pid)["ok"] is False

    def test_two_jails_at_once_each_have_their_own_policy(self, served: RunningDaemon, jail: Jail, tmp_path: Path) -> None:
        other = tmp_path / "other.yaml"
        other.write_text("version: 1\npackages:\n  app: {allow: [network:http], http: ['https://other.example.com/']}\n")
        control = served.control()
        second = Jail(control, control.open(other))
        with Puppet(served.ready["mint"]) as one, Puppet(served.ready["mint"]) as two:
            jail.register(one.pid)
            second.register(two.pid)
            assert (one.hello()["jail"], two.hello()["jail"]) == (jail.id, second.id)
            assert "deny" not in one.mint("app") and two.mint("app")["deny"] == "no_rule"
            token = spawn_pass(one, "app")
            assert two.do({"child": [{"say": {**HELLO, "spawn": token}}]})[0][0]["error"] == "spawn_pass_required"
        control.close()

    def test_a_descriptor_that_is_no_listener_opens_nothing(self, served: RunningDaemon, policy: Path) -> None:
        control = served.control()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as deaf:
            assert control.open(policy, listener=deaf)["ok"] is False
        control.close()


class TestFloods:
    """What one process does to the socket is no matter for the others."""

    def connect(self, served: RunningDaemon) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(served.ready["mint"])  # blocking: with a timeout, a full backlog is an error instead of a wait
        sock.settimeout(30)
        return sock

    def test_idle_connections_without_a_session_make_room_for_others(self, served: RunningDaemon, puppet: Puppet) -> None:
        idle = [self.connect(served) for _ in range(700)]
        try:
            assert "sid" in puppet.hello()
            assert idle[0].recv(10) == b"", "the oldest went first"
            assert "pass" in puppet.mint("app")
        finally:
            for sock in idle:
                sock.close()

    def test_one_that_sends_and_never_reads_loses_its_connection_only(self, served: RunningDaemon, puppet: Puppet) -> None:
        puppet.hello()
        with self.connect(served) as deaf:
            deaf.setblocking(False)

            def sent_until_closed() -> bool:
                try:
                    for _ in range(1000):
                        deaf.send(b"{" * 100)
                except BlockingIOError:
                    return False
                except OSError:
                    return True
                return False

            until("the end of the deaf connection", sent_until_closed)
        assert "pass" in puppet.mint("app")

    def test_many_different_requests_do_not_make_the_cache_grow_for_ever(self, served: RunningDaemon, puppet: Puppet) -> None:
        puppet.hello()
        replies = puppet.do(*({"say": request("app", dst=f"h{n}.example.com:443")} for n in range(5_000)))
        assert {r["deny"] for r in replies} == {"no_rule"}
        assert "deny" not in puppet.mint("app")
