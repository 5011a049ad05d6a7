"""What exe:NAME stands for: aliases, scripts, and the system's own directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpass import files
from outpass.policy import programs

PRESET = files.load(files.Source(None, ("exe:git=https://x.example.com/",)), env={}).policy.programs


@pytest.mark.parametrize(
    ("exe", "script", "name"),
    [
        ("/usr/bin/curl", None, "exe:curl"),
        ("/usr/bin/git", None, "exe:git"),
        ("/usr/lib/git-core/git-remote-http", None, "exe:git"),
        ("/usr/lib/apt/methods/http", None, "exe:apt"),
        ("/usr/bin/node", "/usr/lib/node_modules/npm/bin/npm-cli.js", "exe:npm"),
        ("/usr/bin/node", "/srv/app/server.js", "exe:node"),
        ("/usr/bin/node", None, "exe:node"),
        ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "-jar", "exe:java"),
        ("/home/me/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/bin/cargo", "build", "exe:cargo"),
        ("/usr/lib/postgresql/15/bin/psql", None, "exe:psql"),
        ("/tmp/curl", None, None),
        ("/home/me/bin/git", None, None),
        ("/usr/bin/sub/curl", None, None),
        ("/usr/bin/curl (deleted)", None, None),
        ("/usr/bin/-", None, None),
        ("", None, None),
    ],
)
def test_names(exe: str, script: str | None, name: str | None) -> None:
    assert programs.principal(PRESET, exe, script) == name


def test_an_alias_says_all_that_its_name_means() -> None:
    table = {"curl": ("/opt/curl/bin/curl",)}
    assert programs.principal(table, "/opt/curl/bin/curl", None) == "exe:curl"
    assert programs.principal(table, "/usr/bin/curl", None) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("git", "not the absolute path"),
        ("/usr/bin/", "not the absolute path"),
        ("/usr/../bin/git", "dot segments"),
        ("/usr/bin/**git", "dot segments"),
        ("/**", "every program"),
        ("/usr/bin/*", "every program"),
        ("/a /b /c", "not a path"),
        ("", "not a path"),
    ],
)
def test_what_is_no_alias(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        programs.alias(text)


def test_a_policy_that_names_no_program_has_no_aliases(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\npackages: {stripe: {allow: []}}\n")
    assert files.load(files.Source(file), env={}).policy.programs == {}


def test_aliases_of_several_files_unite_and_are_in_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('version: 1\ninclude: [./b.yaml]\nprograms: {tool: ["/opt/a/tool"]}\npackages: {}\n')
    (tmp_path / "b.yaml").write_text('version: 1\nprograms: {tool: ["/opt/b/tool"]}\npackages: {}\n')
    loaded = files.load(files.Source(tmp_path / "a.yaml"), env={})
    assert loaded.policy.programs == {"tool": ("/opt/a/tool", "/opt/b/tool")}
    (tmp_path / "b.yaml").write_text("version: 1\npackages: {}\n")
    assert files.load(files.Source(tmp_path / "a.yaml"), env={}).digest != loaded.digest
