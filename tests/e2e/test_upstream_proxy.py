"""`outpass run` where the network has a proxy of its own: found in the environment, its login out of the jail's sight.

Judged at the proxy, which alone knows where the origin is, and by what CMD finds when it looks for the password.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.support.homes import Home
from tests.support.jailed import identities
from tests.support.proxies import USER, Proxy
from tests.support.raw_origin import RawOrigin
from tests.support.runs import apps

SECRET = "hunter2hunter2"
CURL = "env -i curl -sS -o /dev/null -w '%{http_code}\\n' https://api.test/curl"
"""It knows no proxy, and comes through the transparent listener."""
POLICY = """
version: 1
include: [preset:http-clients]
packages:
  app: {allow: [network:http], http: ["https://api.test/**"]}
  "exe:curl": {allow: [network:http], http: ["https://api.test/**"]}
"""
SCRIPT = """
import glob, os, requests
print(requests.get("https://api.test/python").status_code, requests.get("https://other.test/").status_code)
word = "hunter2" * 2
found = [k for k, v in os.environ.items() if word in v]
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        if word.encode() in open(path, "rb").read():
            found.append(path)
    except OSError:
        pass
print("found", found)
"""


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[RawOrigin]:
    with RawOrigin("api.test", ca=trustme.CA()) as made:
        yield made


@pytest.fixture
def ca(origin: RawOrigin, tmp_path: Path) -> Path:
    assert origin.ca is not None
    origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


def url(proxy: Proxy) -> str:
    return f"{proxy.scheme}://{quote(USER)}:{quote(proxy.password)}@127.0.0.1:{proxy.port}"


def test_an_inherited_proxy_is_the_gates_way_out_and_its_login_stays_outside(home: Home, origin: RawOrigin, ca: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    kind = "socks5" if home.who.uid else "http"  # one for each identity, for time; the gate's own test has all
    home.put("project/main.py", SCRIPT)
    with Proxy(kind, {("api.test", 443): origin.port}, login=True, password=SECRET) as proxy:
        command = ["sh", "-c", f"{apps()} main.py && {CURL}"]
        named = "OUTPASS_UPSTREAM_PROXY" if home.who.uid else "HTTPS_PROXY"
        # Not NO_PROXY: it comes in two spellings, and the machine's own may be set.
        env = {"https_proxy": "", named: url(proxy), "no_proxy": "x.test"}
        run = home.run(POLICY, command, ca=ca, **env)
        assert run.out.splitlines() == ["200 403", "found []", "200"], run.said()
        assert proxy.asked == [("api.test", 443)] * 2, "and nothing that policy denies is asked of it"
        shown = f"{kind}://127.0.0.1:{proxy.port}"
    assert f"upstream proxy {shown} (from ${named})" in run.err and "not checked" in run.err, run.said()
    allowed = [r for r in run.records if r["verdict"] == "allow" and r["capability"] == "network:http"]
    assert [(r["dialled"], r["addresses"]) for r in allowed] == [(shown, None)] * 2, run.said()
    assert SECRET not in run.err and SECRET not in str(run.records)


def test_upstream_proxy_none_dials_directly_and_a_bad_url_starts_nothing(home: Home) -> None:
    if home.who != identities()[0].values[0]:
        pytest.skip("the same for every user")
    told = {"HTTPS_PROXY": f"ftp://ada:{SECRET}@127.0.0.1:1", "https_proxy": ""}
    run = home.run(POLICY, ["true"], **told)
    assert (run.code, run.records) == (125, []), run.said()
    assert "$HTTPS_PROXY: an upstream proxy of the scheme 'ftp' is not supported" in run.err and SECRET not in run.err
    run = home.run(POLICY, ["true"], "--upstream-proxy", "none", **told)
    assert (run.code, run.err) == (0, ""), run.said()
