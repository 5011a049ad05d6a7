"""What one row of the table is: a package, its smoke call, and who must be charged for it.

Lives here: the row, its registration, the policy of all rows. May not live here: calls, servers, running.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Smoke(NamedTuple):
    package: str
    rank: int
    """among the most downloaded; 0 where that is not known"""
    does: str
    call: Callable[[str], Any]
    charged: str
    """the principal; the package itself, unless its transport or its caller is"""
    family: tuple[str, ...]
    """who may stand above that in the chain: the rule's `via:`"""
    kind: str
    """of the rule: http or socket"""
    server: str
    """who answers: `web`, `rpc`, `ws`, or a name of servers.RAW"""
    port: int
    answers: dict[str, Any]
    """path → what the fake web server says"""
    says: str
    """must be in what the call returns"""
    address: str
    """in place of a name, for what asks by address"""
    needs: tuple[str, ...]
    """requirements beside the package itself, such as one with extras"""
    also: tuple[str, ...]
    """who asks the same host beside it, under the same family"""
    note: str
    """why it cannot work, where it is known not to"""

    @property
    def host(self) -> str:
        """The one host that the package may reach."""
        return self.address or f"{self.package}.example.com"

    @property
    def elsewhere(self) -> str:
        """What nobody is granted: it asks there too, and must be refused."""
        return "192.0.2.99" if self.address else f"not-{self.host}"

    @property
    def source(self) -> str:
        """The call as a program of its own: without the decorator."""
        text = inspect.getsource(self.call)
        return text[text.index("def ") :] + f"\nask = {self.call.__name__}\n"


def smoke(
    package: str,
    rank: int,
    does: str,
    *,
    charged: str = "",
    family: tuple[str, ...] = (),
    kind: str = "http",
    server: str = "web",
    port: int = 443,
    answers: dict[str, Any] | None = None,
    says: str = "",
    address: str = "",
    needs: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    note: str = "",
) -> Callable[[Callable[[str], Any]], Smoke]:
    """The row whose call is the decorated function. It gets a host, and returns what the server said."""

    def made(call: Callable[[str], Any]) -> Smoke:
        return Smoke(
            package,
            rank,
            does,
            call,
            charged or package,
            family,
            kind,
            server,
            port,
            answers or {},
            says,
            address,
            needs,
            also,
            note,
        )

    return made


def rows_of(module: object) -> list[Smoke]:
    """The rows that a module defines, in its order."""
    return [value for value in vars(module).values() if isinstance(value, Smoke)]


def policy(rows: list[Smoke]) -> str:
    """One policy for all: each principal may reach the hosts of its own rows, and nothing else."""
    granted: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        via = f", via: [{', '.join(row.family)}]" if row.family else ""
        to = {"http": f"url: 'https://{row.host}/**'", "socket": f"to: '{row.host}:{row.port}'"}
        for principal in (row.charged, *row.also):
            granted.setdefault(principal, {}).setdefault(row.kind, []).append(f"{{{to[row.kind]}{via}}}")
    presets = ("http-clients", "instruments", "sdk-cores")
    lines = ["version: 1", f"include: [{', '.join(f'preset:{name}' for name in presets)}]", "packages:"]
    for principal, kinds in granted.items():
        lines.append(f"  '{principal}':\n    allow: [{', '.join(f'network:{kind}' for kind in kinds)}]")
        for kind, listed in kinds.items():
            lines += [f"    {kind}:", *(f"      - {entry}" for entry in listed)]
    return "\n".join(lines) + "\n"
