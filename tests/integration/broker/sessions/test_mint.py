"""What a process's passes say, and when its session ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.broker.sessions.conftest import Jail
from tests.support.daemon import HELLO, Puppet, RunningDaemon, claims, request
from tests.support.waiting import until


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

    @pytest.mark.parametrize(
        ("sentence", "ask", "who", "reason"),
        [
            ("a socket rule implies the look-up", {"cap": "network:dns", "dst": "sql.example.com:53"}, "tunnel", None),
            ("of its own package", {"cap": "network:dns", "dst": "sql.example.com:53"}, "six", "no_capability"),
            ("what was looked up is named by a rule", {"dst": "93.184.216.34:5432", "name": "SQL.example.com."}, "tunnel", None),
            ("of another port", {"dst": "93.184.216.34:5433", "name": "sql.example.com"}, "tunnel", "no_rule"),
            ("of another package", {"dst": "93.184.216.34:5432", "name": "sql.example.com"}, "six", "no_capability"),
            ("and may be dialled", {"dst": "10.0.0.5:5432", "name": "sql.example.com"}, "tunnel", "address_private"),
            ("the address alone is not", {"dst": "93.184.216.34:5432"}, "tunnel", "no_rule"),
            ("a name that no rule can have is none", {"dst": "93.184.216.34:5432", "name": "a b"}, "tunnel", "no_rule"),
        ],
    )
    def test_without_a_jail_a_rule_that_names_a_host_covers_its_look_up_and_what_it_led_to(
        self, puppet: Puppet, site: str, sentence: str, ask: dict[str, str], who: str, reason: str | None
    ) -> None:
        puppet.hello(paths=[site])
        reply = puppet.say(op="check", **{"cap": "network:socket", **ask}, chain=[who, "app"])
        assert (reply["allow"], reply.get("reason")) == (reason is None, reason), sentence
        if reason == "no_rule" and ask.get("name") == "sql.example.com":
            assert '- "sql.example.com:5433"' in reply["say"], "the line names what was asked for"

    @pytest.mark.parametrize(
        "more", [{"name": 5}, {"name": "x", "dst": "sql.example.com:5432"}, {"name": "x", "cap": "network:dns"}]
    )
    def test_a_name_is_for_a_socket_and_an_address(self, puppet: Puppet, more: dict[str, Any]) -> None:
        puppet.hello()
        assert (
            puppet.say(**{"op": "check", "cap": "network:socket", "dst": "10.0.0.1:1", "chain": ["app"], **more})["error"]
            == "bad_request"
        )

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
