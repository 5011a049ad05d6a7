"""Where tools fetch packages from, by files that are really there."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpass import indexes


def urls(tool: str, root: Path, env: dict[str, str] | None = None) -> list[object]:
    found = indexes.rules(tool, env={"HOME": str(root / "home"), **(env or {})}, root=root)
    return [rule["url"] for rule in found.rules]


def put(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "sentence, tool, name, text, want",
    [
        ("pip, user", "pip", "home/.config/pip/pip.conf", "[global]\nindex-url = https://i.example/simple\n", ["https://i.example:443/"]),
        ("pip, old place", "pip", "home/.pip/pip.conf", "[install]\nindex-url = https://i.example/simple\n", ["https://i.example:443/"]),
        ("pip, system", "pip", "etc/pip.conf", "[global]\nindex-url: http://i.example:8080/\n", ["http://i.example:8080/"]),
        ("pip, extra and links", "pip", "etc/xdg/pip/pip.conf",
         "[global]\nindex-url=https://a.example/\nextra-index-url=https://b.example/ https://c.example/\nfind-links=\n  file:///srv\n  https://d.example/x\n",
         ["https://a.example:443/", "https://b.example:443/", "https://c.example:443/", "https://d.example:443/"]),
        ("pip, credentials", "pip", "etc/pip.conf", "[global]\nindex-url = https://me:p%40ss@i.example/simple\n", ["https://i.example:443/"]),
        ("uv, user", "uv", "home/.config/uv/uv.toml", 'index-url = "https://a.example/"\nextra-index-url = ["https://b.example/"]\n',
         ["https://a.example:443/", "https://b.example:443/"]),
        ("uv, tables", "uv", "etc/uv/uv.toml", '[[index]]\nname = "x"\nurl = "https://a.example/"\n[pip]\nindex-url = "https://b.example/"\n',
         ["https://a.example:443/", "https://b.example:443/"]),
        ("npm, user", "npm", "home/.npmrc", "registry=https://a.example/\n@corp:registry = https://b.example/npm/\n//a.example/:_authToken=x\n",
         ["https://a.example:443/", "https://b.example:443/"]),
    ],
)  # fmt: skip
def test_files(tmp_path: Path, sentence: str, tool: str, name: str, text: str, want: list[str]) -> None:
    put(tmp_path, name, text)
    assert urls(tool, tmp_path) == want, sentence


@pytest.mark.parametrize(
    "tool, env, want",
    [
        ("pip", {"PIP_INDEX_URL": "https://e.example/"}, ["https://e.example:443/"]),
        (
            "uv",
            {"UV_INDEX": "corp=https://e.example/?a=b https://f.example/", "UV_DEFAULT_INDEX": "https://d.example/"},
            ["https://d.example:443/", "https://e.example:443/", "https://f.example:443/"],
        ),
        ("npm", {"npm_config_registry": "https://e.example/"}, ["https://e.example:443/"]),
    ],
)
def test_variables(tmp_path: Path, tool: str, env: dict[str, str], want: list[str]) -> None:
    assert urls(tool, tmp_path, env) == want


@pytest.mark.parametrize(
    ("tool", "env"),
    [
        ("pip", {"PIP_EXTRA_INDEX_URL": "https://e.example/"}),
        ("pip", {"PIP_FIND_LINKS": "/srv/wheels", "PIP_EXTRA_INDEX_URL": "file:///srv/simple"}),
        ("uv", {"UV_INDEX": "https://e.example/"}),
    ],
)
def test_an_extra_index_stands_beside_the_default_and_not_in_its_place(tmp_path: Path, tool: str, env: dict[str, str]) -> None:
    plain = urls(tool, tmp_path, {})
    assert plain and set(urls(tool, tmp_path, env)) >= set(plain)


def test_the_users_file_goes_before_the_systems(tmp_path: Path) -> None:
    put(tmp_path, "home/.config/pip/pip.conf", "[global]\nindex-url = https://user.example/\n")
    put(tmp_path, "etc/pip.conf", "[global]\nindex-url = https://system.example/\n")
    assert urls("pip", tmp_path) == ["https://user.example:443/"]
    assert urls(
        "pip", tmp_path, {"PIP_CONFIG_FILE": str(put(tmp_path, "x.conf", "[global]\nindex-url = https://x.example/\n"))}
    ) == ["https://x.example:443/"]


def test_a_configured_index_may_be_private_and_is_read_only(tmp_path: Path) -> None:
    put(tmp_path, "etc/pip.conf", "[global]\nindex-url = https://i.example/\n")
    (rule,) = indexes.rules("pip", env={}, root=tmp_path).rules
    assert rule["methods"] == ["GET", "HEAD"] and "10.0.0.0/8" in str(rule["private"])


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_without_configuration_it_is_the_tools_own_default(tmp_path: Path, tool: str) -> None:
    found = indexes.rules(tool, env={}, root=tmp_path)
    assert len(found.rules) == 2 and not found.problems
    assert all("private" not in rule for rule in found.rules)


def test_npm_without_configuration_gets_nothing_and_says_so(tmp_path: Path) -> None:
    found = indexes.rules("npm", env={}, root=tmp_path)
    assert found.rules == [] and "npm has no index configured" in found.problems[0]


@pytest.mark.parametrize(
    "tool, name, content",
    [
        ("pip", "etc/pip.conf", b"no section\n"),
        ("pip", "etc/pip.conf", b"\xff\xfe"),
        ("uv", "etc/uv/uv.toml", b"= broken"),
    ],
)
def test_a_broken_file_is_a_warning_and_grants_nothing_more(tmp_path: Path, tool: str, name: str, content: bytes) -> None:
    put(tmp_path, name, "").write_bytes(content)
    found = indexes.rules(tool, env={}, root=tmp_path)
    assert any("cannot be read" in problem for problem in found.problems)


@pytest.mark.parametrize(
    "url", ["file:///srv/simple", "/srv/simple", "https://", "https://*.example/", "ftp://a.example/", "https://a b/"]
)
def test_what_is_no_index_on_the_network_is_left_out(tmp_path: Path, url: str) -> None:
    assert urls("npm", tmp_path, {"npm_config_registry": url}) == []
