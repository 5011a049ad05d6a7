"""The gate: the only way out for HTTP. It knows which jail asks, verifies and burns the pass, asks policy, dials, streams.

Lives here: everything that touches the engine (mitmproxy) or hostile bytes. May not live here: what is allowed (policy/),
how a pass is read (passes/), long-lived secrets, other listeners of the daemon. The room knows neither broker nor jail.
"""
