"""Which process gets a session and what its passes say: real processes, a real daemon, the real gate beside it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import HELLO, Control, Puppet, RunningDaemon, claims, daemon, request, until

POLICY = """\
version: 1
transparent: [requests]
packages:
  app: {allow: [network:http, network:listen], http: ["https://api.example.com/**"], listen: ["8000"]}
  six: {allow: [network:http], http: ["https://api.example.com/**"]}
  old: {allow: [network:http], http: ["https://api.example.com/**"], versions: ">=2"}
  tunnel:
    allow: [network:http, network:socket]
    http: [{url: "https://db.example.com/", intercept: false}, "https://both.example.com/**"]
    socket: ["sql.example.com:5432", "both.example.com:443"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> str:
    site = tmp_path / "site-packages"
    for name, version in (("six", "1.16"), ("old", "1.0"), ("tunnel", "3"), ("evil", "6.6.6")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text(f"{name}.py,,\n")
        (site / f"{name}.py").write_text("")
    return str(site)


class Jail:
    """An open jail and what opened it."""

    def __init__(self, control: Control, opened: dict[str, Any]) -> None:
        self.control = control
        self.opened = opened
        self.id = opened["jail"]

    def register(self, pid: int) -> dict[str, Any]:
        return self.control.ask({"op": "jail.proc", "pid": pid})


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "outpass.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def jail(served: RunningDaemon, policy: Path) -> Iterator[Jail]:
    control = served.control()
    opened = control.open(policy)
    assert opened["ok"], opened
    yield Jail(control, opened)
    control.close()


@pytest.fixture
def puppet(served: RunningDaemon, jail: Jail) -> Iterator[Puppet]:
    with Puppet(served.ready["mint"]) as puppet:
        assert jail.register(puppet.pid) == {"ok": True}
        yield puppet


def spawn_pass(puppet: Puppet, *chain: str) -> str:
    return puppet.mint(*chain, use="spawn", dst="*:0", tls=False)["pass"]


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


class TestMint:
    """What passes say."""

    @pytest.mark.parametrize(
        ("chain", "shown", "sub", "deny"),
        [
            (["app"], ["app"], "pkg:generic/app", None),
            (["six", "app"], ["six@1.16", "app"], "pkg:pypi/six@1.16", None),
            (["old", "app"], ["old@1.0", "app"], "pkg:pypi/old@1.0", "version_out_of_range"),
            (["evil", "app"], ["evil@6.6.6", "app"], "pkg:pypi/evil@6.6.6", "no_capability"),
            (["stripe", "app"], ["!stripe", "app"], "pkg:generic/unproven", "unproven"),
            (["!six", "app"], ["!six", "app"], "pkg:generic/unproven", "unproven"),
            (["?"], ["?"], "pkg:generic/unknown", "unproven"),
            ([], ["?"], "pkg:generic/unknown", "unproven"),
        ],
    )
    def test_chains_are_completed(
        self, puppet: Puppet, site: str, chain: list[str], shown: list[str], sub: str, deny: str | None
    ) -> None:
        puppet.hello(paths=[site])
        reply = puppet.mint(*chain)
        said = claims(reply["pass"])
        assert (said["chain"], said["sub"], said.get("deny"), reply.get("deny")) == (shown, sub, deny, deny)

    def test_every_pass_is_another(self, puppet: Puppet) -> None:
        puppet.hello()
        first, second = (claims(puppet.mint("app")["pass"]) for _ in range(2))
        assert int(second["jti"]) > int(first["jti"])
        assert 0 < first["exp"] - first["iat"] <= 30

    def test_a_rule_that_does_not_intercept_makes_the_tunnel_opaque(self, puppet: Puppet, site: str) -> None:
        puppet.hello(paths=[site])
        reply = puppet.mint("tunnel", "app", dst="db.example.com:443", use="connect")
        assert reply["tunnel"] == claims(reply["pass"])["tun"] == "opaque"

    @pytest.mark.parametrize("use", ["connect", "channel"])
    def test_a_tunnel_that_only_a_socket_rule_allows_is_opaque(self, puppet: Puppet, site: str, use: str) -> None:
        puppet.hello(paths=[site])
        reply = puppet.mint("tunnel", "app", dst="sql.example.com:5432", use=use)
        said = claims(reply["pass"])
        assert (reply["tunnel"], said["tun"], said["cap"], said.get("deny")) == ("opaque", "opaque", "network:socket", None)
        both = claims(puppet.mint("tunnel", "app", dst="both.example.com:443", use=use)["pass"])
        assert (both["tun"], both["cap"]) == ("http", "network:http"), "http wins where both fit"
        none = claims(puppet.mint("tunnel", "app", dst="sql.example.com:80", use=use)["pass"])
        assert (none["tun"], none["cap"], none["deny"]) == ("http", "network:http", "no_rule")
        request = claims(puppet.mint("tunnel", "app", dst="sql.example.com:5432")["pass"])
        assert (request["cap"], request["deny"]) == ("network:http", "no_rule"), "a request is never raw"

    def test_a_channel_for_a_socket_is_opaque(self, puppet: Puppet, site: str) -> None:
        puppet.hello(paths=[site])
        said = claims(puppet.mint("tunnel", "app", dst="both.example.com:443", use="channel", cap="network:socket")["pass"])
        assert (said["tun"], said["cap"]) == ("opaque", "network:socket")

    def test_a_chain_that_is_too_long_ends_in_nobody(self, puppet: Puppet) -> None:
        puppet.hello()
        reply = puppet.mint(*["app"] * 70)
        assert len(claims(reply["pass"])["chain"]) == 64 and claims(reply["pass"])["chain"][-1] == "?"
        assert reply["deny"] == "unproven"

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"op": "nonsense"}, "protocol_unknown"),
            ({"use": "forever"}, "protocol_unknown"),
            ({"cap": "network:dns"}, "protocol_unknown"),
            ({"cap": "network:socket"}, "protocol_unknown"),
            ({"dst": "no-port"}, "bad_target"),
            ({"dst": "user@host:443"}, "bad_target"),
            ({"dst": 5}, "bad_target"),
            ({"dst": "h:443" * 100}, "bad_target"),
            ({"tls": "yes"}, "bad_request"),
            ({"chain": "app"}, "bad_request"),
            ({"chain": ["*"]}, "bad_request"),
            ({"chain": ["unattributed"]}, "bad_request"),
            ({"chain": ["exe:git"]}, "bad_request"),
            ({"chain": ["Not_Normal"]}, "bad_request"),
            ({"chain": ["a\nb"]}, "bad_request"),
            ({"chain": ['a","b']}, "bad_request"),
            ({"chain": [["a"]]}, "bad_request"),
        ],
    )
    def test_a_message_of_another_shape_is_refused_and_the_next_is_answered(
        self, puppet: Puppet, change: dict[str, Any], error: str
    ) -> None:
        puppet.hello()
        assert puppet.mint("app", **change)["error"] == error
        assert "pass" in puppet.mint("app")

    @pytest.mark.parametrize("raw", ["{", "[]", "null", "\xff", '{"op":"mint"', "[" * 60_000])
    def test_what_is_not_json_is_refused_and_the_next_is_answered(self, puppet: Puppet, raw: str) -> None:
        puppet.hello()
        assert puppet.do({"raw": raw})[0]["error"] == "bad_request"
        assert "pass" in puppet.mint("app")

    def test_a_message_that_is_too_long_ends_the_connection(self, puppet: Puppet) -> None:
        puppet.hello()
        first, second = puppet.do({"raw": "x" * 65_537}, {"say": request("app")})
        assert first["error"] == "bad_request" and second is None

    @pytest.mark.parametrize("v", [2, "1", None, True, 1.5])
    def test_another_version_of_the_protocol_is_said_to_be_unknown(self, puppet: Puppet, v: Any) -> None:
        assert puppet.hello(v=v)["error"] == "protocol_unknown"

    @pytest.mark.parametrize("change", [{"paths": "x"}, {"paths": [1]}, {"argv": {}}, {"spawn": 5}, {"fork_of": []}])
    def test_a_hello_of_another_shape_gets_no_session(self, puppet: Puppet, change: dict[str, Any]) -> None:
        assert puppet.hello(**change)["error"] == "session_refused"


