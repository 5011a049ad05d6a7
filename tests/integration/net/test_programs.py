"""Programs without a shim, in a jail: who they are, whose wish they carry out, and HTTP without proxy variables."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, daemon
from tests.support.enclosed import Enclosure, enclosure, possible
from tests.support.origin import Origin

WEB, OTHER = "web.example.com", "other.example.com"
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")

POLICY = f"""
version: 1
programs: {{probe: [{os.path.realpath(sys.executable)}]}}
packages:
  "exe:curl": {{allow: [network:http], http: ["https://{WEB}/ok/**", "http://{WEB}/ok/**"]}}
  "exe:openssl": {{allow: [network:socket], socket: ["{OTHER}:443"]}}
  "exe:probe": {{allow: [network:http, network:socket], http: ["https://{WEB}/ok/probe"], socket: ["{OTHER}:443"]}}
  app: {{allow: [network:http], http: ["https://{WEB}/ok/**"]}}
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin((WEB, OTHER)) as made:
        yield made


@pytest.fixture(scope="module")
def plain() -> Iterator[Origin]:
    with Origin((WEB,), tls=False) as made:
        yield made


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, origin: Origin, plain: Origin) -> Iterator[RunningDaemon]:
    if not possible():
        pytest.skip("no network namespace can be made here")
    where = tmp_path_factory.mktemp("programs")
    options = [o for h in (WEB, OTHER) for o in ("--connect-to", f"{h}:443:127.0.0.1:{origin.port}")]
    options += ["--connect-to", f"{WEB}:80:127.0.0.1:{plain.port}", "--upstream-ca", str(origin.ca_file)]
    with daemon(where, *options) as started:
        yield started


@pytest.fixture(scope="module")
def jail(programs: RunningDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclosure]:
    with enclosure(programs, POLICY, tmp_path_factory.mktemp("jail")) as made:
        yield made


def curl(jail: Enclosure, url: str, *options: str, shim: bool = False) -> str:
    ca = jail.reply["ca"]
    command = ["curl", "-sS", "--cacert", ca, "-o", "/dev/null", "-w", "%{http_code}", *options, url]
    return jail.run(*command, shim=shim).stdout


def test_curl_without_proxy_variables_is_decided_request_by_request(jail: Enclosure, origin: Origin) -> None:
    before = len(origin.seen)
    assert curl(jail, f"https://{WEB}/ok/here") == "200"
    assert curl(jail, f"https://{WEB}/elsewhere") == "403", "an answer, in TLS, that says why"
    assert [s.path for s in origin.seen[before:]] == ["/ok/here"]
    (allowed,) = jail.records(host=WEB, path="/ok/here")
    assert (allowed["principal"], allowed["chain"], allowed["tier"]) == ("exe:curl", ["exe:curl"], "enforced")
    (denied,) = jail.records(host=WEB, path="/elsewhere")
    assert (denied["verdict"], denied["reason"], denied["principal"]) == ("deny", "no_rule", "exe:curl")


def test_http_2_and_plain_http_too(jail: Enclosure, plain: Origin) -> None:
    assert curl(jail, f"https://{WEB}/ok/two", "--http2") == "200"
    assert curl(jail, f"http://{WEB}/ok/plain") == "200"
    assert curl(jail, f"http://{WEB}/no") == "403"
    assert [s.path for s in plain.seen] == ["/ok/plain"]


def test_curl_through_the_explicit_listener_is_the_same_program(jail: Enclosure) -> None:
    assert curl(jail, f"https://{WEB}/ok/explicit", shim=True) == "200"
    (record,) = jail.records(host=WEB, path="/ok/explicit")
    assert record["chain"] == ["exe:curl"]


def test_a_host_without_a_rule_has_no_address(jail: Enclosure) -> None:
    assert "Could not resolve host" in jail.run("curl", "-sS", "https://evil.example/").stderr


