"""The daemon's operator: the API on its socket, and what it says when the disk is full."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.broker.conftest import RULES, through
from tests.support.daemon import Puppet, daemon
from tests.support.waiting import until


class TestAdmin:
    """The operator's API."""

    def test_every_call_needs_the_header(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as running:
            paths = ["/livez", "/readyz", "/v1/jails", "/v1/sessions", "/v1/keys", "/v1/events", "/metrics", "/nowhere"]
            for path in paths:
                for headers in ({}, {"Outpass-Client": "2"}, {"Outpass-Client": "1, 1"}):
                    status, problem = running.admin("GET", path, headers=headers)
                    assert (status, problem["code"]) == (403, "header_missing"), path
            assert running.admin("GET", "/livez") == (200, {"live": True})
            assert running.admin("GET", "/nowhere")[1]["status"] == 404
            assert running.admin("GET", "/v1/reload")[1]["status"] == 405

    def test_keys_are_named_and_never_shown(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as running:
            status, body = running.admin("GET", "/v1/keys")
            assert status == 200 and set(body) == {"iss", "keys", "ca_expires"}
            assert [set(k) for k in body["keys"]] == [{"kid", "alg", "use"}]

    @pytest.mark.parametrize(
        ("body", "status", "answer"),
        [
            ({"chain": ["app"], "url": "https://api.example.com/"}, 200, "allow"),
            ({"chain": ["six", "app"], "url": "https://api.example.com/"}, 200, "deny"),
            ({"chain": ["app"], "url": "https://api.example.com/", "jail": "j-none"}, 404, "no_jail"),
            ({"chain": [], "url": "https://api.example.com/"}, 400, "bad_chain"),
            ({"chain": ["app"], "url": "ftp://x/"}, 400, "bad_request"),
            ({"chain": ["app"], "url": "https://u@x/"}, 400, "bad_request"),
            ({"chain": ["app"], "url": "https://x/", "capability": "network:listen"}, 400, "bad_request"),
            ([], 400, "not_json"),
        ],
    )
    def test_explain(self, tmp_path: Path, policy: Path, body: Any, status: int, answer: str) -> None:
        with daemon(tmp_path, private=True) as running:
            assert running.private is not None
            running.private.open(policy)
            got, told = running.admin("POST", "/v1/explain", body)
            assert (got, told.get("verdict") or told.get("code")) == (status, answer)

    def test_events_are_told_as_they_happen_and_metrics_count_them_without_a_host(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running, socket.create_server(("127.0.0.1", 0)) as door:
            assert running.private is not None
            running.private.open(policy, listener=door.dup())
            events = running.events()
            assert next(events) == ": outpass events, version 1"
            through(door.getsockname())
            line = next(line for line in events if line.startswith("data: "))
            record = json.loads(line.removeprefix("data: "))
            assert (record["host"], record["label"], record["source"]) == ("elsewhere.example.com", "a test", "gate")
            text = running.admin("GET", "/metrics")[1]
            assert "elsewhere" not in text
            assert 'outpass_refusals_total{reason="pass_missing"} 1.0' in text
            assert "outpass_jails 1.0" in text

    def test_an_open_event_stream_does_not_keep_the_daemon_alive(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as running:
            events = running.events()
            next(events)
            assert running.end() == 0


class TestDiskFull:
    """What cannot be recorded does not happen."""

    def test_a_check_is_refused_while_the_log_cannot_be_written(self, tmp_path: Path, policy: Path) -> None:
        state = tmp_path / "audit.db"
        policy.write_text(RULES + "  six: {allow: [network:listen], listen: ['8000']}\n".replace("six", "'*'"))
        with daemon(tmp_path, private=True) as running, Puppet(running.ready["mint"]) as puppet:
            assert running.private is not None
            opened = running.private.open(policy)
            assert opened["ok"], opened
            running.private.ask({"op": "jail.proc", "pid": puppet.pid})
            puppet.hello()
            check = {"op": "check", "cap": "network:listen", "dst": "0.0.0.0:8000", "chain": ["app"]}
            assert puppet.say(**check) == {"allow": True}
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"import resource; resource.prlimit({running.process.pid}, resource.RLIMIT_FSIZE, (2000, -1))",
                ],
                check=True,
            )
            until("refusal", lambda: puppet.say(**check).get("reason") == "audit_unavailable")
            until("not ready", lambda: running.admin("GET", "/readyz")[1]["missing"] == ["audit"])
            assert "decisions cannot be recorded" in running.said()
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    f"import resource; resource.prlimit({running.process.pid}, resource.RLIMIT_FSIZE, (-1, -1))",
                ],
                check=True,
            )
            until("recovery", lambda: puppet.say(**check).get("allow"))
            assert state.exists()
