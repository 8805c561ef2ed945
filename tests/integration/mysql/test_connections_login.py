"""Logging in: TLS is not given up silently, the password goes to no one in the clear, and every way of hashing it works."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pymysql.constants import CLIENT

from persistence_service.errors import StorageSetupError, StorageUnavailable
from persistence_service.settings import TlsMode
from persistence_service.storage.mysql.options import MysqlOptions, TlsOptions
from persistence_service.storage.mysql.pool import ConnectionPool
from tests.integration.mysql.certificates import Authority
from tests.integration.mysql.pools import opened, value
from tests.servers.installed import InstalledServer
from tests.servers.server import Server

_PASSWORDS = ("word", "Größe €", "密码🔑")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


async def _cipher(pool: ConnectionPool) -> str:
    answer = await pool.read(lambda connection: connection.run("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
    return str(answer.rows[0][1])


@pytest.mark.parametrize("mode", [TlsMode.DISABLED, TlsMode.REQUIRED])
@pytest.mark.parametrize("password", _PASSWORDS)
async def test_caching_sha2_works_while_the_server_has_not_cached_the_account(
    mysql_server: Server, mode: TlsMode, password: str
) -> None:
    database = mysql_server.new_database()
    mysql_server.sql(f"CREATE USER {database} IDENTIFIED WITH caching_sha2_password BY '{password}'")
    mysql_server.sql(f"GRANT ALL ON {database}.* TO {database}")
    options = mysql_server.options(database, user=database, password=password, tls=TlsOptions(mode))
    for _ in range(2):  # the second time from the server's cache, and not
        async with opened(options) as pool:
            assert bool(await _cipher(pool)) is (mode is TlsMode.REQUIRED)
        async with opened(options) as pool:
            assert (await value(pool, "CURRENT_USER()")).startswith(database)
        mysql_server.sql("FLUSH PRIVILEGES")
    mysql_server.sql(f"DROP USER {database}")


@pytest.mark.parametrize("password", _PASSWORDS)
async def test_the_native_hash_works_with_any_text(mariadb_server: Server, password: str) -> None:
    database = mariadb_server.new_database()
    mariadb_server.sql(f"CREATE USER {database} IDENTIFIED BY '{password}'")
    mariadb_server.sql(f"GRANT ALL ON {database}.* TO {database}")
    async with opened(mariadb_server.options(database, user=database, password=password)) as pool:
        assert (await value(pool, "CURRENT_USER()")).startswith(database)
    mariadb_server.sql(f"DROP USER {database}")


async def test_a_wrong_password_is_a_matter_of_set_up_and_open_works_once_it_is_put_right(
    database_server: Server,
) -> None:
    database = database_server.new_database()
    database_server.sql(f"CREATE USER {database} IDENTIFIED BY 'wrong'")
    database_server.sql(f"GRANT ALL ON {database}.* TO {database}")
    pool = ConnectionPool(database_server.options(database, user=database, password="right"))
    for _ in range(2):
        with pytest.raises(StorageSetupError) as caught:
            await pool.open()
        assert caught.value.number in {1045, 1698}
    database_server.sql(f"ALTER USER {database} IDENTIFIED BY 'right'")
    await pool.open()
    assert await value(pool, "1") == 1
    await pool.close()
    database_server.sql(f"DROP USER {database}")


async def test_a_server_that_is_away_at_the_start_is_unavailable_and_open_works_once_it_is_back(
    own_server: Server,
) -> None:
    pool = ConnectionPool(own_server.options(own_server.new_database()))
    await asyncio.to_thread(own_server.stop)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await pool.open()
    await asyncio.to_thread(own_server.start)
    await pool.open()
    assert await value(pool, "1") == 1
    await pool.close()


async def test_a_missing_database_is_a_matter_of_set_up(database_server: Server) -> None:
    with pytest.raises(StorageSetupError) as caught:
        await ConnectionPool(database_server.options("no_such_database")).open()
    assert caught.value.number == 1049


@asynccontextmanager
async def _greeting(*, plugin: str, capabilities: int) -> AsyncIterator[tuple[tuple[str, int], bytearray]]:
    """A host that greets as a server does, then only listens; with what it has heard."""
    heard = bytearray()
    flags = CLIENT.CAPABILITIES | CLIENT.CONNECT_WITH_DB | capabilities
    packet = (
        b"\x0a9.9.9\0" + struct.pack("<I", 1) + b"12345678\0" + struct.pack("<H", flags & 0xFFFF) + b"\x2d\x02\0"
    ) + (struct.pack("<H", flags >> 16) + b"\x15" + bytes(10) + b"123456789012\0" + plugin.encode() + b"\0")

    gone = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(struct.pack("<I", len(packet)) + packet)
        with suppress(ConnectionError):
            heard.extend(await reader.read())
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname(), heard
        await gone.wait()


@pytest.mark.parametrize("mode", [TlsMode.REQUIRED, TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY])
async def test_a_server_without_tls_hears_nothing_of_the_account_where_tls_is_wanted(mode: TlsMode) -> None:
    async with _greeting(plugin="caching_sha2_password", capabilities=0) as (address, heard):
        options = MysqlOptions((address,), "account", "password", "none", tls=TlsOptions(mode))
        with pytest.raises(StorageSetupError, match=r"does not offer TLS.*database\.tls"):
            await ConnectionPool(options).open()
    assert heard == b""


@pytest.mark.parametrize("plugin", ["mysql_clear_password", "mysql_old_password"])
async def test_a_server_that_asks_for_the_password_in_the_clear_does_not_get_it(plugin: str) -> None:
    async with _greeting(plugin=plugin, capabilities=0) as (address, heard):
        with pytest.raises(StorageSetupError, match="clear text"):
            await ConnectionPool(MysqlOptions((address,), "account", "password", "none")).open()
    assert heard == b""


async def test_certificates_are_checked_as_far_as_the_mode_says(own_server: Server, authority: Authority) -> None:
    """The server's certificate is signed by `authority`, for 127.0.0.1."""
    database = own_server.new_database()
    stranger = Authority(authority.folder / "stranger")
    _use_certificate(own_server, authority, "127.0.0.1")

    def options(mode: TlsMode, ca: Path | None) -> MysqlOptions:
        return own_server.options(database, tls=TlsOptions(mode, ca))

    for mode, ca in (
        (TlsMode.REQUIRED, None),
        (TlsMode.VERIFY_CA, authority.certificate),
        (TlsMode.VERIFY_IDENTITY, authority.certificate),
    ):
        async with opened(options(mode, ca)) as pool:
            assert await _cipher(pool)
    for mode in (TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY):
        for ca in (stranger.certificate, None):
            with pytest.raises(StorageSetupError, match="certificate"):
                await ConnectionPool(options(mode, ca)).open()


