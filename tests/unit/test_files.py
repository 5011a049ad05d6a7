"""Policies on disk: files, includes, presets, the command line's allowlist, discovery."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpass import files
from outpass.errors import PolicyError, UsageError
from outpass.policy.compiled import compile_policy as compile_
from outpass.policy.decide import decide
from tests.support.policies import NOW, ask

STRIPE = 'version: 1\npackages: {stripe: {allow: [network:http], http: ["https://api.stripe.com/"]}}\n'


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "XDG_CONFIG_DIRS": str(tmp_path / "xdg")}


def load(path: Path, env: dict[str, str]) -> files.Loaded:
    return files.load(files.Source(path), env=env, now=NOW)


def faults(path: Path, env: dict[str, str]) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(path, env)
    return [str(f) for f in caught.value.faults]


def allowed(loaded: files.Loaded, chain: str, url: str) -> bool:
    return decide(compile_(loaded.policy), ask(chain, url), now=NOW).allowed


def test_a_file_and_what_it_includes(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text(
        'version: 1\ninclude: [more.yaml]\npackages: {a: {allow: [network:http], http: ["https://a.example/"]}}\n'
    )
    (tmp_path / "sub" / "more.yaml").write_text(
        'version: 1\npackages: {b: {allow: [network:http], http: ["https://b.example/"]}}\n'
    )
    root = tmp_path / "outpass.yaml"
    root.write_text("version: 1\ninclude: [preset:http-clients, ./sub/base.yaml, sub/more.yaml]\n")
    loaded = load(root, env)
    assert allowed(loaded, "requests > a > app", "GET https://a.example/")
    assert allowed(loaded, "b > app", "GET https://b.example/")
    assert loaded.files == (root, tmp_path / "sub" / "base.yaml", tmp_path / "sub" / "more.yaml")
    assert loaded.digest == compile_(loaded.policy).digest
    assert loaded.policy.packages["b"].file.endswith("sub/more.yaml")


def test_a_missing_file(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "nowhere.yaml"
    assert faults(path, env) == [f"{path}:1:1: cannot be read: no such file or directory"]


def test_a_directory(tmp_path: Path, env: dict[str, str]) -> None:
    assert faults(tmp_path, env) == [f"{tmp_path}:1:1: cannot be read: is a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(STRIPE)
    path.chmod(0)
    assert faults(path, env) == [f"{path}:1:1: cannot be read: permission denied"]


def test_an_empty_file(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("")
    assert faults(path, env) == [f"{path}:1:1: the policy is empty"]


def test_a_file_that_is_too_large_is_read_up_to_the_cap(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "p.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than 32 MiB" in faults(path, env)[0]


@pytest.mark.parametrize("kind", ["a pipe with a name", "a device", "an include that is a pipe"])
def test_what_is_no_regular_file_is_not_waited_for(kind: str, tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "p.yaml"
    os.mkfifo(tmp_path / "pipe")
    path.write_text("version: 1\ninclude: [pipe]\n")
    asked = {"a pipe with a name": tmp_path / "pipe", "a device": Path("/dev/zero")}.get(kind, path)
    assert "it is not a regular file" in faults(asked, env)[0]


@pytest.mark.parametrize(
    "sentence, include, fault",
    [
        ("a missing include", "nope.yaml", "2:11: {dir}/nope.yaml cannot be read: no such file or directory"),
        ("an unknown preset", "preset:nope", "2:11: there is no preset 'nope'"),
        ("a preset with a path", '"preset:../cases/x"', "2:11: there is no preset '../cases/x'"),
        ("a home directory", '"~/p.yaml"', "2:11: '~/p.yaml': ~ is not expanded here"),
        ("itself", "p.yaml", "2:11: include goes in a circle: p.yaml → p.yaml"),
        ("a number", "7", "2:11: include: item 1 must be text, not the number 7"),
        ("a broken file", "broken.yaml", None),
    ],
)
def test_includes_that_fail_do_so_at_their_line(
    tmp_path: Path, env: dict[str, str], sentence: str, include: str, fault: str | None
) -> None:
    (tmp_path / "broken.yaml").write_text("version: 1\npackges: {}\n")
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\ninclude: [{include}]\n")
    want = f"{path}:{fault.format(dir=tmp_path)}" if fault else f"{tmp_path}/broken.yaml:2:1: unknown key 'packges'"
    assert faults(path, env) == [want], sentence


def test_a_circle_through_other_files_and_links(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\ninclude: [b.yaml]\n")
    (tmp_path / "b.yaml").write_text("version: 1\ninclude: [link.yaml]\n")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "a.yaml")
    assert "include goes in a circle: a.yaml → b.yaml → a.yaml" in faults(tmp_path / "a.yaml", env)[0]


def test_includes_without_end(tmp_path: Path, env: dict[str, str]) -> None:
    for n in range(70):
        (tmp_path / f"{n}.yaml").write_text(f"version: 1\ninclude: [{n + 1}.yaml]\n")
    assert "more than 64 files" in faults(tmp_path / "0.yaml", env)[0]


def test_the_command_line_allowlist(env: dict[str, str]) -> None:
    source = files.Source(
        None,
        (
            "https://any.example/",
            "stripe=https://api.stripe.com/v1/",
            "stripe=POST https://b.example/",
            "https://c.example/?"[:-1],
        ),
    )
    loaded = files.load(source, env=env, now=NOW)
    assert allowed(loaded, "left-pad > app", "GET https://any.example/x")
    assert allowed(loaded, "requests > stripe > app", "GET https://api.stripe.com/v1/x")
    assert allowed(loaded, "stripe > app", "POST https://b.example/x")
    assert not allowed(loaded, "left-pad > app", "GET https://api.stripe.com/v1/x")
    assert "requests" in loaded.policy.transparent and "sentry-sdk" in loaded.policy.instruments
    rule = decide(compile_(loaded.policy), ask("stripe", "POST https://b.example/x"), now=NOW).rule
    assert str(rule) == "--allow:3"


def test_a_faulty_allowlist_names_the_option_and_the_right_text(env: dict[str, str]) -> None:
    with pytest.raises(PolicyError) as caught:
        files.load(files.Source(None, ("https://a.example/", "stripe=api.stripe.com")), env=env)
    assert str(caught.value.faults[0]) == "--allow:2:1: 'api.stripe.com' is not a URL: it has no scheme"
    assert caught.value.hint == "write https://api.stripe.com"


def test_an_allowlist_beside_a_file_unites_with_it(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "p.yaml").write_text(STRIPE)
    loaded = files.load(files.Source(tmp_path / "p.yaml", ("app=https://b.example/",)), env=env, now=NOW)
    assert allowed(loaded, "stripe", "GET https://api.stripe.com/") and allowed(loaded, "app", "GET https://b.example/")


def test_deny_all_denies_all(env: dict[str, str]) -> None:
    loaded = files.load(files.Source(None, deny_all=True), env=env)
    assert not allowed(loaded, "app", "GET https://example.com/")


@pytest.mark.parametrize(
    "source",
    [
        files.Source(None),
        files.Source(None, ("https://a.example/",), True),
        files.Source(Path("p.yaml"), (), True),
        files.Source(None, deny_all=True, mode="observe"),
    ],
    ids=["nothing", "allow and deny", "a file and deny", "an unknown mode"],
)
def test_options_that_exclude_each_other(source: files.Source, env: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        files.load(source, env=env)


def test_the_operator_may_set_the_mode(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "p.yaml").write_text(STRIPE)
    assert files.load(files.Source(tmp_path / "p.yaml", mode="audit"), env=env).policy.mode == "audit"


def test_warnings_come_with_a_policy_that_is_in_force(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\ninclude: [preset:http-clients]\npackages: {a: {allow: [network:http]}}\n")
    (warning,) = load(tmp_path / "p.yaml", env).warnings
    assert str(warning).startswith(f"{tmp_path}/p.yaml:3:1: a has network:http and no http: list")


def test_every_preset_loads(tmp_path: Path, env: dict[str, str]) -> None:
    found = sorted(p.stem for p in (files.policies() / "presets").glob("*.yaml"))
    assert {"http-clients", "instruments", "python-packaging"} <= set(found)
    for name in found:
        (tmp_path / "p.yaml").write_text(f"version: 1\ninclude: [preset:{name}]\n")
        assert load(tmp_path / "p.yaml", env).policy


def test_the_packaging_preset_follows_the_users_index_and_never_the_projects(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(env["HOME"]) / ".config" / "pip"
    config.mkdir(parents=True)
    (config / "pip.conf").write_text("[global]\nindex-url = https://me:pw@index.corp.example/simple/\n")
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pip.conf", "uv.toml", ".npmrc"):
        (project / name).write_text('index-url = "https://evil.example/"\nregistry=https://evil.example/\n')
    (project / "outpass.yaml").write_text("version: 1\ninclude: [preset:python-packaging]\n")
    monkeypatch.chdir(project)
    loaded = load(project / "outpass.yaml", env)
    assert allowed(loaded, "pip > app", "GET https://index.corp.example/packages/x.whl")
    assert not allowed(loaded, "pip > app", "POST https://index.corp.example/simple/")
    assert not allowed(loaded, "pip > app", "GET https://evil.example/")
    assert not any("pw" in rule.text for package in loaded.policy.packages.values() for r in package.lists.values() for rule in r)


def test_a_file_of_ones_own_cannot_ask_for_the_index(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "p.yaml").write_text('version: 1\npackages: {a: {http: ["index:pip"]}}\n')
    assert "'index:pip' is not a URL" in faults(tmp_path / "p.yaml", env)[0]


def test_discovery_ends_at_the_repository(tmp_path: Path) -> None:
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "outpass.yaml").touch()
    assert files.discover(inner) is None
    (tmp_path / "repo" / ".git").mkdir()
    assert files.discover(inner) is None
    (tmp_path / "repo" / ".outpass.yaml").touch()
    assert files.discover(inner) == tmp_path / "repo" / ".outpass.yaml"
    (tmp_path / "repo" / "a" / "outpass.yaml").touch()
    assert files.discover(inner) == tmp_path / "repo" / "a" / "outpass.yaml"


def test_outside_a_repository_only_the_directory_itself_counts(tmp_path: Path) -> None:
    (tmp_path / "outpass.yaml").touch()
    (tmp_path / "a").mkdir()
    assert files.discover(tmp_path / "a") is None
    assert files.discover(tmp_path) == tmp_path / "outpass.yaml"


def test_trust_ends_with_any_change_of_the_file_or_its_includes(tmp_path: Path, env: dict[str, str]) -> None:
    root, base = tmp_path / "outpass.yaml", tmp_path / "base.yaml"
    root.write_text("version: 1\ninclude: [base.yaml]\n")
    base.write_text(STRIPE)
    assert not files.trust_of(root, env=env)
    digest = files.trust(root, env=env)
    assert len(digest) == 64 and files.trust_of(root, env=env)
    base.write_text(STRIPE + "# changed\n")
    assert not files.trust_of(root, env=env)
    files.trust(root, env=env)
    root.write_text("version: 1\ninclude: [base.yaml]\nmode: audit\n")
    assert not files.trust_of(root, env=env)


def test_what_was_found_trusted_is_what_is_loaded(tmp_path: Path, env: dict[str, str]) -> None:
    """Between the two, somebody may write: a program of the project, which the policy is there to hold."""
    root, base = tmp_path / "outpass.yaml", tmp_path / "base.yaml"
    root.write_text("version: 1\ninclude: [base.yaml]\n")
    base.write_text(STRIPE)
    assert files.trust_of(root, env=env) is None
    files.trust(root, env=env)
    found = files.trust_of(root, env=env)
    assert files.load(files.Source(root, digest=found), env=env).policy.packages
    base.write_text(STRIPE + "# changed\n")
    with pytest.raises(UsageError, match="changed after it was found trusted"):
        files.load(files.Source(root, digest=found), env=env)
    assert files.load(files.Source(root), env=env).policy.packages


def test_trust_is_of_one_place(tmp_path: Path, env: dict[str, str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "outpass.yaml").write_text(STRIPE)
    files.trust(tmp_path / "a" / "outpass.yaml", env=env)
    assert files.trust_of(tmp_path / "a" / "outpass.yaml", env=env)
    assert not files.trust_of(tmp_path / "b" / "outpass.yaml", env=env)


def test_a_broken_policy_is_not_trusted(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "outpass.yaml"
    path.write_text("version: 1\npackges: {}\n")
    with pytest.raises(PolicyError):
        files.trust(path, env=env)
    assert not files.trust_of(path, env=env)
    assert not files.trust_of(tmp_path / "nowhere.yaml", env=env)