class TestCheck:
    """What passes no gate."""

    @pytest.mark.parametrize(
        ("cap", "dst", "allow", "reason"),
        [
            ("network:listen", "0.0.0.0:8000", True, None),
            ("network:listen", "0.0.0.0:9000", False, "no_rule"),
            ("network:socket", "10.0.0.1:5432", False, "no_capability"),
            ("network:dns", "example.com:53", False, "no_capability"),
        ],
    )
    def test_sockets_dns_and_listening_are_decided_and_recorded(
        self, served: RunningDaemon, jail: Jail, puppet: Puppet, policy: Path, cap: str, dst: str, allow: bool, reason: str | None
    ) -> None:
        session = puppet.hello()
        reply = puppet.say(op="check", cap=cap, dst=dst, chain=["app"])
        assert (reply["allow"], reply.get("reason")) == (allow, reason)
        if not allow:
            assert dst.removesuffix(":53") in reply["say"] and "add:" in reply["say"]
            assert str(policy.parent) not in reply["say"], "nothing about the host"
        summary = jail.control.ask({"op": "jail.close"})["summary"]
        assert (summary["decisions"], summary["allowed"]) == (1, int(allow))
        from outpass.audit import store

        written = until(
            "the record",
            lambda: [r for r in store.read(Path(served.ready["admin"]).parent.parent / "audit.db") if r["sid"] == session["sid"]],
        )
        assert [(r["source"], r["label"], r["peer"]["pid"]) for r in written] == [("broker", "a test", puppet.pid)]

    @pytest.mark.parametrize(("cap", "dst"), [("network:socket", "api.example.com:443"), ("network:dns", "api.example.com:53")])
    def test_who_goes_round_the_gate_though_http_is_allowed_is_told_to_go_through_it(
        self, puppet: Puppet, site: str, cap: str, dst: str
    ) -> None:
        puppet.hello(paths=[site])
        told = puppet.say(op="check", cap=cap, dst=dst, chain=["six", "app"])
        assert (told["allow"], told["reason"]) == (False, "no_capability")
        assert "six may use HTTP with api.example.com, but only through the gate" in told["say"] and "trust_env" in told["say"]
        other = puppet.say(op="check", cap=cap, dst=dst, chain=["evil", "app"])
        assert "only through the gate" not in other["say"]

    def test_an_unknown_capability_is_refused(self, puppet: Puppet) -> None:
        puppet.hello()
        assert puppet.say(op="check", cap="network:http", dst="x:1", chain=["app"])["error"] == "protocol_unknown"