async def test_a_certificate_for_another_host_is_refused_where_the_host_is_checked(
    own_server: Server, authority: Authority
) -> None:
    database = own_server.new_database()
    _use_certificate(own_server, authority, "192.0.2.1")
    verified = own_server.options(database, tls=TlsOptions(TlsMode.VERIFY_CA, authority.certificate))
    async with opened(verified) as pool:
        assert await _cipher(pool)
    identified = own_server.options(database, tls=TlsOptions(TlsMode.VERIFY_IDENTITY, authority.certificate))
    with pytest.raises(StorageSetupError, match="certificate"):
        await ConnectionPool(identified).open()


def _use_certificate(server: Server, authority: Authority, address: str) -> None:
    """Have `server` show a certificate for `address`."""
    data = server.folder / "data"
    files = {name: data / name for name in ("ca.pem", "server-cert.pem", "server-key.pem")}
    authority.issue(address, files["server-cert.pem"], files["server-key.pem"])
    files["ca.pem"].write_bytes(authority.certificate.read_bytes())
    if server.kind == "mysql":
        server.sql("ALTER INSTANCE RELOAD TLS")
        return
    assert isinstance(server.process, InstalledServer)
    command = server.process._command  # only its start can switch TLS on
    options = [f"--ssl-cert={files['server-cert.pem']}", f"--ssl-key={files['server-key.pem']}"]
    command[:] = [part for part in command if part not in options] + options
    server.stop()
    server.start()
