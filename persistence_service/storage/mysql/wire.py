"""The driver's connection, made safe: what aiomysql 0.3 does silently is refused, and closing is immediate.

- It speaks plain text when the server offers no TLS, and sends the password so: refused here right after the server's
  greeting, before anything of the account has left.
- It gives the password in clear text to any server that asks for it: only over TLS here.
- It encodes the password as Latin-1, while the servers hash the bytes of the client's character set: UTF-8 here.
- It lets the server read several statements from one (`MULTI_STATEMENTS`): switched off.
- Its `close` waits for what is still to be sent, which never ends when the other side is gone: aborted here.
"""

from __future__ import annotations

from typing import Any

import aiomysql
from pymysql.connections import MysqlPacket
from pymysql.constants import CLIENT, FIELD_TYPE

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql.options import Address, MysqlOptions

TEXT_IN_CLEAR = frozenset({"mysql_clear_password", "mysql_old_password", "dialog"})
"""Ways of authentication that send the password as it is, or nearly so."""


def _number(text: str) -> int | float:
    """DECIMAL as the SQL layer wants it: sums of whole numbers stay whole."""
    return float(text) if "." in text else int(text)


# Times stay text: SQLite's backend has the same conversion, and the driver's makes None of what it can't read.
_DECODERS: dict[int, Any] = {
    FIELD_TYPE.TINY: int,
    FIELD_TYPE.SHORT: int,
    FIELD_TYPE.LONG: int,
    FIELD_TYPE.LONGLONG: int,
    FIELD_TYPE.INT24: int,
    FIELD_TYPE.YEAR: int,
    FIELD_TYPE.FLOAT: float,
    FIELD_TYPE.DOUBLE: float,
    FIELD_TYPE.DECIMAL: _number,
    FIELD_TYPE.NEWDECIMAL: _number,
}


class Wire(aiomysql.Connection):  # type: ignore[misc]  # the driver ships no types
    """One socket that speaks MySQL's protocol. `connect` once; after `close` it is of no use."""

    _reader: Any  # the driver's StreamReader, and asyncio's StreamWriter; None when closed
    _writer: Any

    def __init__(self, options: MysqlOptions, address: Address) -> None:
        self._writer = None  # what `close` looks at, also if this fails
        self._reader = None
        self._tls = options.tls.context()
        super().__init__(
            host=address[0],
            port=address[1],
            user=options.user,
            # The driver encodes it as Latin-1, so these are the bytes of UTF-8.
            password=options.password.encode().decode("latin-1"),
            db=options.database,
            charset="utf8mb4",
            conv=_DECODERS,
            autocommit=None,  # set with the rest of the session
            local_infile=False,
            ssl=self._tls,
            program_name="persistence-service",
        )
        self.client_flag &= ~CLIENT.MULTI_STATEMENTS

    async def connect(self) -> None:
        """Connect and log in.

        Raises:
            StorageSetupError: the server does not speak TLS, or wants the password in clear text without it.
        """
        try:
            await self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def is_sound(self) -> bool:
        """Whether nothing is known against it: it is open, and no byte came that nobody asked for (a farewell, the end)."""
        reader = self._reader
        return not (self.closed or reader.eof_received or reader.exception() is not None or reader._buffer)  # noqa: SLF001  # StreamReader has no other way to ask

    def close(self) -> None:
        """Close the socket now, whatever is still to be sent."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = None
        self._reader = None

    async def quit(self) -> None:
        """Say goodbye, and wait until that is sent and the socket is closed."""
        writer = self._writer
        if writer is None:
            return
        writer.write(b"\x01\x00\x00\x00\x01")  # COM_QUIT
        writer.close()
        await writer.wait_closed()

    async def _get_server_information(self) -> None:
        await super()._get_server_information()
        if self._tls is not None and not self.server_capabilities & CLIENT.SSL:
            raise StorageSetupError(
                "the database server does not offer TLS, which database.tls demands: give it a certificate, or set "
                "database.tls to disabled"
            )
        if self._server_auth_plugin in TEXT_IN_CLEAR:
            self._refuse_clear_text()

    async def _process_auth(self, plugin_name: bytes, auth_packet: MysqlPacket) -> MysqlPacket:
        if plugin_name.decode("ascii", "replace") in TEXT_IN_CLEAR:
            self._refuse_clear_text()
        return await super()._process_auth(plugin_name, auth_packet)

    def _refuse_clear_text(self) -> None:
        if self._tls is None:
            raise StorageSetupError(
                "the database server asks for the password in clear text: set database.tls to verify_identity, or give "
                "the account another authentication plugin"
            )
