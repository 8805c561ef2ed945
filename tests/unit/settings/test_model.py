"""The models by themselves: defaults, ranges, immutability, and the rules between keys."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from persistence_service.settings import (
    KEYS,
    BufferSettings,
    DatabaseSettings,
    Durability,
    JournalSettings,
    Key,
    LimitSettings,
    LoggingSettings,
    LogLevel,
    SecuritySettings,
    ServiceSettings,
    Settings,
    SqliteSettings,
    StorageSettings,
    is_loopback,
)

NUMBERS = [key for key in KEYS.values() if key.least is not None]


def test_the_defaults_are_those_that_are_promised() -> None:
    settings = Settings()
    assert (settings.service.host, settings.service.port, settings.service.shutdown_timeout) == (
        "127.0.0.1",
        8001,
        30.0,
    )
    assert (settings.buffer.max_buffer_size, settings.buffer.flush_interval) == (1000, 30.0)
    assert (settings.buffer.ack, settings.buffer.min_ack) == (Durability.JOURNAL, Durability.MEMORY)
    assert (settings.journal.max_bytes, settings.journal.min_free) == (4 * 2**30, 256 * 2**20)
    assert (settings.storage.backend, dict(settings.storage.routes)) == ("sqlite", {})
    assert settings.sqlite.path == Path("data/persistence.db")
    assert settings.database.addresses == (("localhost", 3306),)
    assert settings.database.password.get_secret_value() == ""
    assert settings.logging.file == Path("logs/persistence_service.log")


def test_a_misspelt_key_or_section_is_refused() -> None:
    with pytest.raises(ValidationError):
        BufferSettings.model_validate({"flush_intervall": 1})
    with pytest.raises(ValidationError):
        Settings.model_validate({"bufer": {}})


def test_settings_cannot_be_changed() -> None:
    settings = Settings(storage=StorageSettings(routes={"translation_cache": "memory"}))
    with pytest.raises(ValidationError):
        settings.service = ServiceSettings()
    with pytest.raises(ValidationError):
        settings.service.port = 1
    with pytest.raises(TypeError):
        settings.storage.routes["translation_cache"] = "x"  # type: ignore[index] # the point
    assert settings.model_dump()["storage"]["routes"] == {"translation_cache": "memory"}


def test_every_number_has_a_range() -> None:
    numbers = {
        name for name, key in KEYS.items() if isinstance(key.default, (int, float)) and key.default not in (True, False)
    }
    assert numbers <= {key.dotted for key in NUMBERS}
    assert all(key.most is not None for key in NUMBERS)


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.dotted)
def test_a_range_holds_its_ends_and_nothing_beyond(key: Key) -> None:
    assert key.least is not None
    assert key.most is not None
    assert key.check(key.kind.show(key.least)) == key.least
    assert key.check(key.kind.show(key.most)) == key.most
    for beyond in (key.least - 1, key.most + 1):
        with pytest.raises(ValidationError):
            key.check(beyond)


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.dotted)
def test_true_is_no_number(key: Key) -> None:
    with pytest.raises(ValidationError):
        key.check(True)


def test_every_key_is_described_with_a_sentence() -> None:
    assert all(key.description.endswith(".") for key in KEYS.values())
    assert all(key.model.__doc__ for key in KEYS.values())


def test_a_secret_does_not_show_in_the_settings() -> None:
    settings = Settings(database=DatabaseSettings(password=SecretStr("hunter2")))
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Settings(service=ServiceSettings(host="0.0.0.0")), "security.allow_anonymous"),
        (lambda: Settings(service=ServiceSettings(host="example.com")), "security.allow_anonymous"),
        (
            lambda: Settings(service=ServiceSettings(workers=2), storage=StorageSettings(backend="memory")),
            "service.workers (2) must be 1 with the backend memory",
        ),
        (
            lambda: Settings(service=ServiceSettings(workers=3), storage=StorageSettings(routes={"x": "memory"})),
            "service.workers (3) must be 1 with the backend memory",
        ),
        (lambda: Settings(buffer=BufferSettings(min_ack=Durability.STORAGE)), "buffer.min_ack (storage)"),
        (lambda: Settings(buffer=BufferSettings(max_memory_records=999)), "at least buffer.max_buffer_size (1000)"),
        (lambda: Settings(journal=JournalSettings(max_bytes=100 * 2**20)), "twice journal.segment_bytes (64MiB)"),
        (
            lambda: Settings(limits=LimitSettings(max_body_bytes=2**20, max_text_bytes=2**21)),
            "limits.max_text_bytes (2MiB)",
        ),
        (
            lambda: Settings(journal=JournalSettings(max_bytes=2**20, segment_bytes=2**18)),
            "limits.max_body_bytes (32MiB) must be at most journal.max_bytes (1MiB)",
        ),
        (lambda: Settings(database=DatabaseSettings(pool_size=4)), "database.pool_min (5)"),
    ],
)
def test_settings_that_contradict_each_other_cannot_be_built(build: Callable[[], Settings], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        build()
    assert words in str(caught.value)


def test_beyond_loopback_is_for_those_who_say_so() -> None:
    settings = Settings(service=ServiceSettings(host="0.0.0.0"), security=SecuritySettings(allow_anonymous=True))
    assert settings.service.host == "0.0.0.0"


@pytest.mark.parametrize(
    "host, answer",
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_promise_is_at_least_those_before_it() -> None:
    memory, journal, storage = Durability
    assert storage.at_least(journal)
    assert journal.at_least(journal)
    assert not memory.at_least(journal)


@pytest.mark.parametrize(
    "dotted, raw, value",
    [
        ("service.host", "[::1]", "::1"),
        ("service.host", "LocalHost", "localhost"),
        ("buffer.ack", "Storage", Durability.STORAGE),
        ("buffer.ack", Durability.STORAGE, Durability.STORAGE),
        ("logging.level", "debug", LogLevel.DEBUG),
        ("logging.file", "", None),
        ("logging.file", None, None),
        ("logging.file", "a/b.log", Path("a/b.log")),
        ("storage.migrate_on_start", "no", False),
        ("storage.routes", "a=memory, b=mysql", {"a": "memory", "b": "mysql"}),
        ("storage.routes", '{"a": "memory"}', {"a": "memory"}),
        ("storage.routes", "", {}),
        ("security.allowed_hosts", "One.example, two_2", ("one.example", "two_2")),
        ("security.allowed_hosts", '["one"]', ("one",)),
        ("security.allowed_hosts", "", ()),
        (
            "security.cors_origins",
            "https://Tools.example:8443,http://[::1]",
            ("https://tools.example:8443", "http://[::1]"),
        ),
        ("database.host", "db1", ("db1",)),
        ("database.host", "db1:3307,db2", ("db1:3307", "db2")),
        ("database.host", "[::1]:3307", ("[::1]:3307",)),
        ("database.host", "[2001:db8::1], [2001:db8::2]:3307", ("[2001:db8::1]", "[2001:db8::2]:3307")),
        ("database.host", ["[::1]:3307", "::1"], ("[::1]:3307", "::1")),
    ],
)
def test_a_value_reads_in_every_form_of_its_kind(dotted: str, raw: object, value: object) -> None:
    assert KEYS[dotted].check(raw) == value


@pytest.mark.parametrize(
    "dotted, raw",
    [
        ("service.host", ""),
        ("service.host", "a b"),
        ("service.host", "host:80"),
        ("service.host", "-x"),
        ("service.host", "a..b"),
        ("service.host", "300.1.1.1"),
        ("service.host", "x." * 127 + "com"),
        ("service.workers", 0),
        ("service.workers", 65),
        ("buffer.ack", "disk"),
        ("logging.level", 10),
        ("journal.directory", ""),
        ("journal.directory", "a\0b"),
        ("journal.directory", 5),
        ("sqlite.path", ":memory:"),
        ("database.user", " root"),
        ("database.user", "ro\not"),
        ("database.user", None),
        ("database.host", []),
        ("database.host", ""),
        ("database.host", "a:0"),
        ("database.host", "a:65536"),
        ("database.host", "root@a"),
        ("database.host", "[x]:1"),
        ("storage.backend", "my sql"),
        ("storage.routes", "a"),
        ("storage.routes", "a=b,a=c"),
        ("storage.routes", "{"),
        ("storage.routes", '{"a":' * 100_000),
        ("storage.routes", {"a": 1}),
        ("storage.routes", ["a"]),
        ("security.allowed_hosts", "*"),
        ("security.allowed_hosts", "a:80"),
        ("security.allowed_hosts", "a,,b"),
        ("security.allowed_hosts", "[1"),
        ("security.cors_origins", "*"),
        ("security.cors_origins", "https://a/b"),
        ("security.cors_origins", "https://a:99999"),
        ("security.cors_origins", "ftp://a"),
    ],
)
def test_what_is_not_of_its_kind_is_refused(dotted: str, raw: object) -> None:
    with pytest.raises(ValidationError):
        KEYS[dotted].check(raw)


def test_hosts_without_a_port_take_the_common_one() -> None:
    database = DatabaseSettings(host=("db1:3307", "db2", "[::1]:1", "::1"), port=3310)
    assert database.addresses == (("db1", 3307), ("db2", 3310), ("::1", 1), ("::1", 3310))


def test_sections_can_be_built_with_values_of_their_types() -> None:
    assert LoggingSettings(file=None).file is None
    assert SqliteSettings(path=Path("x.db"), busy_timeout=0.5).busy_timeout == 0.5


def test_settings_can_be_sent_to_another_process() -> None:
    database = DatabaseSettings(host=("a:1", "b"), password=SecretStr("secret"))
    settings = Settings(database=database, storage=StorageSettings(routes={"translation_tasks": "mysql"}))
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301  # our own bytes
