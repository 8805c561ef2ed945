"""`load_settings`: precedence, sources, and one error for everything that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from persistence_service.settings import KEYS, NAMED_FLAGS, Settings, environment_name
from tests.unit.settings.conftest import Place


def test_nothing_configured_is_the_defaults(place: Place) -> None:
    loaded = place.load()
    assert loaded.settings == Settings()
    assert loaded.sources == dict.fromkeys(KEYS, "default")
    assert loaded.unused == ()


def test_each_source_overrides_the_next(place: Place) -> None:
    place.write(
        "config/config.yaml",
        "service: {port: 1, shutdown_timeout: 1}\nsqlite: {readers: 1}\nbuffer:\n  ack_timeout: 1\n",
    )
    place.write(
        ".env",
        "PERSISTENCE_SERVICE__PORT=2\nPERSISTENCE_SERVICE__SHUTDOWN_TIMEOUT=2\n\nPERSISTENCE_SQLITE__READERS=2\n",
    )
    environ = {"PERSISTENCE_SERVICE__PORT": "3", "PERSISTENCE_SERVICE__SHUTDOWN_TIMEOUT": "3"}
    loaded = place.load(environ, named_flags={"--port": "4", "--host": None})
    settings = loaded.settings
    assert settings.service.port == 4
    assert settings.service.shutdown_timeout == 3.0
    assert settings.sqlite.readers == 2
    assert settings.buffer.ack_timeout == 1.0
    assert loaded.sources["service.port"] == "command line --port"
    assert loaded.sources["service.shutdown_timeout"] == "environment PERSISTENCE_SERVICE__SHUTDOWN_TIMEOUT"
    assert loaded.sources["sqlite.readers"] == ".env line 4"
    assert loaded.sources["buffer.ack_timeout"] == "config/config.yaml line 4"
    assert loaded.sources["service.host"] == "default"


def test_every_key_can_be_set_from_the_environment(place: Place) -> None:
    environ = {
        key.environment_name: key.default_text.strip('"').removeprefix("[").removesuffix("]") for key in KEYS.values()
    }
    loaded = place.load(environ)
    assert loaded.settings == Settings()
    assert loaded.sources == {dotted: f"environment {environment_name(dotted)}" for dotted in KEYS}


def test_only_names_with_section_and_key_are_settings(place: Place) -> None:
    place.write("none.yaml", "")
    environ = {
        "PERSISTENCE_CONFIG": "none.yaml",
        "PERSISTENCE_TEST_MYSQL_URL": "mysql://x",
        "PERSISTENCE_SERVICE_HOST": "10.0.0.1",
        "PERSISTENCE_SERVICE_PORT": "tcp://10.0.0.1:80",
        "OTHER__KEY": "1",
        "PATH": "/bin",
    }
    assert place.load(environ).settings == Settings()


def test_the_configuration_file_is_the_one_named_nearest(place: Place) -> None:
    for port, name in enumerate(["flag.yaml", "variable.yaml", "dotenv.yaml", "config/config.yaml"], start=1):
        place.write(name, f"service: {{port: {port}}}")
    environ = {"PERSISTENCE_CONFIG": "variable.yaml"}
    place.write(".env", "PERSISTENCE_CONFIG=dotenv.yaml")
    assert place.load(environ, config_path=Path("flag.yaml")).settings.service.port == 1
    assert place.load(environ).settings.service.port == 2
    assert place.load({"PERSISTENCE_CONFIG": ""}).settings.service.port == 3
    place.write(".env", "")
    assert place.load().settings.service.port == 4


@pytest.mark.parametrize(
    "environ, flag, source",
    [
        ({"PERSISTENCE_CONFIG": "no/such.yaml"}, None, "environment PERSISTENCE_CONFIG"),
        ({}, Path("no/such.yaml"), "command line --config"),
    ],
)
def test_a_named_configuration_file_must_exist(
    place: Place, environ: dict[str, str], flag: Path | None, source: str
) -> None:
    (problem,) = place.problems(environ, config_path=flag)
    assert problem.source == source
    assert problem.value == "'no/such.yaml'"
    assert "No such file" in problem.allowed


def test_a_configuration_file_that_cannot_be_read_is_a_problem(place: Place) -> None:
    (place.directory / "config" / "config.yaml").mkdir(parents=True)
    (problem,) = place.problems()
    assert problem.source == "config/config.yaml"
    (problem,) = place.problems({"PERSISTENCE_CONFIG": "a\0b"})
    assert "null" in problem.allowed


def test_all_problems_of_all_sources_come_at_once(place: Place) -> None:
    place.write(
        "config/config.yaml",
        "service:\n  port: 70000\n  prt: 1\nbufer:\n  x: 1\nbuffer:\n  flush_interval: soon\ndatabase:\n  pool_min: 50\n",
    )
    place.write(".env", "PERSISTENCE_JOURNAL__MAX_BYTES=lots\nthis is no line\n")
    environ = {
        "PERSISTENCE_SERVICE__WORKERS": "many",
        "PERSISTENCE_BUFFER__FLUSH_INTERVALL": "5",
        "PERSISTENCE_SERVICE__HOST": "0.0.0.0",
    }
    problems = place.problems(environ, flags={"logging.level": "loud", "logging.colour": "red"})
    assert [(problem.source, problem.key, problem.value) for problem in problems] == [
        ("command line --set logging.colour", "logging.colour", "'red'"),
        ("command line --set logging.level", "logging.level", "'loud'"),
        ("environment PERSISTENCE_BUFFER__FLUSH_INTERVALL", "PERSISTENCE_BUFFER__FLUSH_INTERVALL", "'5'"),
        ("environment PERSISTENCE_SERVICE__WORKERS", "service.workers", "'many'"),
        (".env line 2", "(line)", "(not shown)"),
        (".env line 1", "journal.max_bytes", "'lots'"),
        ("config/config.yaml line 3", "service.prt", "'1'"),
        ("config/config.yaml line 5", "bufer", "(a section)"),
        ("config/config.yaml line 2", "service.port", "'70000'"),
        ("config/config.yaml line 7", "buffer.flush_interval", "'soon'"),
        ("environment PERSISTENCE_SERVICE__HOST", "service.host", "'0.0.0.0'"),
        ("config/config.yaml line 9", "database.pool_min", "'50'"),
    ]


def test_a_problem_says_what_is_allowed(place: Place) -> None:
    assert place.problem(flags={"service.port": "x"}).allowed == "a whole number, 0 to 65535"
    assert place.problem(flags={"buffer.ack": "x"}).allowed == "one of memory, journal, storage"
    assert place.problem(flags={"service.workers": 65}).allowed == "a whole number, 1 to 64"
    assert "10ms to 1h" in place.problem(flags={"buffer.flush_interval": 0}).allowed


@pytest.mark.parametrize(
    "name, meant",
    [
        ("PERSISTENCE_BUFFER__FLUSH_INTERVALL", "did you mean PERSISTENCE_BUFFER__FLUSH_INTERVAL?"),
        ("PERSISTENCE_BUFER__ACK", "did you mean PERSISTENCE_BUFFER__ACK?"),
        ("PERSISTENCE_SERVICE__FLUSH_INTERVAL", "did you mean PERSISTENCE_BUFFER__FLUSH_INTERVAL?"),
        ("PERSISTENCE_service__port", "did you mean PERSISTENCE_SERVICE__PORT?"),
        ("persistence_service__port", "did you mean PERSISTENCE_SERVICE__PORT?"),
        ("PERSISTENCE_SERVICE__ZZZ", "service has host, port, workers, shutdown_timeout"),
        ("PERSISTENCE_ZZZ__QQQ", "the sections are service, buffer,"),
        ("PERSISTENCE_SERVICE__PORT_FILE", "did you mean PERSISTENCE_SERVICE__PORT?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(place: Place, name: str, meant: str) -> None:
    problem = place.problem({name: "1"})
    assert problem.key == name
    assert problem.allowed.startswith("there is no such key; ")
    assert meant in problem.allowed


def test_values_that_are_overridden_are_checked_all_the_same(place: Place) -> None:
    place.write("config/config.yaml", "service: {port: high}")
    assert place.problem({"PERSISTENCE_SERVICE__PORT": "1"}).source == "config/config.yaml line 1"


def test_a_rule_over_a_bad_value_is_not_reported_on_top(place: Place) -> None:
    problem = place.problem({"PERSISTENCE_DATABASE__POOL_SIZE": "few", "PERSISTENCE_DATABASE__POOL_MIN": "50"})
    assert problem.key == "database.pool_size"


def test_a_broken_rule_is_laid_to_the_key_that_was_set(place: Place) -> None:
    problem = place.problem({"PERSISTENCE_DATABASE__POOL_SIZE": "2"})
    assert problem.key == "database.pool_size"
    assert problem.allowed == "database.pool_min (5) must be at most database.pool_size (2)"


def test_database_settings_without_a_mysql_collection_are_unused(place: Place) -> None:
    environ = {"PERSISTENCE_DATABASE__USER": "app", "PERSISTENCE_DATABASE__HOST": "localhost"}
    assert place.load(environ).unused == ("database.host", "database.user")
    assert place.load({**environ, "PERSISTENCE_STORAGE__BACKEND": "mysql"}).unused == ()
    assert place.load({**environ, "PERSISTENCE_STORAGE__ROUTES": "translation_cache=mysql"}).unused == ()


def test_defaults_that_a_file_repeats_do_not_count_as_set(place: Place) -> None:
    place.write("config/config.yaml", "database: {host: localhost, port: 3306, pool_size: 20}")
    assert place.load().unused == ("database.pool_size",)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00PERSISTENCE", None], ids=["not text", "a directory"])
def test_a_dotenv_file_that_cannot_be_read_is_a_problem(place: Place, content: bytes | None) -> None:
    if content is None:
        (place.directory / ".env").mkdir()
    else:
        place.write(".env", content)
    assert place.problem().source == ".env"


def test_a_dotenv_file_is_read_as_it_stands(place: Place) -> None:
    place.write(
        ".env",
        "# comment\nexport PERSISTENCE_DATABASE__PASSWORD='a$HOME${X}b'\nOTHER\nOTHER_2=1\n"
        'PERSISTENCE_DATABASE__USER=first\nPERSISTENCE_DATABASE__USER="second" # comment\n',
    )
    loaded = place.load({"HOME": "/root"})
    assert loaded.settings.database.password.get_secret_value() == "a$HOME${X}b"
    assert loaded.settings.database.user == "second"
    assert loaded.sources["database.user"] == ".env line 6"


def test_a_setting_without_a_value_in_a_dotenv_file_is_a_problem(place: Place) -> None:
    place.write(".env", "\n\nPERSISTENCE_DATABASE__USER\n")
    assert place.problem().source == ".env line 3"


def test_a_bad_value_is_told_of_the_flag_that_it_was_given_with(place: Place) -> None:
    assert place.problem(flags={"service.port": "x"}).source == "command line --set service.port"
    assert place.problem(named_flags={"--port": "x"}).source == "command line --port"


def test_a_key_may_not_be_given_two_values_by_two_flags(place: Place) -> None:
    problem = place.problem(flags={"service.port": "2"}, named_flags={"--port": "1"})

    assert str(problem) == "command line --set service.port: service.port = '2': given once; --port says '1'"
    assert place.load(flags={"service.port": "1"}, named_flags={"--port": "1"}).settings.service.port == 1


def test_named_flags_are_of_different_keys_that_there_are() -> None:
    assert len({key for key in NAMED_FLAGS.values() if key in KEYS}) == len(NAMED_FLAGS)


def test_importing_reads_neither_environment_nor_configuration(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PERSISTENCE_SERVICE__PORT=nonsense")
    code = "import persistence_service.settings as s; print(s.Settings().service.port)"
    environ = {"PERSISTENCE_SERVICE__PORT": "nonsense", "PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert run.stdout == "8001\n"
