"""The protection of connections: made once, and anew when its files are renewed."""

import os
from pathlib import Path

import pytest

from persistence_service.errors import StorageSetupError
from persistence_service.settings import TlsMode
from persistence_service.storage.mysql.options import TlsOptions
from tests.integration.mysql.certificates import Authority


def written_later(path: Path) -> None:
    """Files written within a few milliseconds have the same time on many a system, and these may have the same size."""
    written = path.stat()
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns + 1_000_000_000))


def test_the_context_is_the_same_until_a_file_is_renewed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    options = TlsOptions(TlsMode.VERIFY_IDENTITY, authority.certificate, tmp_path / "own.pem", tmp_path / "own.key")
    authority.issue("127.0.0.1", tmp_path / "own.pem", tmp_path / "own.key")
    former = options.context()
    assert former is not None
    assert options.context() is former

    authority.issue("127.0.0.1", tmp_path / "own.pem", tmp_path / "own.key")
    written_later(tmp_path / "own.pem")
    renewed = options.context()
    assert renewed not in (None, former)
    written_later(Authority(tmp_path).certificate)
    assert options.context() not in (None, former, renewed)

    (tmp_path / "own.key").unlink()
    with pytest.raises(StorageSetupError, match="tls_key"):
        options.context()


def test_the_systems_authorities_are_read_once() -> None:
    options = TlsOptions(TlsMode.VERIFY_CA)
    assert options.context() is options.context()


def test_each_mode_has_a_context_of_its_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path).certificate
    contexts = {mode: TlsOptions(mode, authority).context() for mode in TlsMode}
    assert contexts.pop(TlsMode.DISABLED) is None
    assert {mode: context and context.check_hostname for mode, context in contexts.items()} == {
        TlsMode.REQUIRED: False,
        TlsMode.VERIFY_CA: False,
        TlsMode.VERIFY_IDENTITY: True,
    }
