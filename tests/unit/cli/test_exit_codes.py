"""How errors leave the process: with a message and a code that says what kind they are of."""

from __future__ import annotations

import pytest
import typer

from persistence_service.cli import app as command_line
from persistence_service.errors import ConfigurationError, ConfigurationProblem, JournalError


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigurationError([ConfigurationProblem("env", "a.b", "1", "more")]), 2),
        (JournalError("it is no journal"), 3),
        (typer.Exit(1), 1),
        (typer.BadParameter("no such thing"), 2),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "not allowed"), 70),
        (ValueError("nobody thought of it"), 70),
        (ExceptionGroup("several", [ValueError("nobody thought of it")]), 70),
    ],
    ids=repr,
)
def test_only_a_command_that_found_something_ends_with_1(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(command_line, "app", app)
    monkeypatch.setattr("sys.argv", ["persistence-service"])
    with pytest.raises(SystemExit) as end:
        command_line.main()
    assert end.value.code == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 70)
