"""Unmodified programs in the jail, as root and as an ordinary user: each reaches what its rule names, judged at the origin.

None of them has a shim: they are charged by the file that runs (`exe:NAME`). Those that know no proxy (Node's fetch, Java)
come through the jail's names and its transparent listener.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from outpass import indexes
from tests.support.files_server import FilesServer, repository
from tests.support.homes import Home
from tests.support.installed import needs
from tests.support.origin import Origin
from tests.support.runs import Run, apps, outpass

HOST, OTHER = "status.example.com", "evil.example.org"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin((HOST, OTHER)) as running:
        yield running


def rules(principal: str, *urls: str) -> str:
    listed = ", ".join(f'"{url}"' for url in urls)
    return f'version: 1\npackages:\n  "{principal}": {{allow: [network:http], http: [{listed}]}}\n'


def decisions(run: Run) -> set[tuple[str, str, str, str]]:
    return {(r["principal"], r["host"], r["verdict"], r["tier"]) for r in run.records if r["kind"] == "decision"}


NODE = """
const ask = async (url) => {
  try { const r = await fetch(url); console.log(new URL(url).host, r.status); }
  catch (e) { console.log(new URL(url).host, "failed", e.cause ? e.cause.code : e.message); }
};
(async () => { await ask("https://status.example.com/a"); await ask("https://evil.example.org/a"); })();
"""
JAVA = """
import java.net.URI;
import java.net.http.*;

public class Main {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (String url : new String[] {"https://status.example.com/a", "https://evil.example.org/a"}) {
            String host = URI.create(url).getHost();
            try {
                HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
                System.out.println(host + " " + client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
            } catch (java.io.IOException e) {
                System.out.println(host + " failed " + e.getClass().getSimpleName());
            }
        }
    }
}
"""


def test_curl_through_the_proxy_variables(home: Home, origin: Origin) -> None:
    curl, before = needs("curl"), len(origin.seen)
    script = f"for h in {HOST} {OTHER}; do {curl} -sS -o /dev/null -w '%{{http_code}}\\n' https://$h/a; done"
    run = home.run(rules("exe:curl", f"https://{HOST}/**"), ["sh", "-c", script], *origin.connect_to(), ca=origin.ca_file)
    assert run.out.split() == ["200", "403"], run.said()
    assert [seen.host for seen in origin.wait(before + 1)[before:]] == [HOST]
    assert decisions(run) == {("exe:curl", HOST, "allow", "enforced"), ("exe:curl", OTHER, "deny", "enforced")}, run.said()


def test_curl_without_any_variable_is_caught_all_the_same(home: Home, origin: Origin) -> None:
    curl, before = needs("curl"), len(origin.seen)
    script = f"for h in {HOST} {OTHER}; do env -i {curl} -sS -o /dev/null -w '%{{http_code}}\\n' https://$h/a; done"
    run = home.run(rules("exe:curl", f"https://{HOST}/**"), ["sh", "-c", script], *origin.connect_to(), ca=origin.ca_file)
    assert run.out.split() == ["200", "000"], run.said()  # what may not be reached has no address
    assert [seen.host for seen in origin.wait(before + 1)[before:]] == [HOST]


def test_git_clones_over_https(home: Home, tmp_path: Path) -> None:
    git = needs("git")
    with FilesServer(repository(tmp_path), "git.example.com", tmp_path) as server:
        policy = rules("exe:git", "GET https://git.example.com/repo.git/**")
        command = [git, "clone", "-q", "https://git.example.com/repo.git", "copy"]
        run = home.run(policy, command, *server.connect_to(), ca=server.ca_file)
        assert run.code == 0, run.said()
        assert (home.project / "copy" / "README").read_text() == "hello\n"
        asked = len(server.seen)
        refused = home.run(
            policy, [git, "clone", "-q", "https://git.example.com/other.git"], *server.connect_to(), ca=server.ca_file
        )
        assert refused.code not in (0, 125) and len(server.seen) == asked, refused.said()


@pytest.mark.parametrize("program", ["node", "java"])
def test_programs_that_know_no_proxy(program: str, home: Home, origin: Origin) -> None:
    path, before = needs(program), len(origin.seen)
    home.put("project/main.js", NODE)
    home.put("project/Main.java", JAVA)
    command = [path, "main.js"] if program == "node" else [path, "Main.java"]
    run = home.run(rules(f"exe:{program}", f"https://{HOST}/**"), command, *origin.connect_to(), ca=origin.ca_file)
    assert run.code == 0 and f"{HOST} 200" in run.out, run.said()
    assert f"{OTHER} failed" in run.out, run.said()
    assert [seen.host for seen in origin.wait(before + 1)[before:]] == [HOST]
    assert (f"exe:{program}", HOST, "allow", "enforced") in decisions(run), run.said()


def reachable(url: str) -> bool:
    """Whether a registry answers at all from here, without a jail."""
    done = subprocess.run(["curl", "-sS", "-m", "20", "-o", "/dev/null", url], capture_output=True, check=False)
    return done.returncode == 0


def as_named(*urls: str) -> list[str]:
    """`--connect-to` options for hosts that this machine finds at addresses which no name may lead to (a mirror in a lab)."""
    options: list[str] = []
    for url in dict.fromkeys(urls):
        where = urlsplit(url)
        port = where.port or (443 if where.scheme == "https" else 80)
        address = socket.getaddrinfo(where.hostname, port, type=socket.SOCK_STREAM)[0][4][0]
        if not ipaddress.ip_address(address).is_global:
            shown = f"[{address}]" if ":" in str(address) else address
            options += ["--connect-to", f"{where.hostname}:{port}:{shown}:{port}"]
    return options


def configured(*command: str) -> str:
    """What a tool's own configuration says, as the user who runs the suite."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else ""


