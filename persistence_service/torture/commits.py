"""Finds COMMIT in what a MySQL client sends: the framing of packets, and no more of the protocol.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html
"""

from __future__ import annotations

from typing import Final

_HEADER_BYTES: Final = 4  # 3 of length, little endian, and the number of the packet within its command
_COM_QUERY: Final = 0x03
_COMMIT: Final = b"COMMIT"
_LONGEST: Final = len(_COMMIT) + 16
"""A longer packet is not looked at: blanks and a semicolon may follow, nothing else."""
_TLS_REQUEST_BYTES: Final = 32
_TLS_FLAG: Final = 0x0800


class CommitFinder:
    """Reads one connection's bytes from the client, however they are cut into pieces. It has no view into TLS."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._body = bytearray()
        self._left = 0  # of the packet's body
        self._is_wanted = False
        self.is_encrypted = False

    def finds_commit(self, data: bytes) -> bool:
        """Whether a COMMIT ends within `data`, which comes right after all that was given before."""
        found = False
        at = 0
        while at < len(data) and not self.is_encrypted:
            if self._left:
                taken = min(self._left, len(data) - at)
                if self._is_wanted:
                    self._body += data[at : at + taken]
                self._left -= taken
            else:
                taken = min(_HEADER_BYTES - len(self._head), len(data) - at)
                self._head += data[at : at + taken]
                self._begin_body()
            at += taken
            if not self._left and not self._head:
                found = self._ends_with_commit() or found
        return found

    def _begin_body(self) -> None:
        """Once the header is whole; an empty body is a packet too."""
        if len(self._head) < _HEADER_BYTES:
            return
        self._left = int.from_bytes(self._head[:3], "little")
        number = self._head[3]
        is_command = number == 0 and self._left <= _LONGEST
        is_tls_request = number == 1 and self._left == _TLS_REQUEST_BYTES
        self._is_wanted = is_command or is_tls_request
        self._head.clear()
        self._body.clear()

    def _ends_with_commit(self) -> bool:
        if len(self._body) == _TLS_REQUEST_BYTES:
            self.is_encrypted = bool(int.from_bytes(self._body[:4], "little") & _TLS_FLAG)
            return False
        text = bytes(self._body[1:]).rstrip(b" ;\n").upper()
        return self._body[:1] == bytes([_COM_QUERY]) and text == _COMMIT
