"""git over smart HTTP, apt and cargo as they are, in the jail, started by a Python program: each is charged as itself and its spawner.

Judged at the servers, which are local: no registry and no mirror is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.files_server import FilesServer
from tests.support.git_server import GitServer, bare
from tests.support.homes import Home
from tests.support.installed import needs
from tests.support.jailed import identities
from tests.support.runs import Run, apps

ROOT, USER = (pytest.mark.parametrize("home", [who], indirect=True) for who in identities())
"""One of the two each, for time: test_programs.py has both. apt as root, whose methods run as another user."""
SPAWNER = "import subprocess, sys\nsys.exit(subprocess.run(sys.argv[1:]).returncode)\n"


def policy(program: str, *urls: str) -> str:
    listed = ", ".join(f'"{url}"' for url in urls)
    granted = f"{{allow: [network:http], http: [{listed}]}}"
    return f'version: 1\npackages:\n  "exe:{program}": {granted}\n  app: {granted}\n'


def spawned(home: Home, rules: str, script: str, *options: str, ca: Path, **env: str) -> Run:
    """A shell script, as the child of a Python program that is the application."""
    home.put("project/main.py", SPAWNER)
    return home.run(rules, [str(apps()), "main.py", "sh", "-ec", script], *options, ca=ca, **env)


def charged(run: Run) -> set[tuple[str, ...]]:
    """The chains of what was allowed, look-ups aside (nobody knows who asks the nameserver)."""
    return {tuple(r["chain"]) for r in run.records if r["verdict"] == "allow" and r["capability"] == "network:http"}


@USER
def test_git_clones_pushes_and_fetches_over_smart_http(home: Home, tmp_path: Path) -> None:
    needs("git")
    made = bare(tmp_path, 40)
    script = """
        git clone -q https://git.example.com/repo.git one
        git clone -q https://git.example.com/repo.git two
        cd one
        head -c 3000000 /dev/urandom >large
        git add large
        git -c user.name=t -c user.email=t@example.com commit -q -m large
        git push -q origin HEAD:main                       # beyond http.postBuffer: chunked
        cd ../two
        git fetch -q && git rev-parse origin/main
        git push -q https://git.example.com/other.git HEAD:main && exit 1
        git clone -q https://evil.example/repo.git evil && exit 1
        exit 0
    """
    with GitServer(tmp_path, "git.example.com", tmp_path) as server:
        rules = policy("git", "https://git.example.com/repo.git/**")
        run = spawned(home, rules, script, *server.connect_to(), ca=server.ca_file, GIT_TERMINAL_PROMPT="0")
    assert run.code == 0, run.said()
    head = subprocess.run(["git", "-C", str(made), "rev-parse", "main"], capture_output=True, text=True, check=True)
    assert head.stdout == run.out, "what was pushed is what was fetched"
    assert any(asked.chunked for asked in server.seen) and any(asked.encoding == "gzip" for asked in server.seen), server.seen
    assert {asked.path.split("/")[1] for asked in server.seen} == {"repo.git"}
    assert charged(run) == {("exe:git", "app")}, run.said()
    assert {r["host"] for r in run.records if r["verdict"] == "deny"} == {"git.example.com", "evil.example"}, run.said()


def flat_repository(where: Path) -> None:
    """A Debian repository without a dist tree: one package and its index (deb822, sources.list(5))."""
    control = "Package: outpass-probe\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@example.com>\nDescription: probe\n"
    tree = where / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(control)
    served = where / "served"
    served.mkdir()
    deb = served / "outpass-probe_1.0_all.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", str(tree), str(deb)], check=True, capture_output=True)
    content = deb.read_bytes()
    found = f"Filename: {deb.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    (served / "Packages").write_text(control + found + "\n")


@ROOT
def test_apt_updates_and_downloads_and_is_refused_elsewhere(home: Home, tmp_path: Path) -> None:
    needs("apt-get")
    needs("dpkg-deb")
    flat_repository(tmp_path)
    home.path.chmod(0o711)  # apt's methods run as _apt, who must find the CA
    for name in ("lists/partial", "cache/archives/partial", "state"):
        (home.path / name).mkdir(parents=True)
    (home.path / "state" / "status").touch()
    home.put("sources.list", "deb [trusted=yes] https://deb.example.com/ /\n")
    home.put("evil.list", "deb [trusted=yes] https://evil.example/ /\n")
    home.put("apt.conf", f"""
        Dir::State "{home.path}/state"; Dir::State::lists "{home.path}/lists"; Dir::State::status "{home.path}/state/status";
        Dir::Cache "{home.path}/cache"; Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "-";
        Acquire::Languages "none"; Acquire::Retries "0"; APT::Update::Error-Mode "any"; Acquire::Check-Date "false";
    """)  # fmt: skip
    script = f"""
        apt="apt-get -q -c {home.path}/apt.conf"
        $apt -o Dir::Etc::sourcelist={home.path}/sources.list update
        $apt -o Dir::Etc::sourcelist={home.path}/sources.list download outpass-probe
        $apt -o Dir::Etc::sourcelist={home.path}/evil.list update && exit 1
        exit 0
    """
    with FilesServer(tmp_path / "served", "deb.example.com", tmp_path) as server:
        rules = policy("apt", "https://deb.example.com/**")
        run = spawned(home, rules, script, *server.connect_to(), ca=server.ca_file)
    assert run.code == 0, run.said()
    assert (home.project / "outpass-probe_1.0_all.deb").read_bytes() == (
        tmp_path / "served/outpass-probe_1.0_all.deb"
    ).read_bytes()
    assert charged(run) == {("exe:apt", "app")}, run.said()
    assert {r["host"] for r in run.records if r["verdict"] == "deny"} == {"evil.example"}, run.said()


def sparse_registry(where: Path) -> None:
    """A registry with one crate (doc.rust-lang.org/cargo/reference/registry-index.html)."""
    files = {"Cargo.toml": '[package]\nname = "tinything"\nversion = "1.0.0"\n', "src/lib.rs": "pub fn tiny() {}\n"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"tinything-1.0.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    line = {"name": "tinything", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
    line["cksum"] = hashlib.sha256(packed.getvalue()).hexdigest()
    for name, content in (
        ("index/config.json", json.dumps({"dl": "https://crates.example.com/dl/{crate}-{version}.crate"}).encode()),
        ("index/ti/ny/tinything", json.dumps(line).encode() + b"\n"),
        ("dl/tinything-1.0.0.crate", packed.getvalue()),
    ):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)


@USER
def test_cargo_fetches_from_a_sparse_registry(home: Home, tmp_path: Path) -> None:
    cargo = needs("cargo")
    version = re.search(r"cargo 1\.(\d+)", subprocess.run([cargo, "-V"], capture_output=True, text=True, check=False).stdout)
    if version is None:
        pytest.skip("cargo does not say its version")
    unstable = "-Z sparse-registry" if int(version[1]) < 68 else ""
    sparse_registry(tmp_path)
    home.put("project/Cargo.toml", '[package]\nname = "t"\nversion = "0.1.0"\n[dependencies]\ntinything = {version = "1", registry = "local"}\n')  # fmt: skip
    home.put("project/src/main.rs", "fn main() {}\n")
    home.put(".cargo/config.toml", '[registries.local]\nindex = "sparse+https://crates.example.com/index/"\n[net]\nretry = 0\n')
    with FilesServer(tmp_path, "crates.example.com", tmp_path) as server:
        options = [*server.connect_to()]
        rules = policy("cargo", "https://crates.example.com/**")
        script, env = (
            f"{cargo} {unstable} fetch",
            {"RUSTC": needs("rustc"), "RUSTC_BOOTSTRAP": "1", "CARGO_HOME": str(home.path / ".cargo")},
        )
        run = spawned(home, rules, script, *options, ca=server.ca_file, **env)
        assert run.code == 0 and list((home.path / ".cargo").rglob("tinything-1.0.0.crate")), run.said()
        assert charged(run) == {("exe:cargo", "app")}, run.said()
        asked = len(server.seen)
        shutil.rmtree(home.path / ".cargo" / "registry")
        (home.project / "Cargo.lock").unlink()
        refused = spawned(home, policy("git", "https://crates.example.com/**"), script, *options, ca=server.ca_file, **env)
    assert refused.code not in (0, 125) and len(server.seen) == asked, refused.said()
