"""The table of jails, and the launcher's order read strictly."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from outpass import files
from outpass.broker import control, jails
from outpass.broker.jails import Jails, Order, read_order
from outpass.broker.peer import Process
from outpass.broker.view import View
from outpass.errors import OutpassError, StartError

BODY: dict[str, Any] = {
    "op": "jail.open",
    "kind": "no-jail",
    "label": "x" * 500,
    "cwd": "/",
    "roots": ["/a/../b"],
    "policy": {"deny_all": True},
}


def test_an_order_is_read_in_normal_form(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    order = read_order({**BODY, "roots": ["/a/../b", f"{tmp_path}/link/x"]})
    assert order.roots == ("/b", f"{tmp_path}/link/x", f"{tmp_path}/x")
    assert len(order.label) == 200 and order.source == files.Source(None, (), True, None)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": None}, {"kind": ["no-jail"]}, {"label": 5}, {"cwd": "x"}, {"cwd": None}, {"roots": None}, {"roots": [5]},
        {"policy": []}, {"policy": {"file": 5}}, {"policy": {"allow": "x"}}, {"policy": {"allow": [5]}},
        {"policy": {"deny_all": 1}}, {"policy": {"mode": 5}},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StartError):
        read_order({**BODY, **change})


def opened(table: Jails) -> jails.Jail:
    listener = socket.create_server(("127.0.0.1", 0))
    source = files.Source(None, (), True)
    return table.add(Order("no-jail", "x", "/", (), source), table.load(source), 0, (listener,))


def test_a_process_belongs_to_the_jail_it_was_registered_for_until_that_closes() -> None:
    table = Jails({}, lambda: 0.0)
    jail = opened(table)
    table.register(jail, Process(7, 1, 100, 0, 0), os.pidfd_open(os.getpid()))
    assert table.of_process((7, 100)) is jail and table.of_process((7, 101)) is None
    jail.closing = True
    assert table.of_process((7, 100)) is None
    table.remove(jail)
    table.remove(jail)
    assert table.by_id == {} and all(s.fileno() == -1 for s in jail.listeners)


def test_a_launcher_registers_a_bounded_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jails, "MAX_PROCESSES", 1)
    table = Jails({}, lambda: 0.0)
    jail = opened(table)
    table.register(jail, Process(7, 1, 100, 0, 0), os.pidfd_open(os.getpid()))
    with pytest.raises(OutpassError, match="too many"):
        table.register(jail, Process(8, 1, 100, 0, 0), os.pidfd_open(os.getpid()))
    table.remove(jail)


@pytest.mark.parametrize(
    ("family", "where", "shown"),
    [(socket.AF_INET, ("127.0.0.1", 0), "127.0.0.1:"), (socket.AF_INET6, ("::1", 0), "[::1]:")],
)
def test_an_address_is_written_as_programs_expect_it(family: int, where: Any, shown: str) -> None:
    with socket.socket(family) as sock:
        sock.bind(where)
        assert jails.address_of(sock) == f"{shown}{sock.getsockname()[1]}"


def test_a_unix_listener_is_known_by_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        assert jails.address_of(sock) == str(tmp_path / "s")


def test_the_table_of_sockets_is_no_listener_of_the_gates() -> None:
    table = Jails({}, lambda: 0.0)
    listener, view = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    source = files.Source(None, (), True)
    jail = table.add(Order("jail", "x", "/", (), source, ("sockets", "http")), table.load(source), 0, (view, listener))
    assert (jail.kinds, jail.listeners) == (("http",), (listener,)) and jail.view is not None
    table.remove(jail)
    assert view.fileno() == listener.fileno() == -1


def test_an_order_has_at_most_one_table_of_sockets() -> None:
    assert read_order({**BODY, "listeners": ["http", "sockets"]}).listeners == ("http", "sockets")
    with pytest.raises(StartError):
        read_order({**BODY, "listeners": ["http", "sockets", "sockets"]})


def test_a_jail_may_do_without_a_table_of_sockets() -> None:
    assert read_order({**BODY, "listeners": ["http"], "without": ["sockets"]}).without == ("sockets",)


def test_a_kernel_that_answers_no_question_about_sockets_is_told_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Jails({}, lambda: 0.0)
    listener, view = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    source = files.Source(None, (), True)
    jail = table.add(Order("jail", "x", "/", (), source, ("http", "sockets")), table.load(source), 0, (listener, view))
    assert control._shown(jail) == [] and jail.without == ()
    monkeypatch.setattr(View, "_ask", lambda *_: None)
    (said,) = control._shown(jail)
    assert "rules for programs (exe:) grant nothing" in said and jail.without == ("sockets",)
    table.remove(jail)


def test_what_is_named_a_table_of_sockets_must_be_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(StartError, match="no view"):
            jails.check_listeners(("http", "sockets"), [listener, other])