def test_another_server_name_than_the_one_looked_up_is_told_so(jail: Enclosure, origin: Origin) -> None:
    address = jail.run("getent", "ahosts", WEB).stdout.split()[0]
    before = len(origin.seen)
    assert curl(jail, f"https://{OTHER}/ok/x", "--resolve", f"{OTHER}:443:{address}") == "421"
    assert curl(jail, f"https://{WEB}/ok/x", "-H", f"Host: {OTHER}") == "421"
    assert len(origin.seen) == before


def test_openssl_on_a_socket_rule_speaks_to_the_origin_itself(jail: Enclosure, origin: Origin) -> None:
    """No interception where only a socket rule applies: the certificate is the origin's own."""
    options = ["-connect", f"{OTHER}:443", "-CAfile", str(origin.ca_file), "-verify_return_error", "-brief"]
    done = jail.run("openssl", "s_client", *options, "-servername", OTHER)
    assert "Verification: OK" in done.stderr, done.stderr
    fronted = jail.run("openssl", "s_client", *options, "-servername", "evil.example")
    assert "Verification: OK" not in fronted.stderr
    assert jail.records(host=OTHER, reason="sni_mismatch", principal="exe:openssl")


def test_an_interpreter_is_named_by_its_file_behind_symbolic_links(jail: Enclosure) -> None:
    script = """
import ssl, sys, urllib.request
try: print(urllib.request.urlopen(sys.argv[1], context=ssl.create_default_context(cafile=sys.argv[2])).status)
except urllib.error.HTTPError as e: print(e.code)
"""
    for path, code in (("/ok/probe", "200"), ("/ok/other", "403")):
        done = jail.python(script, f"https://{WEB}{path}", jail.reply["ca"])
        assert done.stdout.strip() == code, done.stderr
    assert jail.records(host=WEB, path="/ok/probe", principal="exe:probe")


ONE = "sock, kids = socket.socket(), []"
FORKED = """
sock, kids = socket.socket(), [os.fork()]
if not kids[0]: time.sleep(600)
"""
BESIDE = """
sock = socket.socket()
kids = [subprocess.Popen(["sleep", "600"], pass_fds=[sock.fileno()]).pid]
"""
PASSED = """
ours, theirs = socket.socketpair()
if os.fork():
    with socket.socket() as made:
        socket.send_fds(ours, [b"x"], [made.fileno()])
    ours.close()
    os.wait()
    sys.exit()
ours.close()
_, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
assert not theirs.recv(1)  # the other has given it up
sock, kids = socket.socket(fileno=fd), []
"""
CONNECT = f"""
sock.settimeout(20)
sock.connect((socket.getaddrinfo("{OTHER}", 443)[0][4][0], 443))
try:
    sock.sendall(b"no TLS at all, so its server ends it")
    sock.recv(1)
except ConnectionResetError:
    pass
finally:
    for kid in kids: os.kill(kid, 9)
"""


@pytest.mark.parametrize(
    ("sentence", "script", "chain"),
    [
        ("one holder", ONE, ["exe:probe"]),
        ("a fork of it holds it too", FORKED, ["exe:probe"]),
        ("another program holds it too", BESIDE, ["unattributed"]),
        ("it was made by another and passed on", PASSED, ["exe:probe"]),
    ],
    ids=["one", "fork", "another", "passed"],
)
def test_who_holds_a_connection_is_charged_when_all_who_hold_it_are_the_same(
    programs: RunningDaemon, tmp_path: Path, sentence: str, script: str, chain: list[str]
) -> None:
    with enclosure(programs, POLICY, tmp_path) as jail:
        done = jail.python(f"import os, socket, subprocess, sys, time\n{script}\n{CONNECT}")
        assert done.returncode == 0, done.stderr
        (record, *_) = jail.records(host=OTHER, kind="decision", port=443)
        found = (record["chain"], record["verdict"], record["reason"])
        assert found == (chain, *(("allow", "allowed") if "exe:probe" in chain else ("deny", "unattributed"))), sentence


