"""COMMIT is found in the packets of a client, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence_service.torture.commits import CommitFinder


def packet(payload: bytes, number: int = 0) -> bytes:
    """As it goes over the wire."""
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


LOGIN = packet(b"\x0d\xa2\x3a\x00" + b"COMMIT".ljust(60, b"\0"), 1)
COMMIT = packet(b"\x03COMMIT")
INSERT = packet(b"\x03INSERT INTO t VALUES ('COMMIT')")
PACKETS = [LOGIN, INSERT, packet(b"\x0e"), packet(b"", 2), packet(b"\x03" + b"x" * 70_000), packet(b"\x04COMMIT")]


@given(st.lists(st.sampled_from([*PACKETS, COMMIT])), st.data())
def test_a_commit_is_found_however_the_bytes_are_cut(packets: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(packets)
    finder = CommitFinder()
    found = 0
    while stream:
        size = data.draw(st.sampled_from([3, 4, 5, 9, 13, 1000, len(stream)]))
        piece, stream = stream[:size], stream[size:]
        found += finder.finds_commit(piece)
    assert bool(found) == (COMMIT in packets)
    assert found <= packets.count(COMMIT)


@pytest.mark.parametrize("text", [b"COMMIT", b"commit", b"COMMIT;", b"COMMIT ; "])
def test_a_commit_is_known_however_it_is_written(text: bytes) -> None:
    assert CommitFinder().finds_commit(LOGIN + packet(b"\x03" + text))


@pytest.mark.parametrize("other", [INSERT, packet(b"\x04COMMIT"), packet(b"\x03COMMIT", 1), packet(b"\x03COMMITTED")])
def test_what_only_looks_like_a_commit_is_none(other: bytes) -> None:
    assert not CommitFinder().finds_commit(LOGIN + other)


def test_a_connection_that_changes_to_tls_is_known_and_left_alone() -> None:
    finder = CommitFinder()
    request = packet((0x0800).to_bytes(4, "little").ljust(32, b"\0"), 1)
    assert not finder.finds_commit(request + COMMIT)
    assert finder.is_encrypted
