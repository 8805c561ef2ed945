"""Wrong usage of the command is told before anything is started."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from persistence_service.bootstrap import storage_names
from persistence_service.cli.app import app
from persistence_service.settings import load_settings
from persistence_service.torture.conductor import Plan
from persistence_service.torture.engine import Order, _settings

_WRONG_USAGE = 2


@pytest.mark.parametrize(
    "options, told",
    [
        (["--url", "127.0.0.1:8001"], "no address"),
        (["--url", "ftp://127.0.0.1"], "no address"),
        (["--url", "http://"], "no address"),
        (["--url", "http://127.0.0.1:0"], "no address"),
        (["--url", "http://127.0.0.1:99999"], "no address"),
        (["--set", "service.port=8001"], "service.port"),
        (["--set", "service.host=0.0.0.0"], "service.host"),
        (["--set", "storage.backend=memory"], "storage.backend is sqlite, as --backend says"),
        (["--backend", "mysql", "--set", "storage.backend=sqlite"], "storage.backend is mysql, as --backend says"),
        (["--set", "storage.routes=translation_tasks=memory"], "--backend"),
        (["--backend", "memory"], "keeps nothing"),
        (["--backend", "oracle"], "--backend: there is no storage backend 'oracle'"),
        (["--url", "http://127.0.0.1:1", "--backend", "mysql"], "for --backend:"),
        (["--url", "http://127.0.0.1:1", "--backend", "sqlite"], "for --backend:"),
        (["--url", "http://127.0.0.1:1", "--set", "buffer.ack=storage"], "for --set:"),
        (["--url", "http://127.0.0.1:1", "--config", "mine.yaml"], "for --config:"),
        (["--seconds", "0"], "--seconds"),
        (["--clients", "0"], "--clients"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_the_reason(options: list[str], told: str) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["torture", *options])
    assert result.exit_code == _WRONG_USAGE
    assert told in result.output


def test_routes_of_the_configuration_lead_no_torture_to_another_database_than_it_was_told(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storage: {backend: mysql, routes: {translation_tasks: mysql}}\n")
    loaded = load_settings(flags=_settings(Order(Plan(1, 1)), tmp_path), config_path=config, known=storage_names())

    assert (loaded.settings.storage.backend, dict(loaded.settings.storage.routes)) == ("sqlite", {})
