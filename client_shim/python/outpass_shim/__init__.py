"""The part of outpass that runs inside the program: finds out which package asks, and attaches the pass it is given.

Lives here: the one name that programs may use, EgressDenied. May not live here: keys, policy, anything that decides.
The room as a whole: standard library only, Python 3.9 and later, wire of client_shim/PROTOCOL.md.

    inject/sitecustomize → _boot → _registry   which module is whose: recorded at import, asked for per frame
                                 → _lazy       patches a library when the program imports it:
        _http _h11   the choke points of HTTP: mint a pass for each request
        _aiohttp _websockets            theirs
        _curl _grpc  a pass that libraries in C carry themselves (_lent), for the chain that uses them
        _tunnel      connections in a jail that go round the proxy; _uvloop makes its own so that they are seen
        _ssl         trust in the outpass CA, beside whatever the program trusts
        _guard       sockets, DNS and listen, refused unless the broker says yes
        _origin      carries "who started this" through threads, executors and tasks
        _spawn       a spawn pass for each child
      _chain (frames → names)    _session (hello, mint, check)    _wire (one packet out, one back)
"""

__version__ = "0.1.0"
__all__ = ["EgressDenied", "__version__"]


class EgressDenied(PermissionError):
    """A socket, a DNS query or a listener that the policy does not give to the code that asked for it.

    package      the principal that was charged: the nearest of the chain
    capability   `network:socket`, `network:dns` or `network:listen`
    destination  `host:port` as the broker was asked
    reason       a code of outpass.reasons, such as `no_rule`
    chain        every principal that had to hold the right, nearest first
    """

    package: str = "?"
    capability: str = ""
    destination: str = ""
    reason: str = ""
    chain: "tuple[str, ...]" = ("?",)
