"""The engine (mitmproxy) as a sans-io HTTP and TLS library, with the parts replaced that a policy gate cannot live with.

Lives here: subclasses of the engine's layers, each for one or more defects listed in gate/README.md, and their installation.
May not live here: policy, passes, audit, sockets; a layer knows a connection, its bytes, and whom to tell (`Watcher`).
"""
