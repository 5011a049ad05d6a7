"""`outpass daemon`: the broker in the foreground, for a laptop or a sidecar.

Lives here: the command's options. May not live here: the daemon (broker/).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from outpass.cli import say
from outpass.jail.daemon import runtime_base

MOST: Final = 4
"""Gates that are started unless told otherwise: each takes some 55 MB, and few machines send what two cannot carry."""


@click.command("daemon")
@click.option("--runtime", metavar="DIR", help="Where its sockets live (default: the user's runtime directory).")
@click.option("--state", metavar="FILE", help="The audit log (default: $OUTPASS_STATE, else the user's state directory).")
@click.option(
    "--policy", metavar="FILE", help="The operator's policy over that of every run: mode, ceiling, denies. It grants nothing."
)
@click.option("--connect-to", metavar="HOST:PORT:ADDR:PORT", multiple=True, help="Dial ADDR:PORT for HOST:PORT; repeatable.")
@click.option("--upstream-ca", metavar="FILE", help="Also trust the CAs in this PEM file for origins.")
@click.option("--upstream-proxy", metavar="URL|none", help="The proxy to dial through (default: the *_PROXY variables).")
@click.option("--gates", type=click.IntRange(1, 64), help="Gate processes (default: one for each core, at most 4).")
def command(
    runtime: str | None,
    state: str | None,
    connect_to: tuple[str, ...],
    upstream_ca: str | None,
    upstream_proxy: str | None,
    policy: str | None,
    gates: int | None,
) -> int:
    """Run the broker and its gates in the foreground, for every `outpass run` that finds it by $OUTPASS_SOCKET.

    SIGTERM and ^C drain and end it; SIGHUP re-reads the policies in force.
    """
    from outpass.broker import serve

    base = Path(runtime or runtime_base(os.environ))
    say.note(f"export OUTPASS_SOCKET={base / 'control.sock'}")
    options = serve.Options(
        runtime=base,
        state=Path(state) if state else None,
        private_fd=None,
        ready_fd=None,
        connect_to=connect_to,
        upstream_ca=Path(upstream_ca) if upstream_ca else None,
        upstream_proxy=upstream_proxy,
        policy=Path(os.path.abspath(policy)) if policy else None,
        gates=gates or min(len(os.sched_getaffinity(0)), MOST),
    )
    return serve.serve(options)
