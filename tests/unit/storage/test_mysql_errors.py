"""MySQL's numbers as our classes: the laws of the table, and what has no number."""

from __future__ import annotations

import asyncio
import ssl

import pymysql
import pytest
from pymysql.constants import CR

from persistence_service.errors import (
    DataRejected,
    PersistenceError,
    QueryTimeout,
    StorageSetupError,
    StorageUnavailable,
    TransactionConflict,
    UnclassifiedStorageError,
)
from persistence_service.storage.mysql import errors
from persistence_service.storage.mysql.errors import TABLE, Explained, column_in, translated


def raised(number: int, text: str = "driver's own words") -> pymysql.err.Error:
    return pymysql.err.OperationalError(number, text)


def test_every_number_stands_once() -> None:
    numbers = [row.number for row in TABLE]
    assert sorted(set(numbers)) == sorted(numbers)


def test_every_row_names_a_source_whose_address_the_docstring_has() -> None:
    documented = errors.__doc__ or ""
    assert all(row.sources for row in TABLE)
    for source in {source for row in TABLE for source in row.sources}:
        assert f"`{source}`" in documented


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.number))
def test_each_number_gives_its_class_with_our_words_and_the_number(row: Explained) -> None:
    error = translated(raised(row.number))

    assert type(error) is row.kind
    assert str(error) == row.words
    assert getattr(error, "number", None) == row.number


@pytest.mark.parametrize(
    "number, kind",
    [
        (1040, StorageUnavailable),
        (1114, StorageUnavailable),
        (1290, StorageUnavailable),
        (1317, StorageUnavailable),
        (1927, StorageUnavailable),
        (2013, StorageUnavailable),
        (3796, StorageUnavailable),
        (1047, StorageUnavailable),
        (9005, StorageUnavailable),
        (1205, TransactionConflict),
        (1213, TransactionConflict),
        (1412, TransactionConflict),
        (3101, TransactionConflict),
        (3572, TransactionConflict),
        (9007, TransactionConflict),
        (3024, QueryTimeout),
        (1969, QueryTimeout),
        (1153, DataRejected),
        (1366, DataRejected),
        (1406, DataRejected),
        (3819, DataRejected),
        (4025, DataRejected),
        (1045, StorageSetupError),
        (1049, StorageSetupError),
        (1142, StorageSetupError),
        (1146, StorageSetupError),
        (1176, StorageSetupError),
    ],
)
def test_what_is_to_be_done_about_the_usual_ones(number: int, kind: type[PersistenceError]) -> None:
    assert type(translated(raised(number))) is kind


def test_of_the_drivers_own_numbers_only_those_of_connecting_are_more_than_a_lost_connection() -> None:
    others = {row.number for row in TABLE if 2000 <= row.number < 3000 and row.kind is not StorageUnavailable}

    assert others == {CR.CR_SSL_CONNECTION_ERROR, CR.CR_AUTH_PLUGIN_CANNOT_LOAD, CR.CR_AUTH_PLUGIN_ERR}


@pytest.mark.parametrize("number", [1064, 1105, 1815, 4999])
def test_a_number_in_no_row_is_unclassified_and_keeps_its_number(number: int) -> None:
    error = translated(raised(number))

    assert isinstance(error, UnclassifiedStorageError)
    assert error.number == number


def test_the_drivers_text_never_gets_into_ours() -> None:
    for number in [*(row.number for row in TABLE), 4999]:
        assert "secret" not in str(translated(raised(number, "secret 'value'")))


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.InterfaceError(0, ""),
        pymysql.err.InterfaceError("(0, 'Not connected')"),
        pymysql.err.InternalError("Packet sequence number wrong"),
        pymysql.err.OperationalError(),
        ConnectionResetError(),
        BrokenPipeError(),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", 4),
        ssl.SSLError("EOF"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_connection_is_transient(error: Exception) -> None:
    assert type(translated(error)) is StorageUnavailable


def test_a_certificate_that_is_not_trusted_is_for_a_person_to_mend() -> None:
    refused = ssl.SSLCertVerificationError("self-signed")
    wrapped = pymysql.err.OperationalError(2003, "Can't connect")
    wrapped.__cause__ = refused

    assert isinstance(translated(refused), StorageSetupError)
    assert isinstance(translated(wrapped), StorageSetupError)


def test_half_of_a_surrogate_pair_is_the_records_fault() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "\ud800".encode()

    assert isinstance(translated(caught.value), DataRejected)


def test_our_own_errors_pass_and_foreign_ones_are_not_ours() -> None:
    ours = DataRejected("")

    assert translated(ours) is ours
    assert translated(ValueError()) is None
    assert isinstance(translated(pymysql.err.ProgrammingError("closed")), UnclassifiedStorageError)


COLUMNS = ("name", "status")


@pytest.mark.parametrize(
    "number, text, column",
    [
        (1406, "Data too long for column 'name' at row 3", "name"),
        (1366, "Incorrect string value: 'status' for column 'name' at row 1", "name"),
        (1366, "Incorrect string value: 'it''s 'status'' for column `shop`.`tasks`.`name` at row 1", "name"),
        (1292, "Incorrect datetime value: '2024' for column 'status' at row 1", "status"),
        (3140, "Invalid JSON text: \"x\" at position 0 in value for column 'tasks.name'.", "name"),
        (1406, "Data too long for column 'foreign_to_us' at row 3", None),
        (1062, "Duplicate entry 'status' for key 'PRIMARY'", None),
        (3819, "Check constraint 'name' is violated.", None),
        (1406, "nothing quoted", None),
    ],
)
def test_the_column_is_the_last_name_in_quotes_if_it_is_known(number: int, text: str, column: str | None) -> None:
    cause = raised(number, text)
    ours = translated(cause)
    assert ours is not None
    ours.__cause__ = cause

    assert column_in(cause, COLUMNS) == column
    assert column_in(ours, COLUMNS) == column


def test_an_error_without_cause_blames_no_column() -> None:
    assert column_in(DataRejected("too long", number=1406), COLUMNS) is None
