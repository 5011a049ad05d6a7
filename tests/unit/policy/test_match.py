"""Which rules an index finds, small or large."""

from __future__ import annotations

import pytest

from outpass.policy import pattern
from outpass.policy.match import Index, segments
from outpass.policy.rules import Rule


def rules(*texts: str, key: str = "http") -> list[Rule]:
    return [Rule("p.yaml", n, *pattern.PARSERS[key](text)) for n, text in enumerate(texts, 1)]


@pytest.mark.parametrize(
    "glob, path, covers",
    [
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/", False),
        ("/a/*", "/a/b/c", False),
        ("/a/*/c", "/a/b/c", True),
        ("/a/x*", "/a/x", True),
        ("/a/x*", "/a/xyz", True),
        ("/a/*x*z", "/a/1x2z", True),
        ("/a/*x*z", "/a/zx", False),
        ("/a/x*x", "/a/x", False),
        ("/a/**", "/a/", True),
        ("/a/**", "/a/b/c", True),
        ("/a/**", "/a", False),
        ("/a/**", "/ab", False),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z", True),
        ("/a/**/z", "/a/b/zz", False),
        ("/a/**/b/**", "/a/b/", True),
        ("/a/**/b/**", "/a/b", False),
        ("/a/**/b/**", "/a/x/b/y/z", True),
        ("/**/x/**/y", "/a/x/b/x/y", True),
        ("/**/x/**/y", "/a/x/b/y/c", False),
        ("/*/x", "//x", False),
        ("/a%2Fb", "/a%2Fb", True),
        ("/a%2Fb", "/a/b", False),
        ("/*", "/a%2Fb", True),
        ("/A", "/a", False),
    ],
)
def test_globs(glob: str, path: str, covers: bool) -> None:
    (rule,) = rules(f"https://h.example{glob}")
    assert (Index([rule]).find("https", "h.example", 443, "GET", path, 0.0) is not None) is covers


def test_no_glob_is_slow_whatever_path_is_asked_for() -> None:
    """A path is the attacker's; with a backtracking matcher this one would outlast the test run."""
    glob = (*(("**", "a") * 20), "z")
    assert not segments(glob, ["a"] * 4000)


def test_a_host_with_many_paths_finds_the_same_as_one_with_few() -> None:
    texts = [f"https://h.example/v{n}/{kind}" for n in range(40) for kind in ("one", "dir/**", "*/x", "**/y")]
    large = Index(rules(*texts))
    for n in (0, 17, 39):
        for path in ("one", "two", "dir/", "dir/a/b", "dir", "q/x", "a/b/y", "y", ""):
            small = Index(rules(*texts[4 * n : 4 * n + 4]))
            want = small.find("https", "h.example", 443, "GET", f"/v{n}/{path}", 0.0)
            got = large.find("https", "h.example", 443, "GET", f"/v{n}/{path}", 0.0)
            assert (got.ref.text if got else None) == (want.ref.text if want else None), path


def test_a_large_bucket_knows_ports_and_whole_hosts() -> None:
    index = Index(rules(*(f"https://h.example:{8000 + n}/x" for n in range(20)), "https://h.example:9000/"))
    assert index.find("https", "h.example", 8007, "GET", "/x", 0.0)
    assert not index.find("https", "h.example", 8007, "GET", "/y", 0.0)
    assert index.find("https", "h.example", 9000, "GET", "/deep/er", 0.0)
    assert index.find("https", "h.example", 8019, None, None, 0.0)
    assert not index.find("https", "h.example", 8020, None, None, 0.0)
    assert not index.find("http", "h.example", 8007, "GET", "/x", 0.0)


def test_networks_ranges_and_ports_without_address() -> None:
    index = Index(rules("10.0.0.0/8:1-100", "10.1.0.0/16:200", "[fd00::/8]:1", "h.example:*", key="socket"))
    assert index.find("tcp", "10.9.9.9", 50, None, None, 0.0)
    assert not index.find("tcp", "10.9.9.9", 200, None, None, 0.0)
    assert index.find("tcp", "10.1.9.9", 200, None, None, 0.0)
    assert index.find("tcp", "fd12::1", 1, None, None, 0.0)
    assert not index.find("tcp", "11.0.0.1", 50, None, None, 0.0)
    assert index.find("tcp", "h.example", 65535, None, None, 0.0)
    assert not index.find("udp", "h.example", 1, None, None, 0.0)
    assert Index(rules("8000", key="listen")).find("listen", "0.0.0.0", 8000, None, None, 0.0)


def test_an_expired_rule_is_matched_but_not_found() -> None:
    (rule,) = rules("https://h.example/")
    index = Index([rule._replace(expires=10.0)])
    assert index.find("https", "h.example", 443, "GET", "/", 9.9)
    assert not index.find("https", "h.example", 443, "GET", "/", 10.0)
    assert list(index.matching("https", "h.example", 443, "GET", "/"))
