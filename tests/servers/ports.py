"""Ports that are free now. Another process may be quicker to take one: a server that can't start is given others."""

import random
import socket

# Below the ports that systems give to outgoing connections, so that a server finds its own again after a restart.
_PORTS = range(15_000, 32_000)
_ATTEMPTS = 200


def free_port(*offsets: int) -> int:
    """A port that is free together with those at `offsets` from it."""
    for _ in range(_ATTEMPTS):
        port = random.choice(_PORTS)
        if all(_is_free(port + offset) for offset in (0, *offsets)):
            return port
    raise AssertionError("no free port was found")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
