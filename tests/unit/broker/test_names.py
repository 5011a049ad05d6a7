"""Who owns which file, and the map as shims read it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass.broker import names
from outpass.broker.distributions import Distribution

SITE = "/v/site-packages"


def dist(name: str, *files: str, version: str | None = "1", site: str = SITE) -> Distribution:
    return Distribution(name, version, site, [f"{site}/{f}" for f in files])


def laid_out(*found: Distribution, sites: tuple[str, ...] = (SITE,), roots: tuple[str, ...] = ()) -> dict:
    text = names.layout(sites, roots, found).text
    return json.loads('{"built":0,' + text)


def owner(body: dict, file: str) -> str | None:
    """As PROTOCOL.md reads a map: the file itself, else the nearest directory above it."""
    if file in body["files"]:
        return body["files"][file]
    directory = os.path.dirname(file)
    while len(directory) > 1:
        if directory in body["dirs"]:
            return body["dirs"][directory]
        directory = os.path.dirname(directory)
    return None


@pytest.mark.parametrize(
    ("why", "found", "dirs", "files"),
    [
        (
            "a directory of one distribution is one entry, all levels down",
            [dist("stripe", "stripe/__init__.py", "stripe/api/a.py", "stripe/api/b/c.py")],
            {"stripe": "stripe"},
            {},
        ),
        ("a single-file module is a file, and the site itself is nobody's", [dist("six", "six.py")], {}, {"six.py": "six"}),
        (
            "a namespace package is split below the shared level",
            [dist("a", "google/a/x.py", "google/__init__.py"), dist("b", "google/b/y.py")],
            {"google/a": "a", "google/b": "b"},
            {"google/__init__.py": "a"},
        ),
        (
            "a file dropped into another's package is its own, and the rest stays the other's",
            [dist("requests", "requests/__init__.py", "requests/util/u.py"), dist("evil", "requests/evil.py")],
            {"requests/util": "requests"},
            {"requests/__init__.py": "requests", "requests/evil.py": "evil"},
        ),
        (
            "two that claim one file: nobody's",
            [dist("a", "x/m.py", "x/n.py"), dist("b", "x/m.py")],
            {},
            {"x/m.py": "?", "x/n.py": "a"},
        ),
        ("the same distribution seen twice is no conflict", [dist("a", "x/m.py"), dist("a", "x/m.py")], {"x": "a"}, {}),
    ],
)
def test_ownership(why: str, found: list[Distribution], dirs: dict[str, str], files: dict[str, str]) -> None:
    body = laid_out(*found)
    assert body["dirs"] == {f"{SITE}/{d}": o for d, o in dirs.items()}, why
    assert body["files"] == {f"{SITE}/{f}": o for f, o in files.items()}, why


paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=0, max_size=3).flatmap(
    lambda parts: st.sampled_from(["m.py", "n.py"]).map(lambda name: "/".join([*parts, name]))
)


@given(st.dictionaries(st.sampled_from(["p", "q", "r"]), st.sets(paths, max_size=8), min_size=1))
def test_the_folded_map_says_the_same_as_the_list(claims: dict[str, set[str]]) -> None:
    """Invariant: for every claimed file the map names its one claimant, or `?` when there are several."""
    body = laid_out(*(dist(name, *sorted(files)) for name, files in claims.items()))
    for file in set().union(*claims.values()):
        owners = {name for name, files in claims.items() if file in files}
        assert owner(body, f"{SITE}/{file}") == (owners.pop() if len(owners) == 1 else "?")
    assert owner(body, f"{SITE}/unowned.py") is None


@pytest.mark.parametrize(
    ("why", "found", "versions"),
    [
        (
            "the first directory wins, as on sys.path",
            [dist("x", version="1", site="/a"), dist("x", version="2", site="/b")],
            {"x": "1"},
        ),
        ("two versions in one directory are none", [dist("x", version="1"), dist("x", version="2")], {}),
        ("three do not become one again", [dist("x", version="1"), dist("x", version="2"), dist("x", version="1")], {}),
        ("an unknown version is none", [dist("x", version=None)], {}),
    ],
)
def test_versions(why: str, found: list[Distribution], versions: dict[str, str]) -> None:
    assert names.layout((SITE,), (), found).versions == versions, why


@pytest.mark.parametrize(
    ("sites", "roots", "expected"),
    [
        ((SITE,), (), [SITE]),
        (("/usr/lib/python3.13",), (), []),
        (("/srv/app",), ("/srv/app",), []),
    ],
)
def test_only_directories_that_installers_fill_are_sites(
    sites: tuple[str, ...], roots: tuple[str, ...], expected: list[str]
) -> None:
    assert laid_out(sites=sites, roots=roots)["sites"] == expected


def test_vendored_distributions_beside_the_application_leave_it_the_application() -> None:
    body = laid_out(dist("six", "six.py", site="/srv/app"), sites=("/srv/app",), roots=("/srv/app",))
    assert body["sites"] == [] and body["files"] == {"/srv/app/six.py": "six"}


class TestMaps:
    """Files on disk."""

    def site(self, tmp_path: Path) -> Path:
        site = tmp_path / "site-packages"
        (site / "six-1.16.dist-info").mkdir(parents=True)
        (site / "six-1.16.dist-info" / "RECORD").write_text("six.py,,\n")
        (site / "six.py").write_text("")
        return site

    def maps(self, tmp_path: Path) -> names.Maps:
        (tmp_path / "maps").mkdir(mode=0o700)
        return names.Maps(tmp_path / "maps")

    def test_a_map_has_the_documented_fields_and_is_ours_alone(self, tmp_path: Path) -> None:
        site = self.site(tmp_path)
        before = time.time()
        made = self.maps(tmp_path).make([str(site)], [])
        body = json.loads(Path(made.path).read_text())
        assert list(body) == ["v", "built", "dirs", "files", "editable", "sites", "versions", "native"]
        assert body["v"] == 1 and before <= body["built"] <= time.time()
        assert body["files"] == {f"{site}/six.py": "six"} and body["versions"] == {"six": "1.16"}
        assert made.versions == {"six": "1.16"} and made.names == {"six"}
        assert os.stat(made.path).st_mode & 0o777 == 0o600

    def test_each_process_gets_a_map_of_its_own_date_and_an_upgrade_is_seen(self, tmp_path: Path) -> None:
        site, maps = self.site(tmp_path), self.maps(tmp_path)
        first, second = maps.make([str(site)], []), maps.make([str(site)], [])
        assert first.path != second.path and first.versions == second.versions
        (site / "six-1.16.dist-info").rename(site / "six-1.17.dist-info")
        assert maps.make([str(site)], []).versions == {"six": "1.17"}

    def test_both_spellings_of_a_linked_site_are_in_the_map(self, tmp_path: Path) -> None:
        site = self.site(tmp_path)
        link = tmp_path / "lib64"
        link.symlink_to(tmp_path)
        body = json.loads(Path(self.maps(tmp_path).make([f"{link}/site-packages"], []).path).read_text())
        assert set(body["files"]) == {f"{link}/site-packages/six.py", f"{site}/six.py"}

    def test_old_files_are_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "MAX_KEPT_FILES", 3)
        maps = self.maps(tmp_path)
        made = [maps.make([], []).path for _ in range(5)]
        assert [os.path.exists(p) for p in made] == [False, False, True, True, True]

    @pytest.mark.parametrize("paths", [["relative"], ["/no/such"], ["/etc/hostname"], ["/a\0b"], ["/proc/self/fd/999"], []])
    def test_paths_that_are_no_directories_are_nothing(self, tmp_path: Path, paths: list[str]) -> None:
        assert self.maps(tmp_path).make(paths, []).names == frozenset()
