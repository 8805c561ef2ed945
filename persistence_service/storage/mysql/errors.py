"""Errors of MySQL and its relatives as ours: by number, in this one table.

`mysql`    https://dev.mysql.com/doc/mysql-errors/9.7/en/server-error-reference.html (and 8.4), and for 2000 to 2999
           https://dev.mysql.com/doc/mysql-errors/9.7/en/client-error-reference.html
`mariadb`  https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference
`gr`       Group Replication: the same server reference, and https://dev.mysql.com/doc/refman/9.7/en/group-replication.html
`galera`   https://galeracluster.com/library/documentation/ (a node outside of the cluster, certification conflicts)
`tidb`     https://docs.pingcap.com/tidb/stable/error-codes
`vitess`   https://github.com/vitessio/vitess/blob/main/go/mysql/sqlerror/constants.go and sql_error.go

Numbers of 2000 to 2999 are the driver's: of a connection that runs statements they all mean that it is lost, so that what a
person must mend is there only as far as the drivers raise it while connecting.

Numbers of 4000 and more mean different things to MySQL and MariaDB; the rows here are those where only one of both meanings can
reach a client that reads and writes rows. Left out on purpose, hence `UnclassifiedStorageError`: 1064 (a statement that isn't
understood, be it for its value or for the server), 1105 and 1815 (anything at all).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Collection
from typing import NamedTuple

import pymysql
from pymysql.constants import ER

from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    QueryTimeout,
    StorageSetupError,
    StorageUnavailable,
    TransactionConflict,
    UnclassifiedStorageError,
)

Kind = type[StorageUnavailable] | type[DataRejected] | type[StorageSetupError]


class Explained(NamedTuple):
    """What a number means to us: the class, our words, and whose documents say so (keys of this module's docstring)."""

    number: int
    kind: Kind
    words: str
    sources: tuple[str, ...]


def _rows(kind: Kind, words: str, sources: str, *numbers: int) -> list[Explained]:
    return [Explained(number, kind, words, tuple(sources.split())) for number in numbers]


_AWAY = [
    *_rows(StorageUnavailable, "the database can't be reached", "mysql", 2000, 2001, 2002, 2003, 2004),
    *_rows(StorageUnavailable, "the database's host name can't be resolved", "mysql", 1042, 2005),
    *_rows(StorageUnavailable, "the connection to the database was lost", "mysql", 2006, 2012, 2013, 2055),
    *_rows(StorageUnavailable, "the connection to the database is out of step", "mysql", 1043, 2014, 2027),
    *_rows(
        StorageUnavailable,
        "the network to the database failed",
        "mysql",
        1154,
        1155,
        1156,
        1157,
        1158,
        1159,
        1160,
        1161,
    ),
    *_rows(StorageUnavailable, "the network between database servers failed", "mysql", 1189, 1190),
    *_rows(StorageUnavailable, "the database ended the connection", "mysql", 1080, 1152, 1184, 3169, 4031),
    *_rows(StorageUnavailable, "the connection was killed", "mariadb", 1927),
    *_rows(StorageUnavailable, "the statement was killed", "mysql vitess", 1317),
    *_rows(StorageUnavailable, "the database is shutting down", "mysql vitess", 1053),
    *_rows(StorageUnavailable, "the database is shutting down", "mysql", 1077, 1078, 1079),
    *_rows(StorageUnavailable, "the database is not available", "mysql vitess", 3168),
    *_rows(StorageUnavailable, "the database is in offline mode", "mysql", 3032),
    *_rows(StorageUnavailable, "the database's node is not part of its cluster now", "galera vitess", 1047),
]
_READ_ONLY = [
    *_rows(StorageUnavailable, "the database is read-only, or not the primary", "mysql gr", 1290),
    *_rows(StorageUnavailable, "the database is read-only", "mysql", 1036, 1792, 1836, 1874, 1881),
    *_rows(StorageUnavailable, "the database is locked against writing", "mysql", 1192, 1223),
]
_GROUP = [
    *_rows(StorageSetupError, "the database's server is not set up as a member of its group", "gr", 3092),
    *_rows(
        StorageSetupError, "the group of databases refuses the table: it needs a primary key and InnoDB", "gr", 3098
    ),
    *_rows(StorageUnavailable, "the group of databases did not take the transaction", "gr", 3100),
    *_rows(TransactionConflict, "another transaction of the group was in the way", "gr", 3101),
    *_rows(StorageUnavailable, "the database is not a working member of its group now", "gr", 3796),
    *_rows(StorageUnavailable, "waiting for the group of databases failed", "gr", 3797, 3798),
]
_SHORT_OF = [
    *_rows(StorageUnavailable, "the database has too many connections", "mysql", 1040),
    *_rows(StorageUnavailable, "the account has too many connections", "mysql vitess", 1203),
    *_rows(StorageUnavailable, "the account has used up what it may", "mysql", 1226),
    *_rows(StorageUnavailable, "the database's disk is full", "mysql", 1021, 1114, 3675),
    *_rows(StorageUnavailable, "the database can't read or write its files", "mysql", 1015, 1024, 1026, 1030),
    *_rows(StorageUnavailable, "the database can't write its binary log", "mysql", 1534, 1598),
    *_rows(StorageUnavailable, "the database is out of memory", "mysql", 1037, 1038, 1041, 1135, 3170),
    *_rows(StorageUnavailable, "this process is out of memory", "mysql", 2008),
    *_rows(StorageUnavailable, "the database is out of room for locks", "mysql", 1206),
    *_rows(StorageUnavailable, "the database has too many transactions", "mysql", 1637),
    *_rows(StorageUnavailable, "the database has a passing trouble", "mysql", 1297),
    *_rows(StorageUnavailable, "the database failed to end the transaction", "mysql", 1180, 1181),
]
_CONFLICTS = [
    *_rows(TransactionConflict, "the transaction was undone to end a deadlock", "mysql galera", 1213),
    *_rows(TransactionConflict, "the transaction was undone to end a deadlock", "mysql", 1614),
    *_rows(TransactionConflict, "another transaction holds the row for too long", "mysql", 1205),
    *_rows(TransactionConflict, "another transaction holds the row", "mysql", 3572),
    *_rows(TransactionConflict, "another transaction has changed the row", "mariadb", 1020),
    *_rows(TransactionConflict, "another transaction has changed the row", "tidb", 8002, 8005, 8022, 9007),
    *_rows(TransactionConflict, "the table was changed while the transaction went on", "mysql", 1412),
    *_rows(TransactionConflict, "the schema was being changed", "tidb", 8028),
    *_rows(TransactionConflict, "other transactions hold the row for too long", "tidb", 9004),
]
_TIME_LIMITS = [
    *_rows(QueryTimeout, "the query took longer than it may", "mysql", 3024),
    *_rows(QueryTimeout, "the query took longer than it may", "mariadb", 1969),
]
_DATA = [
    *_rows(DataRejected, "the value is too long", "mysql", 1406),
    *_rows(DataRejected, "the value is out of range", "mysql", 1264, 1690),
    *_rows(DataRejected, "the value is not one that the column can hold", "mysql", 1265, 1292, 1366, 1367, 1411, 1525),
    *_rows(DataRejected, "the text is not valid in the database's character set", "mysql", 1300),
    *_rows(DataRejected, "a value is missing", "mysql", 1048, 3673),
    *_rows(DataRejected, "another row has the same unique value", "mysql", 1022, 1062, 1169, 1586, 1761, 1762, 1859),
    *_rows(DataRejected, "the row that it belongs to is missing", "mysql", 1216, 1452),
    *_rows(
        StorageSetupError,
        "rows of a table that is not ours refer to what is to be deleted; drop that foreign key, or those rows",
        "mysql",
        1217,
        1451,
    ),
    *_rows(DataRejected, "a check of the table forbids the value", "mysql", 3819),
    *_rows(DataRejected, "a check of the table forbids the value", "mariadb", 4025),
    *_rows(DataRejected, "a trigger of the database refuses the record", "mysql", 1644),
    *_rows(DataRejected, "no partition of the table takes the value", "mysql", 1526),
    *_rows(DataRejected, "the JSON is not one that the database can hold", "mysql", 3140, 3141, 3144, 3150, 3157),
    *_rows(DataRejected, "the record is larger than max_allowed_packet lets through", "mysql", 1153, 1301),
    *_rows(DataRejected, "the record is too large for a row", "mysql", 1118, 1713),
    *_rows(DataRejected, "the transaction is larger than the binary log's cache", "mysql", 1197, 1705),
    *_rows(DataRejected, "the transaction is larger than the group takes", "gr", 3231),
    *_rows(DataRejected, "the transaction is larger than the database takes", "tidb", 8004, 8025, 9500),
    *_rows(DataRejected, "the JSON is not one that the database can hold", "tidb", 8129),
]
_LOGIN = [
    *_rows(StorageSetupError, "the database refuses the account or its password", "mysql", 1045, 1698),
    *_rows(StorageSetupError, "the database refuses connections from this host", "mysql", 1130),
    *_rows(StorageSetupError, "the database blocks this host after too many failed connections", "mysql", 1129),
    *_rows(StorageSetupError, "the account's password has expired", "mysql", 1820, 1862),
    *_rows(StorageSetupError, "the account is locked", "mysql", 3118, 3955),
    *_rows(StorageSetupError, "the account is locked", "mariadb", 4151),
    *_rows(
        StorageSetupError,
        "the account's way of authentication can't be used",
        "mysql",
        1251,
        1275,
        1524,
        2059,
        2061,
    ),
    *_rows(StorageSetupError, "the database asks for TLS; see database.tls", "mysql", 3159),
    *_rows(StorageSetupError, "TLS to the database can't be set up", "mysql", 2026),
    *_rows(StorageSetupError, "the account lacks a privilege", "mysql", 1044, 1142, 1143, 1227, 1370, 3879),
    *_rows(StorageSetupError, "the account lacks a privilege", "tidb", 8121),
]
_SET_UP = [
    *_rows(
        StorageSetupError, "the database does not exist; create it as database/schema.sql begins", "mysql", 1046, 1049
    ),
    *_rows(StorageSetupError, "a table is missing", "mysql", 1109, 1146),
    *_rows(StorageSetupError, "a table's data is missing", "mysql", 1017, 1812, 1814),
    *_rows(StorageSetupError, "a table's data is missing", "mariadb", 1932),
    *_rows(StorageSetupError, "a column is missing", "mysql", 1054),
    *_rows(StorageSetupError, "an index is missing", "mysql", 1176),
    *_rows(StorageSetupError, "a column that is not the service's has no default", "mysql", 1364),
    *_rows(
        StorageSetupError, "a table is damaged; restore it from a backup", "mysql", 1033, 1034, 1035, 1194, 1195, 1712
    ),
    *_rows(StorageSetupError, "a table's key for encryption is not there", "mysql", 3185),
    *_rows(StorageSetupError, "a trigger of the database is broken", "mysql", 1449, 1606, 1710),
    *_rows(StorageSetupError, "the tables' collations differ from those of the schema", "mysql", 1267, 1270, 1271),
    *_rows(
        StorageSetupError,
        "the database lacks what the service needs",
        "mysql",
        1115,
        1193,
        1231,
        1273,
        1286,
        1289,
    ),
    *_rows(StorageSetupError, "the database lacks what the service needs", "mysql vitess", 1235),
    *_rows(StorageSetupError, "the database lacks what the service needs", "tidb", 8048),
    *_rows(StorageSetupError, "InnoDB is disabled", "mysql", 3161),
    *_rows(StorageSetupError, "the database demands a primary key", "mysql", 3750),
    *_rows(
        StorageSetupError, "the database's kind of binary log forbids the statement", "mysql", 1662, 1663, 1665, 1785
    ),
    *_rows(StorageSetupError, "the database's limit on a query's rows is too low", "mysql", 1104),
]
_TIDB = [
    *_rows(StorageUnavailable, "the statement needs more memory than TiDB grants", "tidb", 8001),
    *_rows(StorageUnavailable, "the table is locked", "tidb", 8020),
    *_rows(StorageUnavailable, "the server's view of the schema is outdated", "tidb", 8027),
    *_rows(StorageUnavailable, "the transaction ran for too long", "tidb", 8055, 8229, 9006),
    *_rows(StorageUnavailable, "TiDB has no time stamp for the transaction", "tidb", 8120),
    *_rows(StorageUnavailable, "the account has used up what it may", "tidb", 8252),
    *_rows(StorageUnavailable, "a part of the cluster does not answer", "tidb", 9001, 9002, 9005, 9010, 9012),
    *_rows(StorageUnavailable, "a part of the cluster is too busy", "tidb", 9003, 9008, 9013),
]
TABLE: tuple[Explained, ...] = (
    *_AWAY,
    *_READ_ONLY,
    *_GROUP,
    *_SHORT_OF,
    *_CONFLICTS,
    *_TIME_LIMITS,
    *_DATA,
    *_LOGIN,
    *_SET_UP,
    *_TIDB,
)
_BY_NUMBER = {row.number: row for row in TABLE}
READ_ONLY = frozenset(row.number for row in _READ_ONLY)
"""What a server says that is not the primary, or not any more."""

_QUOTED = re.compile(r"['`]([^'`]*)['`]")
_NAMES_ITS_COLUMN = frozenset(
    {
        ER.BAD_NULL_ERROR,
        ER.WARN_DATA_OUT_OF_RANGE,
        ER.WARN_DATA_TRUNCATED,
        ER.TRUNCATED_WRONG_VALUE,
        ER.NO_DEFAULT_FOR_FIELD,
        ER.TRUNCATED_WRONG_VALUE_FOR_FIELD,
        ER.DATA_TOO_LONG,
        3140,  # no JSON, and
        3673,  # a missing value: the driver knows no names for these
    }
)


def translated(error: Exception) -> PersistenceError | None:
    """Our error for one that the driver or the network raised; None if it is neither's."""
    match error:
        case PersistenceError():
            return error
        case UnicodeEncodeError():
            return DataRejected("a text that is not Unicode: it has half of a surrogate pair")
        case pymysql.err.Error():
            return _of_driver(error)
        case ssl.SSLError():
            return _of_tls(error)
        case TimeoutError():
            return StorageUnavailable("the database did not answer in time")
        case OSError() | asyncio.IncompleteReadError():
            return StorageUnavailable("the connection to the database was lost")
        case _:
            return None


def number_of(error: BaseException | None) -> int | None:
    """The number that the database or its driver gave, if it gave one."""
    first = error.args[0] if isinstance(error, pymysql.err.Error) and error.args else None
    return first if isinstance(first, int) and first > 0 else None


def column_in(error: BaseException, columns: Collection[str]) -> str | None:
    """Which of `columns` the driver blames, in `error` itself or in what `error` was raised from; None if it names none.

    Only the driver's text has it, and only as the last name in quotes: what stands before may be the value.
    """
    cause = error.__cause__ if isinstance(error, PersistenceError) else error
    if cause is None or number_of(cause) not in _NAMES_ITS_COLUMN:
        return None
    quoted = _QUOTED.findall(str(cause.args[-1]))
    name = quoted[-1].rpartition(".")[2] if quoted else None
    return name if name in columns else None


def _of_driver(error: pymysql.err.Error) -> PersistenceError:
    number = number_of(error)
    if number is None:
        return _without_number(error)
    if number in _BY_NUMBER:
        if isinstance(error.__cause__, ssl.SSLError):  # the driver says of any failure that it couldn't connect
            return _of_tls(error.__cause__)
        row = _BY_NUMBER[number]
        return row.kind(row.words, number=number)
    return UnclassifiedStorageError(f"the database answered with error {number}", number=number)


def _without_number(error: pymysql.err.Error) -> PersistenceError:
    if isinstance(error, pymysql.err.InterfaceError | pymysql.err.InternalError | pymysql.err.OperationalError):
        return StorageUnavailable("the connection to the database is broken")
    return UnclassifiedStorageError(f"the database's driver raised {type(error).__name__}")


def _of_tls(error: ssl.SSLError) -> PersistenceError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return StorageSetupError("the database's certificate is not trusted; see database.tls_ca and database.tls")
    return StorageUnavailable("the TLS connection to the database failed")
