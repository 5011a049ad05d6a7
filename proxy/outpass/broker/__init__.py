"""The broker: the daemon that says which process asks, signs its passes, keeps the gate alive and answers its operator.

Lives here: one file a job (below). May not live here: yes or no about a request (policy/), the format of a pass
(passes/), hostile HTTP (gate/), the user's terminal (cli/). aiohttp is imported in `app` only, cryptography in `keys` and
`shown` only.

    serve          options, start and stop order, signals; `python -m outpass.broker`
    rundir         the runtime directory, its lock and its sockets
    keys trust     the pass key and the CA; which CAs are trusted upstream and by programs
    shown          the system's trust as jails show it: certificates, Java's store
    packets        JSON packets with descriptors over SOCK_SEQPACKET, on asyncio
    control        what `outpass run` asks for: jails
    jails          the jails, their policies and reload
    spawn supervise   a gate as a process: started, spoken to, watched, replaced
    gates memory      all gates: what they are told, and what they share
    switchboard    the mint socket's own thread: epoll, connections, messages
    hello          messages of the shim's protocol, read strictly
    peer reception session   kernel facts about a process; from hello to session; who gets one
    mint           passes and checks for a session
    publish        ports of a jail that are reachable from outside
    questions native view   what the gate asks: addresses for names, the program behind a connection
    names distributions   which file belongs to which distribution
    ears           where audit records go: store, metrics, summaries, listeners
    app            the operator's admin API
    daemon         all of these put together
    say            standard error
"""