class TestEnds:
    """Sessions end."""

    def test_with_their_process(self, served: RunningDaemon, jail: Jail) -> None:
        with Puppet(served.ready["mint"]) as puppet:
            jail.register(puppet.pid)
            sid = puppet.hello()["sid"]
            assert sid in [s["sid"] for s in served.admin("GET", "/v1/sessions")[1]["sessions"]]
        until("the end", lambda: sid not in [s["sid"] for s in served.admin("GET", "/v1/sessions")[1]["sessions"]])

    def test_with_their_jail(self, jail: Jail, puppet: Puppet) -> None:
        puppet.hello()
        assert jail.control.ask({"op": "jail.close"})["ok"]
        assert puppet.mint("app") is None
        assert puppet.hello()["error"] == "not_registered"

    def test_by_the_operators_word_and_for_good(self, served: RunningDaemon, puppet: Puppet) -> None:
        sid = puppet.hello()["sid"]
        assert served.admin("POST", f"/v1/sessions/{sid}/revoke")[0] == 200
        assert puppet.mint("app") is None
        assert puppet.hello()["error"] == "session_refused"
        [[reply]] = puppet.do({"child": [{"say": HELLO}]})
        assert reply["error"] == "session_refused"
        assert served.admin("POST", f"/v1/sessions/{sid}/revoke")[0] == 404


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
