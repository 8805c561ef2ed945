"""Wrong usage of the command is told before anything is started."""

import pytest
from typer.testing import CliRunner

from persistence_service.cli.app import app

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
        (["--seconds", "0"], "--seconds"),
        (["--clients", "0"], "--clients"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_the_reason(options: list[str], told: str) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["torture", *options])
    assert result.exit_code == _WRONG_USAGE
    assert told in result.output