def test_npm_installs_from_the_configured_registry_and_from_nowhere_else(home: Home) -> None:
    npm = needs("npm")
    registry = configured(npm, "config", "get", "registry")
    if not registry.startswith("http") or not reachable(registry):
        pytest.skip(f"npm's registry {registry or '(none)'} does not answer: offline")
    home.put(".npmrc", f"registry={registry}\n")
    policy = "version: 1\ninclude: [preset:node-packaging]\npackages: {}\n"
    home.put("project/package.json", '{"name": "t", "version": "1.0.0", "private": true}')
    command = [npm, "install", "--no-audit", "--no-fund", "--fetch-retries=0", "isarray@2.0.5"]
    run = home.run(policy, command, *as_named(registry))
    assert run.code == 0 and (home.project / "node_modules/isarray/index.js").exists(), run.said()
    assert {r["verdict"] for r in run.records if r["kind"] == "decision"} == {"allow"}, run.said()
    shutil.rmtree(home.project / "node_modules")
    (home.project / "package-lock.json").unlink()
    shutil.rmtree(home.path / ".npm", ignore_errors=True)
    refused = home.run(rules("exe:curl", f"https://{HOST}/**"), command)
    assert refused.code not in (0, 125) and not (home.project / "node_modules/isarray").exists(), refused.said()


def test_pip_installs_from_the_configured_index_and_from_nowhere_else(home: Home) -> None:
    python = str(apps())
    found = indexes.rules("pip", env={**os.environ, "HOME": str(home.path)}).rules
    if not found or not reachable(str(found[0]["url"]).removesuffix("**")):
        pytest.skip("pip's index does not answer: offline")
    policy = "version: 1\ninclude: [preset:python-packaging, preset:http-clients]\npackages: {}\n"
    venv = str(home.path / "venv")
    made = home.run(policy, [python, "-m", "venv", venv])
    assert made.code == 0, made.said()
    command = [f"{venv}/bin/pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-cache-dir", "--retries", "0"]
    run = home.run(policy, [*command, "iniconfig==2.1.0"], *as_named(*(str(rule["url"]) for rule in found)))
    assert run.code == 0 and list(Path(venv).glob("lib/*/site-packages/iniconfig")), run.said()
    charged = {(r["principal"], r["verdict"]) for r in run.records if r["kind"] == "decision"}
    assert charged == {("pip", "allow")}, run.said()
    refused = home.run(rules("exe:curl", f"https://{HOST}/**"), [*command, "--force-reinstall", "isodate==0.7.2"])
    assert refused.code not in (0, 125) and not list(Path(venv).glob("lib/*/site-packages/isodate")), refused.said()


