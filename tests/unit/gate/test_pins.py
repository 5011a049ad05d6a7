"""Pins: one resolution for what is decided and dialled, shared by those who ask at once, kept while it is used."""

from __future__ import annotations

import asyncio

import pytest

from outpass.gate import pins
from outpass.gate.pins import FRESH_S, Pins, Unresolved, resolve
from outpass.reasons import Reason

KEY = ("api.test", 443)


class Resolver:
    """Gives another address every time it is asked; fails for the host `gone`."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> tuple[str, ...]:
        await asyncio.sleep(0)
        self.asked.append(host)
        if host == "gone":
            raise OSError("no such name")
        return (f"203.0.113.{len(self.asked)}", "203.0.113.200")


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_fresh_pin_is_used_again_and_an_old_one_is_not() -> None:
    async def run() -> None:
        resolver, clock = Resolver(), Clock()
        pins = Pins({}, resolver, clock)
        assert pins.ready(KEY) is None
        first = await pins.pin(KEY)
        assert first.addresses == ("203.0.113.1", "203.0.113.200")
        clock.now = FRESH_S - 1
        assert await pins.pin(KEY) is first
        clock.now = FRESH_S + 1
        assert pins.ready(KEY) is None
        assert (await pins.pin(KEY)).addresses[0] == "203.0.113.2"

    asyncio.run(run())


def test_a_pin_in_use_does_not_change_however_old_it_is() -> None:
    async def run() -> None:
        resolver, clock = Resolver(), Clock()
        pins = Pins({}, resolver, clock)
        pin = await pins.pin(KEY)
        pin.users = 1
        clock.now = 1e6
        assert pins.ready(KEY) is pin and pins.known(KEY) is pin
        pin.users = 0
        assert pins.ready(KEY) is None and pins.known(KEY) is None

    asyncio.run(run())


def test_nothing_may_be_dialled_that_nobody_decided() -> None:
    async def run() -> None:
        pins = Pins({}, Resolver(), Clock())
        assert pins.known(KEY) is None
        await pins.pin(KEY)
        assert pins.known(KEY) is None, "resolved is not decided"

    asyncio.run(run())


def test_those_who_ask_at_once_get_one_answer() -> None:
    async def run() -> None:
        resolver = Resolver()
        pins = Pins({}, resolver, Clock())
        found = await asyncio.gather(*(pins.pin(KEY) for _ in range(5)))
        assert len(resolver.asked) == 1 and len({id(p) for p in found}) == 1
        for outcome in await asyncio.gather(*(pins.pin(("gone", 1)) for _ in range(3)), return_exceptions=True):
            assert isinstance(outcome, Unresolved) and outcome.reason is Reason.RESOLVE_FAILED

    asyncio.run(run())


def test_the_operators_override_asks_no_resolver() -> None:
    async def run() -> None:
        resolver = Resolver()
        pins = Pins({KEY: ("127.0.0.1", 8443)}, resolver, Clock())
        pin = pins.ready(KEY)
        assert pin is not None and (pin.addresses, pin.port, pin.override) == (("127.0.0.1",), 8443, True)
        assert pin.dialled == "127.0.0.1:8443"
        assert pins.ready(("api.test", 80)) is None and not resolver.asked

    asyncio.run(run())


@pytest.mark.parametrize("host, expected", [("127.0.0.1", ("127.0.0.1",)), ("::1", ("::1",)), ("::ffff:7f00:1", ("127.0.0.1",))])
def test_an_address_is_its_own_resolution(host: str, expected: tuple[str, ...]) -> None:
    assert asyncio.run(resolve(host, 80)) == expected


def test_a_name_without_addresses_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError):
        asyncio.run(resolve("nowhere.invalid", 80))


def test_a_connection_that_names_many_hosts_does_not_keep_them_all() -> None:
    now = [0.0]

    async def found(host: str, port: int) -> tuple[str, ...]:
        return ("93.184.215.14",)

    made = pins.Pins({}, found, lambda: now[0])

    async def run() -> None:
        used = await made.pin(("used.test", 443))
        used.users = 1
        for n in range(2000):
            await made.pin((f"h{n}.test", 443))
            assert len(made._pins) <= pins.MANY * 4
        now[0] = pins.FRESH_S + 1
        await made.pin(("last.test", 443))
        assert set(made._pins) == {("used.test", 443), ("last.test", 443)}
        assert made.known(("used.test", 443)) is used

    asyncio.run(run())
