"""Veils and what is kept below them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass.jail.steps import Keep, Veil
from outpass.jail.veils import arrange, below, hidden


def paths(veils: list[Veil]) -> dict[str, list[str]]:
    return {v.path: [k.path for k in v.keeps] for v in veils}


@pytest.mark.parametrize(
    ("sentence", "veils", "keeps", "expected"),
    [
        ("side by side", ["/run", "/dev/shm"], [], {"/run": [], "/dev/shm": []}),
        ("a veil below another is left out", ["/run", "/run/user/1"], [], {"/run": []}),
        (
            "what is kept of the inner is kept by the outer",
            ["/run", "/run/o"],
            ["/run/o/mint.sock"],
            {"/run": ["/run/o/mint.sock"]},
        ),
        ("a name that only begins the same is another", ["/run", "/running"], [], {"/run": [], "/running": []}),
        (
            "an inner veil hangs where the outer keeps a directory around it",
            ["/tmp", "/tmp/a/run"],
            ["/tmp/a", "/tmp/a/run/mint.sock"],
            {"/tmp": ["/tmp/a"], "/tmp/a/run": ["/tmp/a/run/mint.sock"]},
        ),
        ("the veiled directory itself is never kept", ["/run"], ["/run", "/"], {"/run": []}),
        ("a keep below a keep is enough once", ["/tmp"], ["/tmp/a/b", "/tmp/a"], {"/tmp": ["/tmp/a"]}),
        ("what lies elsewhere needs no keeping", ["/run"], ["/srv/app"], {"/run": []}),
    ],
)
def test_arrangement(sentence: str, veils: list[str], keeps: list[str], expected: dict[str, list[str]]) -> None:
    assert paths(arrange([Veil(v) for v in veils], [Keep(k) for k in keeps])) == expected, sentence


def test_a_veil_that_is_left_out_leaves_its_folder_with_its_mode() -> None:
    [veil] = arrange([Veil("/run"), Veil("/run/user/1", 0o700)], [])
    assert veil.folders == (("/run/user/1", 0o700),)


def test_a_file_to_be_read_only_stays_so_below_a_directory_that_is_kept() -> None:
    [veil] = arrange([Veil("/tmp")], [Keep("/tmp/a"), Keep("/tmp/a/policy.yaml", read_only=True)])
    assert [k.path for k in veil.keeps] == ["/tmp/a", "/tmp/a/policy.yaml"]


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(NAMES, min_size=1, max_size=5), st.lists(NAMES, max_size=5), NAMES)
def test_what_is_not_kept_is_hidden(veiled: list[str], kept: list[str], path: str) -> None:
    """Invariant: a path below a wanted veil is visible only if something kept, below that veil, holds it."""
    arranged = arrange([Veil(v) for v in veiled], [Keep(k) for k in kept])
    innermost = max((v for v in veiled if below(path, v)), key=len, default=None)
    if innermost is not None and not any(below(path, k) and below(k, innermost) and k != innermost for k in kept):
        assert hidden(path, arranged)


@given(st.lists(NAMES, min_size=1, max_size=5), st.lists(NAMES, max_size=5))
def test_what_is_kept_is_visible(veiled: list[str], kept: list[str]) -> None:
    """Invariant: a kept path is visible, unless a veil lies on it or between it and everything kept around it."""
    arranged = arrange([Veil(v) for v in veiled], [Keep(k) for k in kept])
    for path in kept:
        if path not in veiled:
            assert not hidden(path, arranged)
