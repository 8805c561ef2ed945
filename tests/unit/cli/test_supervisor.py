"""What the supervisor of several workers does before the first of them."""

import socket
from contextlib import suppress

import pytest

from persistence_service.cli.supervisor import _address, _listen


def listen_at_a_free_port(host: str) -> list[socket.socket]:
    """One that is free at the first address of the host may be somebody else's at the next."""
    for _ in range(10):
        with suppress(OSError):
            return _listen(host, 0)
    return _listen(host, 0)


def test_all_addresses_of_a_host_are_listened_on_at_one_port_before_any_worker_runs() -> None:
    listening = listen_at_a_free_port("localhost")
    try:
        ports = {each.getsockname()[1] for each in listening}
        assert len(ports) == 1
        for each in listening:
            with socket.create_connection(each.getsockname()[:2], timeout=60):
                pass  # it waits for a worker to take it
    finally:
        for each in listening:
            each.close()


def test_a_port_that_is_taken_is_refused() -> None:
    (listening,) = _listen("127.0.0.1", 0)
    with listening, pytest.raises(OSError, match="Address already in use"):
        _listen("127.0.0.1", listening.getsockname()[1])


def test_an_address_that_this_machine_has_not_is_refused() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        _listen("192.0.2.1", 0)


def test_an_address_is_told_as_one_writes_it() -> None:
    (listening,) = _listen("127.0.0.1", 0)
    with listening:
        assert _address(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"
