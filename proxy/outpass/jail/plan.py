"""The plan of a launch: the environment that CMD gets. Pure.

Lives here: which variables are set and which inherited ones are scrubbed (research: the tool matrix). May not live here:
reading the environment, starting anything.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Set in both cases. Programs differ in which case they read, and curl ignores upper-case HTTP_PROXY (httpoxy, CVE-2016-5385)."""

BUNDLE_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
)
"""Each *replaces* its tool's trust store, so each gets the whole bundle: system trust plus the outpass CA. PGSSLROOTCERT is
not among them: its mere presence turns libpq's sslmode=require into verify-ca."""

EXTRA_CA_VARIABLES: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""Each *adds* to its tool's trust store, so each gets the outpass CA alone."""

SCRUBBED: Final = (
    "SSL_CERT_DIR",
    "FTP_PROXY",
    "SOCKS_PROXY",
    "RSYNC_PROXY",
    "GRPC_PROXY",
    "NO_GRPC_PROXY",
    "OUTPASS_SOCKET",
    "OUTPASS_STATE",
    "OUTPASS_POLICY",
    "OUTPASS_SPAWN",
    "OUTPASS_DEBUG",
    "OUTPASS_UPSTREAM_PROXY",
    "SSLKEYLOGFILE",
)
"""Inherited variables that would route around the gate, split its trust store, or lead to the daemon's own sockets."""

LOOPBACK: Final = "localhost,127.0.0.1,::1"


class Door(NamedTuple):
    """What the broker says about the way out: where the gate listens, whom to trust, whom to ask for passes."""

    proxy: str
    """`127.0.0.1:PORT`"""
    mint: str
    ca: str
    bundle: str
    certs: str = ""
    """A directory to be shown over /etc/ssl/certs: the system's, with the outpass CA in it. Empty: only `bundle` is shown."""
    java: str = ""
    """A Java trust store (PKCS #12 without a password) with the outpass CA in it. Empty: Java keeps its own."""
    files: tuple[str, ...] = ()
    """Policies in force, with what they include."""


def environment(base: Mapping[str, str], door: Door, inject: str) -> dict[str, str]:
    """CMD's environment: `base` with the door put in and every other way scrubbed.

    Loopback stays direct (NO_PROXY): inside a jail it is the jail's own; with --no-jail it is the machine's, and `run` says so.
    """
    dropped = {v for name in (*SCRUBBED, *PROXY_VARIABLES, "NO_PROXY") for v in (name, name.lower())}
    env = {k: v for k, v in base.items() if k not in dropped}
    for name in PROXY_VARIABLES:
        env[name] = env[name.lower()] = f"http://{door.proxy}"
    env["NO_PROXY"] = env["no_proxy"] = LOOPBACK
    env |= dict.fromkeys(BUNDLE_VARIABLES, door.bundle) | dict.fromkeys(EXTRA_CA_VARIABLES, door.ca)
    env |= {"OUTPASS_MINT": door.mint, "OUTPASS_CA": door.ca, "OUTPASS_PROXY": door.proxy, "OUTPASS_PROTOCOL": "1"}
    inherited = base.get("PYTHONPATH", "")
    env["PYTHONPATH"] = f"{inject}{os.path.pathsep}{inherited}" if inherited else inject
    return env


def roots(command: Sequence[str], cwd: str, declared: Sequence[str]) -> list[str]:
    """The directories whose modules are `app`: those declared, else the working directory and the script's own.

    A script that lies elsewhere (`python /srv/app/main.py` from /) is the project too. The root directory alone would make
    every file `app`, so it is never taken by default.
    """
    if declared:
        return [os.path.abspath(d) for d in declared]
    found = [cwd]
    for word in command[1:]:
        if word.endswith((".py", ".pyz", ".pex")):
            found.append(os.path.dirname(os.path.abspath(os.path.join(cwd, word))))
            break
        if not word.startswith("-"):
            break
    return list(dict.fromkeys(d for d in found if d != "/"))
