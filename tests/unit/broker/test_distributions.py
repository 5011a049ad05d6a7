"""What is read from an installation, honest, broken or hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpass.broker import distributions
from outpass.broker.distributions import Distribution


def install(site: Path, name: str, version: str, files: list[str], *, record: str | None = None, kind: str = "dist") -> Path:
    """An installed distribution: its files, and metadata that lists them."""
    info = site / f"{name}-{version}.{kind}-info"
    info.mkdir(parents=True)
    for file in files:
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    lines = "".join(f"{file},sha256=x,0\n" for file in files) + f"{info.name}/RECORD,,\n"
    (info / "RECORD").write_text(lines if record is None else record)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nbody\n")
    return info


def only(site: Path, roots: tuple[str, ...] = ()) -> Distribution:
    found = distributions.find([str(site)], roots, 10_000)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("why", "folder", "name", "version"),
    [
        ("the name is put into normal form", "Django_Foo.Bar-1.2.dist-info", "django-foo-bar", "1.2"),
        ("a distribution called app is not the application", "app-1.0.dist-info", "pkg:pypi/app", "1.0"),
        ("nor may one be called unattributed", "unattributed-1.0.dist-info", "pkg:pypi/unattributed", "1.0"),
        ("an egg-info of a Python version", "thing-2.0-py3.12.egg-info", "thing", "2.0"),
        ("a local version", "torch-2.1+cu118.dist-info", "torch", "2.1+cu118"),
        ("a version that is no version is not passed on", "x-1.0 evil@2.dist-info", "x", None),
    ],
)
def test_a_distribution_is_named_as_a_chain_names_it(
    tmp_path: Path, why: str, folder: str, name: str, version: str | None
) -> None:
    (tmp_path / folder).mkdir()
    found = only(tmp_path)
    assert (found.name, found.version) == (name, version), why


def test_the_record_lists_code_below_the_site_only(tmp_path: Path) -> None:
    record = 'a.py,,\nb/c.py,,\n../../../bin/tool,,\n../../other/evil.py,,\n/etc/passwd.py,,\nb/__pycache__/c.pyc,,\nb/d.txt,,\n"q,1.py",,\n\n'
    install(tmp_path / "site", "x", "1", [], record=record)
    site = str(tmp_path / "site")
    assert only(tmp_path / "site").files == [f"{site}/a.py", f"{site}/b/c.py", f"{site}/q,1.py"]


@pytest.mark.parametrize(
    ("file", "native"), [("x/_c.cpython-313-x86_64-linux-gnu.so", True), ("x.libs/libz.so.1.2", True), ("x/a.py", False)]
)
def test_compiled_code_makes_a_distribution_native(tmp_path: Path, file: str, native: bool) -> None:
    install(tmp_path, "x", "1", [file])
    assert only(tmp_path).native is native


@pytest.mark.parametrize("broken", ["", "\x00\x00", '"unclosed,,\nx.py', "\n\n\n", ",,,\n", "\udcff.py,,"])
def test_a_broken_record_costs_itself_only(tmp_path: Path, broken: str) -> None:
    info = install(tmp_path, "broken", "1", [])
    (info / "RECORD").write_bytes(broken.encode("utf-8", "surrogateescape"))
    install(tmp_path, "good", "1", ["good.py"])
    found = {d.name: d.files for d in distributions.find([str(tmp_path)], (), 10_000)}
    assert found["good"] == [str(tmp_path / "good.py")]


def test_a_record_that_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    info = install(tmp_path, "x", "1", ["x.py"])
    (info / "RECORD").unlink()
    os.mkfifo(info / "RECORD")  # opening it for reading would block for ever
    assert only(tmp_path).files == []


def test_a_record_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "MAX_RECORD", 10)
    install(tmp_path, "x", "1", ["long_enough_name.py"])
    assert only(tmp_path).files == []


def test_files_beyond_the_limit_are_owned_by_nobody(tmp_path: Path) -> None:
    install(tmp_path, "x", "1", [f"x/f{n}.py" for n in range(20)])
    assert len(distributions.find([str(tmp_path)], (), 5)[0].files) == 5


def test_an_unreadable_directory_holds_nothing(tmp_path: Path) -> None:
    assert distributions.find([str(tmp_path / "nowhere")], (), 10) == []


def test_without_a_record_the_top_level_names_count(tmp_path: Path) -> None:
    info = install(tmp_path, "legacy", "1", ["legacy/__init__.py", "single.py"], kind="egg")
    (info / "RECORD").unlink()
    (info / "top_level.txt").write_text("legacy\nsingle\nmissing\n../evil\n")
    assert only(tmp_path).files == [str(tmp_path / "legacy/__init__.py"), str(tmp_path / "single.py")]


def test_installed_files_of_an_egg_info_are_relative_to_it(tmp_path: Path) -> None:
    info = install(tmp_path, "legacy", "1", ["legacy/a.py"], kind="egg")
    (info / "RECORD").unlink()
    (info / "installed-files.txt").write_text("../legacy/a.py\nPKG-INFO\n../../outside.py\n")
    assert only(tmp_path).files == [str(tmp_path / "legacy/a.py")]


class TestEditable:
    """Installations whose code stays where it is developed."""

    def test_its_own_pth_file_says_where_its_code_is(self, tmp_path: Path) -> None:
        site, source = tmp_path / "site", tmp_path / "lib" / "src"
        source.mkdir(parents=True)
        install(site, "mylib", "1", ["_mylib.pth"])
        (site / "_mylib.pth").write_text(f"# comment\nimport os; os.system('never')\n{source}\n")
        assert only(site).editable == [f"{source}/"]

    def test_a_finder_is_read_and_never_run(self, tmp_path: Path) -> None:
        site, source = tmp_path / "site", tmp_path / "lib" / "mylib"
        source.mkdir(parents=True)
        install(site, "mylib", "1", ["__editable___mylib_finder.py"])
        text = f"raise SystemExit\nMAPPING: dict[str, str] = {{'mylib': {str(source)!r}}}\nNAMESPACES = {{}}\n"
        (site / "__editable___mylib_finder.py").write_text(text)
        assert only(site).editable == [f"{source}/"]

    def test_direct_url_is_the_last_resort(self, tmp_path: Path) -> None:
        site, source = tmp_path / "site", tmp_path / "my lib"
        source.mkdir()
        info = install(site, "mylib", "1", [])
        (info / "direct_url.json").write_text(f'{{"url":"{source.as_uri()}","dir_info":{{"editable":true}}}}')
        assert only(site).editable == [f"{source}/"]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            '{"url":5,"dir_info":{"editable":true}}',
            '{"url":"file:///x","dir_info":{}}',
            '{"dir_info":[]}',
            "[" * 100_000,
        ],
    )
    def test_a_broken_direct_url_says_nothing(self, tmp_path: Path, text: str) -> None:
        info = install(tmp_path, "mylib", "1", [])
        (info / "direct_url.json").write_text(text)
        assert only(tmp_path).editable == []

    @pytest.mark.parametrize("claim", ["/", "/usr", "relative", "SITE", "ABOVE"])
    def test_nobody_can_claim_the_disk_or_the_site_itself(self, tmp_path: Path, claim: str) -> None:
        site = tmp_path / "venv" / "site"
        install(site, "greedy", "1", ["greedy.pth"])
        named = {"SITE": str(site), "ABOVE": str(tmp_path / "venv")}.get(claim, claim)
        (site / "greedy.pth").write_text(named + "\n")
        allowed = [f"{site}/relative/"] if claim == "relative" else []
        assert only(site).editable == allowed

    @pytest.mark.parametrize(
        ("root", "editable"), [("lib", []), ("lib/src", []), (".", ["lib/src/"]), ("elsewhere", ["lib/src/"])]
    )
    def test_the_application_installed_into_its_own_environment_stays_the_application(
        self, tmp_path: Path, root: str, editable: list[str]
    ) -> None:
        site, source = tmp_path / "site", tmp_path / "lib" / "src"
        source.mkdir(parents=True)
        install(site, "myapp", "1", ["_myapp.pth"])
        (site / "_myapp.pth").write_text(f"{source}\n")
        found = only(site, (os.path.normpath(tmp_path / root),))
        assert found.editable == [f"{tmp_path}/{e}" for e in editable]


def test_the_fingerprint_changes_with_the_installation(tmp_path: Path) -> None:
    install(tmp_path, "x", "1", ["x.py"])
    before = distributions.fingerprint([str(tmp_path)], ())
    assert distributions.fingerprint([str(tmp_path)], ()) == before
    assert distributions.fingerprint([str(tmp_path)], ("/srv/app",)) != before
    info = install(tmp_path, "y", "1", ["y.py"])
    more = distributions.fingerprint([str(tmp_path)], ())
    assert more != before
    (info / "RECORD").write_text("z.py,,\n")
    assert distributions.fingerprint([str(tmp_path)], ()) != more
