"""The daemon as a process: start, refusal to start, jails, reload, the gate's death and its own."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outpass.audit import store
from tests.integration.broker.conftest import RULES, through
from tests.support.daemon import Puppet, daemon
from tests.support.waiting import until


def refuses_connect(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


class TestStart:
    """What is there when it is ready."""

    def test_everything_it_makes_is_ours_alone(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as running:
            assert running.ready["ok"] and running.ready["pid"] == running.process.pid
            run = tmp_path / "run"
            until("the certificates for jails", (run / "trust" / "certs" / "outpass.pem").exists)
            modes = {p.name: stat.S_IMODE(p.lstat().st_mode) for p in (run, *run.iterdir())}
            assert modes.pop("run") == modes.pop("maps") == modes.pop("mint") == 0o700
            assert modes.pop("ca.pem") == modes.pop("bundle.pem") == 0o644 and modes.pop("trust") == 0o755, "public"
            assert set(modes) == {"control.sock", "journal", "admin.sock", "upstream.pem", "lock"}
            assert set(modes.values()) == {0o600}
            assert "PRIVATE" not in "".join((run / name).read_text() for name in ("ca.pem", "bundle.pem", "upstream.pem"))

    def test_programs_trust_our_ca_and_the_gate_never_does(self, tmp_path: Path) -> None:
        with daemon(tmp_path):
            run = tmp_path / "run"
            ours = (run / "ca.pem").read_text()
            assert ours.count("BEGIN") == 1
            assert ours in (run / "bundle.pem").read_text()
            assert ours not in (run / "upstream.pem").read_text()

    def test_it_says_nothing_and_leaves_nothing_when_it_is_told_to_stop(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as running:
            assert running.end() == 0
            assert [p.name for p in (tmp_path / "run").iterdir()] == ["lock"]
            assert running.said() == ""

    def test_a_private_daemon_ends_with_its_connection_and_removes_its_directory(self, tmp_path: Path) -> None:
        with daemon(tmp_path, private=True) as running:
            assert running.ready["control"] is None and running.private is not None
            running.private.close()
            assert running.process.wait(30) == 0
            assert not (tmp_path / "run").exists()

    def test_interrupt_from_the_terminal_is_for_the_program_not_for_its_private_daemon(self, tmp_path: Path) -> None:
        with daemon(tmp_path, private=True) as running:
            running.process.send_signal(signal.SIGINT)
            assert running.private is not None
            assert running.private.ask({"op": "nonsense"})["ok"] is False
            assert running.process.poll() is None

    def test_it_starts_over_the_remains_of_one_that_was_killed(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as first:
            gate = first.gate_pid()
            assert gate is not None
            first.end(signal.SIGKILL)
            assert (tmp_path / "run" / "control.sock").exists()
            until("the gate to end with its broker", lambda: not Path(f"/proc/{gate}").exists())
        with daemon(tmp_path) as second:
            assert second.ready["ok"], second.said()


class TestRefusalToStart:
    """Each with a sentence and a hint, exit 125, nothing left running."""

    @pytest.mark.parametrize(
        ("why", "prepare", "arguments", "says"),
        [
            ("others may enter", lambda d: ((d / "run").mkdir(), (d / "run").chmod(0o755)), [], "others may enter"),
            ("it is no directory", lambda d: (d / "run").write_text(""), [], "is not a directory"),
            ("it is a link", lambda d: ((d / "x").mkdir(mode=0o700), (d / "run").symlink_to(d / "x")), [], "is not a directory"),
            (
                "something else is in the way",
                lambda d: (
                    (d / "run" / "mint").mkdir(mode=0o700, parents=True),
                    os.chmod(d / "run", 0o700),
                    (d / "run" / "mint" / "sock").write_text(""),
                ),
                [],
                "not a socket of ours",
            ),
            ("the CA file is missing", lambda d: None, ["--upstream-ca", "/no/such.pem"], "cannot read the upstream CA file"),
            ("the CA file is none", lambda d: None, ["--upstream-ca", "/etc/hostname"], "holds no PEM certificate"),
            ("the CA file is a device", lambda d: None, ["--upstream-ca", "/dev/zero"], "not a file of certificates"),
            ("an override has too few parts", lambda d: None, ["--connect-to", "a:443"], "too few parts"),
            ("an override is no authority", lambda d: None, ["--connect-to", "a:443:b:x"], "--connect-to"),
            (
                "there is a lock that it may not open",
                lambda d: ((d / "run").mkdir(mode=0o700), (d / "run" / "lock").symlink_to("/etc/hostname")),
                [],
                "the daemon failed: too many levels of symbolic links",
            ),
            ("the log is no database", lambda d: (d / "audit.db").write_text("no database" * 100), [], "audit.db"),
        ],
    )
    def test_with_a_reason(self, tmp_path: Path, why: str, prepare: Any, arguments: list[str], says: str) -> None:
        prepare(tmp_path)
        with daemon(tmp_path, *arguments) as running:
            assert running.ready["ok"] is False, why
            assert says in running.ready["error"]
            assert running.process.wait(30) == 125
            assert running.said() == "", "whoever waits was told, and says it; not both"
            assert "Traceback" not in running.said()

    def test_a_damaged_certificate_is_named_by_its_number(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as good:
            pem = (tmp_path / "run" / "ca.pem").read_text()
            good.end()
        bad = tmp_path / "bad.pem"
        bad.write_text(pem + pem.replace("M", "!"))
        with daemon(tmp_path, "--upstream-ca", str(bad)) as running:
            assert "certificate 2 cannot be read" in running.ready["error"]

    def test_a_variable_that_names_a_missing_bundle_is_no_reason_to_trust_another(self, tmp_path: Path) -> None:
        with daemon(tmp_path, env={"SSL_CERT_FILE": "/no/such.pem"}) as running:
            assert "$SSL_CERT_FILE /no/such.pem" in running.ready["error"]

    def test_where_a_daemon_runs_already(self, tmp_path: Path) -> None:
        with daemon(tmp_path), daemon(tmp_path) as second:
            assert "already running" in second.ready["error"]
            assert second.ready["hint"]

    def test_where_the_path_is_too_long_for_a_socket(self, tmp_path: Path) -> None:
        deep = tmp_path / ("x" * 90)
        deep.mkdir()
        with daemon(deep) as running:
            assert "too long" in running.ready["error"]


class TestJails:
    """The control protocol."""

    def test_a_jail_is_opened_served_and_closed_with_a_summary(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as door:
            address = door.getsockname()
            control = running.control()
            opened = control.open(policy, listener=door.dup())
            assert opened["ok"] and opened["mode"] == "enforce" and len(opened["digest"]) == 16
            assert {Path(opened[k]).parent for k in ("ca", "bundle")} == {tmp_path / "run"}
            assert Path(opened["mint"]) == tmp_path / "run" / "mint" / "sock"
            door.close()
            assert b" 407 " in through(address)
            closed = control.ask({"op": "jail.close"})
            assert closed["ok"] and closed["summary"]["denied"] == 1
            [denial] = closed["summary"]["denials"]
            assert denial["count"] == 1 and "elsewhere.example.com" in denial["say"]
            assert refuses_connect(address)
            # The writer commits in batches, off the path of the answer.
            until("its record is in the store", lambda: list(store.read(tmp_path / "audit.db")))
            assert [r["label"] for r in store.read(tmp_path / "audit.db")] == ["a test"]

    def test_the_end_of_the_connection_is_the_end_of_the_jail(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as door:
            address = door.getsockname()
            control = running.control()
            assert control.open(policy, listener=door.dup())["ok"]
            door.close()
            assert not refuses_connect(address)
            control.close()
            until("the listener to close", lambda: refuses_connect(address))
            assert running.admin("GET", "/v1/jails")[1] == {"jails": []}

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"kind": "bubble"}, "kind 'bubble'"),
            ({"cwd": "relative"}, "label or cwd"),
            ({"roots": ["relative"]}, "roots"),
            ({"roots": "x"}, "roots"),
            ({"policy": None}, "policy"),
            ({"policy": {"file": "relative"}}, "policy file"),
            ({"policy": {"file": None}}, "there is no policy"),
            ({"policy": {"file": None, "deny_all": True, "mode": "lenient"}}, "lenient"),
            ({"policy": {"file": None, "allow": ["not a url"]}}, "fault"),
            ({"policy": {"file": "/no/such.yaml"}}, "fault"),
        ],
    )
    def test_what_makes_no_sense_opens_nothing(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        with daemon(tmp_path, private=True) as running, socket.create_server(("127.0.0.1", 0)) as door:
            body = {
                "op": "jail.open",
                "kind": "no-jail",
                "label": "x",
                "cwd": "/",
                "roots": [],
                "policy": {"file": None, "deny_all": True},
            }
            assert running.private is not None
            reply = running.private.ask({**body, **change}, [door.fileno()])
            assert reply["ok"] is False and says in reply["error"], reply
            assert running.admin("GET", "/v1/jails")[1] == {"jails": []}
            assert running.private.ask(body, [door.fileno()])["ok"], "the connection is good for another try"

    def test_a_bad_policy_is_answered_with_its_faults(self, tmp_path: Path, policy: Path) -> None:
        policy.write_text("version: 1\npackages:\n  app: {alow: []}\n")
        with daemon(tmp_path, private=True) as running:
            assert running.private is not None
            reply = running.private.open(policy)
            assert reply["ok"] is False
            assert [(f["file"], f["line"]) for f in reply["faults"]] == [(str(policy), 3)]

    def test_one_connection_has_one_jail(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running:
            assert running.private is not None
            assert running.private.open(policy)["ok"]
            assert running.private.open(policy)["error"] == "this connection has a jail already"

    @pytest.mark.parametrize("packet", [b"[]", b"nonsense", b"\xff", b"{"])
    def test_a_packet_that_is_no_object_ends_the_connection(self, tmp_path: Path, packet: bytes) -> None:
        with daemon(tmp_path, private=True) as running:
            assert running.private is not None
            running.private.sock.send(packet)
            assert running.private.sock.recv(100) == b""

    def test_a_jail_without_a_listener_is_refused(self, tmp_path: Path) -> None:
        with daemon(tmp_path, private=True) as running:
            assert running.private is not None
            body = {"op": "jail.open", "kind": "no-jail", "label": "x", "cwd": "/", "roots": [], "policy": {"deny_all": True}}
            assert "listening" in running.private.ask(body)["error"]


class TestReload:
    """A good policy replaces, a bad one never opens anything."""

    def changed(self, policy: Path, host: str) -> None:
        policy.write_text(RULES.replace("api.example.com", host))

    def test_a_changed_policy_is_in_force_for_the_next_request(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running, Puppet(running.ready["mint"]) as puppet:
            assert running.private is not None
            running.private.open(policy)
            running.private.ask({"op": "jail.proc", "pid": puppet.pid})
            puppet.hello()
            assert "deny" not in puppet.mint("app")
            self.changed(policy, "other.example.com")
            told = running.private.ask({"op": "reload"})
            assert told["ok"] and [j["changed"] for j in told["jails"]] == [True]
            assert puppet.mint("app")["deny"] == "no_rule"
            assert "deny" not in puppet.mint("app", dst="other.example.com:443")

    def test_a_bad_file_keeps_the_last_good_policy_and_says_so(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running, Puppet(running.ready["mint"]) as puppet:
            assert running.private is not None
            opened = running.private.open(policy)
            running.private.ask({"op": "jail.proc", "pid": puppet.pid})
            puppet.hello()
            policy.write_text("version: 1\npackages: {app: {allow: [network:all], htpp: []}}\n")
            told = running.private.ask({"op": "reload"})
            assert told["ok"] is False and told["faults"] and told["jails"][0]["digest"] == opened["digest"]
            assert "the last good one stays" in running.said()
            assert "deny" not in puppet.mint("app") and puppet.mint("app", dst="other.example.com:443")["deny"] == "no_rule"
            assert running.admin("POST", "/v1/reload")[0] == 409

    def test_hangup_reloads(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running:
            assert running.private is not None
            opened = running.private.open(policy)
            self.changed(policy, "other.example.com")
            running.process.send_signal(signal.SIGHUP)

            def digest() -> str:
                return running.admin("GET", "/v1/jails")[1]["jails"][0]["policy"]["digest"]

            until("the new policy", lambda: digest() != opened["digest"])


class TestGateDeath:
    """A gate that dies is replaced; until then nothing goes out."""

    def test_a_killed_gate_is_replaced_with_everything_it_had(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running, socket.create_server(("127.0.0.1", 0)) as door:
            assert running.private is not None
            assert running.private.open(policy, listener=door.dup())["ok"]
            address = door.getsockname()
            door.close()
            assert b" 407 " in through(address)
            first = running.gate_pid()
            assert first is not None
            os.kill(first, signal.SIGKILL)
            assert b" 407 " in through(address), "it waits in the backlog for the next gate"
            assert running.gate_pid() != first
            until("readiness", lambda: running.admin("GET", "/readyz")[0] == 200)
            assert "a gate ended (signal 9); another is started, requests wait" in running.said()
            assert "outpass_gate_restarts_total 1.0" in running.admin("GET", "/metrics")[1]
            assert running.private.ask({"op": "jail.close"})["ok"]

    def test_a_gate_that_is_down_is_not_ready(self, tmp_path: Path) -> None:
        with daemon(tmp_path) as running:
            gate = running.gate_pid()
            assert gate is not None and running.admin("GET", "/readyz") == (200, {"ready": True, "missing": []})
            os.kill(gate, signal.SIGKILL)
            until("not ready", lambda: running.admin("GET", "/readyz") == (503, {"ready": False, "missing": ["gate"]}))

    def test_a_broker_that_is_killed_takes_its_gate_along(self, tmp_path: Path, policy: Path) -> None:
        with daemon(tmp_path, private=True) as running, socket.create_server(("127.0.0.1", 0)) as door:
            assert running.private is not None
            assert running.private.open(policy, listener=door.dup())["ok"]
            address = door.getsockname()
            door.close()
            running.process.kill()
            until("nobody to listen", lambda: refuses_connect(address))


def test_a_control_connection_of_somebody_else_cannot_be_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    with daemon(tmp_path) as running:
        code = f"import os,socket; os.setuid(65534); s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect({running.ready['control']!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "PermissionError" in done.stderr