PYTEST = """
import os, pytest, requests

@pytest.mark.parametrize("n", range(6))
def test_one(n):
    assert requests.get("https://status.example.com/worker").status_code == 200

def test_other():
    assert requests.get("https://evil.example.org/worker").status_code == 403
"""


def test_pytest_with_xdist(home: Home, origin: Origin) -> None:
    before = len(origin.seen)
    home.put("project/test_it.py", PYTEST)
    policy = f"""version: 1
include: [preset:http-clients]
packages:
  app: {{allow: [network:http], http: ["https://{HOST}/**"]}}
  pytest: {{allow: [network:http], http: ["https://{HOST}/**"]}}
  pytest-xdist: {{allow: [network:http], http: ["https://{HOST}/**"]}}
  execnet: {{allow: [network:http], http: ["https://{HOST}/**"]}}
  pluggy: {{allow: [network:http], http: ["https://{HOST}/**"]}}
"""
    command = [str(apps()), "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_it.py"]
    run = home.run(policy, command, *origin.connect_to(), ca=origin.ca_file)
    assert run.code == 0 and "7 passed" in run.out, run.said()
    assert [seen.host for seen in origin.wait(before + 6)[before:]] == [HOST] * 6
    assert {r["host"] for r in run.records if r["verdict"] == "deny"} == {OTHER}, run.said()


POOLS = """
import multiprocessing, concurrent.futures, sys
import requests

def ask(url):
    return requests.get(url).status_code

if __name__ == "__main__":
    urls = ["https://status.example.com/pool", "https://evil.example.org/pool"]
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        print("pool", pool.map(ask, urls))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print("executor", list(pool.map(ask, urls)))
    with context.Manager() as manager:
        print("manager", manager.dict(a=1)["a"])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, home: Home, origin: Origin) -> None:
    before = len(origin.seen)
    home.put("project/main.py", POOLS)
    policy = (
        f'version: 1\ninclude: [preset:http-clients]\npackages:\n  app: {{allow: [network:http], http: ["https://{HOST}/**"]}}\n'
    )
    run = home.run(policy, [str(apps()), "main.py", method], *origin.connect_to(), ca=origin.ca_file)
    assert run.code == 0, run.said()
    assert run.out.splitlines() == ["pool [200, 403]", "executor [200, 403]", "manager 1"], run.said()
    assert [seen.host for seen in origin.wait(before + 2)[before:]] == [HOST] * 2


def test_another_user_in_roots_jail_finds_whom_to_trust(home: Home, origin: Origin) -> None:
    if home.who.uid:
        pytest.skip("an ordinary user's jail has one user")
    curl, before = needs("curl"), len(origin.seen)
    home.path.chmod(0o711)  # as /tmp and /run are, where the runtime directory lies otherwise
    nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    script = (
        f'{nobody} cat "$OUTPASS_CA" "$SSL_CERT_FILE" /etc/ssl/certs/outpass.pem >/dev/null && echo readable\n'
        f'{nobody} ls "${{OUTPASS_CA%/*}}" 2>/dev/null && echo listed\n'
        f"{nobody} {curl} -sS -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/nobody"
    )
    run = home.run(rules("exe:curl", f"https://{HOST}/**"), ["sh", "-c", script], *origin.connect_to(), ca=origin.ca_file)
    assert run.out.split() == ["readable", "200"], run.said()
    assert [seen.path for seen in origin.wait(before + 1)[before:]] == ["/nobody"]


def test_a_policy_in_force_and_what_it_includes_cannot_be_changed_from_inside(home: Home) -> None:
    home.put("project/outpass.yaml", "version: 1\ninclude: [./rules/more.yaml]\npackages: {}\n")
    home.put("project/rules/more.yaml", "version: 1\npackages: {}\n")
    home.own()
    script = "for f in outpass.yaml rules/more.yaml; do echo x >>$f; rm -f $f; mv $f y; done 2>/dev/null; mv rules z; true"
    done = outpass(home.path, "run", "--policy", "outpass.yaml", "--", "sh", "-c", script, cwd=home.project)
    assert done.returncode == 0, done.stderr
    for name in ("outpass.yaml", "rules/more.yaml"):
        assert (home.project / name).read_text().endswith("packages: {}\n"), done.stderr