def test_many_connections_at_once_are_each_charged_to_their_own_program(jail: Enclosure) -> None:
    """They are looked for together, in one walk over the jail's processes."""
    url = [f"https://{WEB}/ok/many" for _ in range(16)]
    done = jail.run("sh", "-c", 'for u; do curl -sS -k -o /dev/null -w "%{http_code} " "$u" & done; wait', "sh", *url)
    assert done.stdout.split() == ["200"] * 16, done.stderr
    assert {tuple(r["chain"]) for r in jail.records(16, host=WEB, path="/ok/many")} == {("exe:curl",)}


SPAWNER = """
import subprocess, sys, os
options = ["curl", "-sS", "--cacert", os.environ["OUTPASS_CA"], "-o", "/dev/null", "-w", "%{http_code}\\n"]
subprocess.run(options + sys.argv[2:] + [sys.argv[1]], check=False)
"""


@pytest.mark.parametrize("way", [[], ["--noproxy", "*"]], ids=["proxy", "transparent"])
def test_a_program_is_charged_with_whoever_started_it(jail: Enclosure, tmp_path: Path, way: list[str]) -> None:
    """app may reach /ok/, curl too; but the module that starts curl here lies under no root, so it is nobody's."""
    (tmp_path / "helper.py").write_text(f"def go():\n{textwrap.indent(SPAWNER, '    ')}")
    (tmp_path / "main.py").write_text("import helper\nhelper.go()\n")
    path = f"/ok/spawned{len(way)}"
    done = jail.run(sys.executable, str(tmp_path / "main.py"), f"https://{WEB}{path}", *way, shim=True)
    assert done.stdout.strip() == ("000" if way else "403"), done.stderr
    chain = ["exe:curl", "?", "app"]
    (record, *_) = [r for r in jail.records(principal="?", reason="unproven") if r["chain"] == chain]
    assert record["verdict"] == "deny"


def test_a_program_below_a_session_without_its_spawn_pass_has_an_unknown_spawner(jail: Enclosure, tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(SPAWNER.replace("check=False", "check=False, env={'PATH': os.environ['PATH'], 'OUTPASS_CA': ''}"))
    done = jail.run(sys.executable, str(main), f"https://{WEB}/ok/bare", shim=True)
    assert done.stdout.strip() == "000", done.stderr
    (record,) = jail.records(host=WEB, chain=["exe:curl", "?"])
    assert (record["verdict"], record["reason"]) == ("deny", "unproven")


def test_the_applications_own_children(programs: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(SPAWNER)
    with enclosure(programs, POLICY, tmp_path) as jail:
        for path, way, code in (("/ok/a", [], "200"), ("/ok/b", ["--noproxy", "*"], "200"), ("/no", [], "403")):
            done = jail.run(sys.executable, str(tmp_path / "main.py"), f"https://{WEB}{path}", *way, shim=True)
            assert done.stdout.strip() == code, done.stderr
            (record,) = jail.records(host=WEB, path=path)
            assert record["chain"] == ["exe:curl", "app"] and record["sid"].startswith("s-")


def test_a_shimmed_child_does_not_send_the_pass_that_its_parent_lent(programs: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import os, sys, urllib.request\nprint(os.environ['https_proxy'])\nprint(urllib.request.urlopen(sys.argv[1]).status)\n"
    )
    (tmp_path / "main.py").write_text(
        "import subprocess, sys, os\nsubprocess.run([sys.executable, os.path.dirname(__file__) + '/child.py', sys.argv[1]])\n"
    )
    with enclosure(programs, POLICY, tmp_path) as jail:
        done = jail.run(sys.executable, str(tmp_path / "main.py"), f"https://{WEB}/ok/child", shim=True)
        assert done.stdout.split() == ["http://127.0.0.1:3128", "200"], done.stderr
        (record,) = jail.records(host=WEB, path="/ok/child")
        assert record["chain"] == ["app", "app"] or record["chain"] == ["app"]
