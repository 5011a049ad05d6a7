"""A gate asks for as many descriptors as it may have."""

from __future__ import annotations

import resource

import pytest

from outpass.gate import descriptors


@pytest.mark.parametrize(
    ("hard", "may", "then"),
    [
        (20_000, 20_000, (20_000, 20_000)),
        (20_000, 1 << 20, (descriptors.WANTED, descriptors.WANTED)),
        (1 << 20, 1 << 20, (1 << 20, 1 << 20)),
        (resource.RLIM_INFINITY, 0, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
    ids=["not root", "root", "more is allowed already", "no limit"],
)
def test_the_limit_is_raised_as_far_as_the_kernel_lets(
    monkeypatch: pytest.MonkeyPatch, hard: int, may: int, then: tuple[int, int]
) -> None:
    now = (1024, hard)

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        nonlocal now
        if limits[1] > max(now[1], may):
            raise ValueError("not allowed to raise maximum limit")
        now = limits

    monkeypatch.setattr(resource, "getrlimit", lambda _: now)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    descriptors.ask_for_more()
    assert now == then
