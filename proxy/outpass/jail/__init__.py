"""What CMD is started with, and in: environment, listeners, and the kernel jail.

Lives here: the launcher; standard library only, because its start-up time is paid by every run.
May not live here: policy, the engine, the broker's side of anything.

    plan recipe places veils steps advice seccomp    pure: what is to be done, in which order, said in one line each
    host probe                                       what this machine is like; every step tried
    launch inside apply processes signals daemon     who does it: launcher, its child, the processes between, the control protocol
    publish carry                                    ports of the jail that are reachable from outside
    mounts listeners netlink privileges syscalls     how each step is done; ctypes only in syscalls
"""
