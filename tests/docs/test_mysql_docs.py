"""docs/mysql.md and the sample configuration for MySQL agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from persistence_service.bootstrap import mysql_options, storage_names
from persistence_service.errors import (
    DataRejected,
    QueryTimeout,
    StorageSetupError,
    StorageUnavailable,
    TransactionConflict,
)
from persistence_service.settings import DatabaseSettings, TlsMode, load_settings
from persistence_service.storage.mysql.errors import TABLE
from persistence_service.storage.mysql.grants import MIGRATING, RUNNING

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "mysql.md").read_text(encoding="utf-8")
SAMPLE = ROOT / "config" / "mysql.example.yaml"
KINDS = (StorageUnavailable, TransactionConflict, QueryTimeout, DataRejected, StorageSetupError)


@pytest.mark.parametrize("kind", [*(kind.__name__ for kind in KINDS), "UnclassifiedStorageError"])
def test_the_numbers_of_the_document_are_those_of_the_table(kind: str) -> None:
    (row,) = re.findall(rf"^\| `{kind}` \|.*\| (.*) \|$", DOCUMENT, re.MULTILINE)
    numbers = [int(number) for number in re.findall(r"\d{4}", row)]
    known = {row.number: row.kind.__name__ for row in TABLE}

    assert numbers
    assert {known.get(number, "UnclassifiedStorageError") for number in numbers} == {kind}


def test_the_sample_loads_and_means_what_it_says(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    sample = tmp_path / "sample.yaml"
    sample.write_text(SAMPLE.read_text().replace("/run/secrets/database_password", str(secret)))
    loaded = load_settings(environ={}, directory=tmp_path, config_path=sample, known=storage_names())
    options = mysql_options(loaded.settings)

    assert loaded.unused == ()
    assert options.addresses == (("db1.internal", 3306), ("db2.internal", 3306), ("db3.internal", 3306))
    assert (options.password, options.tls.mode) == ("secret", TlsMode.VERIFY_IDENTITY)


def test_every_setting_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`database\.(\w+)`", DOCUMENT))

    assert named
    assert named <= set(DatabaseSettings.model_fields)


def test_the_example_of_a_group_is_a_list_of_its_members() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    settings = DatabaseSettings.model_validate(yaml.safe_load(block)["database"])

    assert settings.addresses == (("db1.internal", 3306), ("db2.internal", 3306), ("db3.internal", 3307))


def test_the_grants_are_those_that_the_check_looks_for() -> None:
    migrating, running = re.findall(r"GRANT ([A-Z, ]+?)\s+ON `ai_terminal`", DOCUMENT)

    assert tuple(running.split(", ")) == RUNNING
    assert tuple(migrating.split(", ")) == (*RUNNING, *MIGRATING)
