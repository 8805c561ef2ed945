"""Dead letters that even the backend can't hold, each a file beside the journal.

A file's name is the letter's id. It is JSON: the letter with its parts as the backend would have them, and a checksum over
that text, so that a damaged file is known for one.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from persistence_service.buffer.dead_letters import Letter
from persistence_service.errors import DeadLetterDamaged
from persistence_service.journal.files import Files
from persistence_service.models.dead_letter import DeadLetter
from persistence_service.storage.collections import DEAD_LETTERS

DIRECTORY_NAME = "dead-letters"
LETTER_ID_PATTERN = "[0-9a-f]{32}"
_ID = re.compile(LETTER_ID_PATTERN)
_NAME = re.compile(rf"({LETTER_ID_PATTERN})\.json")
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A letter's file that can't be read as it was written; `detail` is in our words."""

    letter_id: str
    detail: str


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    letter: msgspec.Raw
    checksum: str


_content = msgspec.json.Decoder(_Content)
_letter = msgspec.json.Decoder(Letter)


class LetterFiles:
    """The letters in `directory`, which need not exist yet. Every method blocks, and raises OSError when the disk fails."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self._directory = directory
        self._files = files or Files()

    def write(self, letter: Letter) -> None:
        """Keep `letter` on disk, whole or not at all; one that is there already takes the new reason.

        Raises:
            ValueError: its id is none that `new_letter` gives.
        """
        letter_id = letter.letter.letter_id
        if not _ID.fullmatch(letter_id):
            raise ValueError(f"{letter_id!r} is no id of a dead letter")
        with contextlib.suppress(DeadLetterDamaged):  # a damaged file is replaced
            kept = self.read(letter_id)
            if kept is not None:
                letter = Letter(DEAD_LETTERS.merge(kept.letter, letter.letter), letter.parts)
        self._make_directory()
        self._files.sync_directory(self._directory.parent)
        path = self._path(letter_id)
        unfinished = path.with_suffix(".new")
        try:
            self._write_new(unfinished, _encode(letter))
            self._files.rename(unfinished, path)
            self._files.sync_directory(self._directory)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(unfinished)
            raise

    def _make_directory(self) -> None:
        """There is a directory; what stood in its place and is none stays beside it."""
        try:
            self._files.make_directory(self._directory)
        except FileExistsError:
            aside = self._directory.with_name(f"{self._directory.name}.aside-{secrets.token_hex(8)}")
            self._files.rename(self._directory, aside)
            self._files.make_directory(self._directory)

    def all(self) -> Iterator[DeadLetter | DamagedFile]:
        """Every letter, by id, one read at a time; one that goes meanwhile is left out."""
        for letter_id in self.ids():
            try:
                found = self.read(letter_id)
            except DeadLetterDamaged as exc:
                yield DamagedFile(exc.letter_id, exc.detail)
                continue
            if found is not None:
                yield found.letter

    def ids(self) -> list[str]:
        """The letters that there are, sorted by id; damaged ones too."""
        try:
            names = self._files.names(self._directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [match[1] for name in names if (match := _NAME.fullmatch(name))]

    def read(self, letter_id: str) -> Letter | None:
        """The letter, None if there is none of this id.

        Raises:
            DeadLetterDamaged: its file is there and can't be read.
        """
        if not _ID.fullmatch(letter_id):
            return None
        try:
            content = self._content(self._path(letter_id))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise DeadLetterDamaged(letter_id, "the disk can't read it") from exc
        try:
            return _decode(letter_id, content)
        except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
            raise DeadLetterDamaged(letter_id, "it is not as it was written") from exc

    def holds(self, letter_id: str) -> bool:
        """Whether there is a file of this letter, damaged or not."""
        return bool(_ID.fullmatch(letter_id)) and self._path(letter_id).exists()

    def remove(self, letter_id: str) -> bool:
        """Whether there was a file of this letter, damaged or not; it is gone now, from the disk too."""
        if not self.holds(letter_id):
            return False
        self._files.unlink(self._path(letter_id))
        self._files.sync_directory(self._directory)
        return True

    def _path(self, letter_id: str) -> Path:
        return self._directory / f"{letter_id}.json"

    def _write_new(self, path: Path, content: bytes) -> None:
        self._files.unlink(path)  # of a write that a crash cut short
        fd = self._files.create(path)
        try:
            self._files.write_all(fd, (content,), 0)
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    def _content(self, path: Path) -> bytes:
        fd = self._files.open_existing(path)
        try:
            return self._files.read(fd, 0, self._files.size(fd))
        finally:
            self._files.close(fd)


def _encode(letter: Letter) -> bytes:
    text = msgspec.json.encode(letter)
    return msgspec.json.encode(_Content(msgspec.Raw(text), _checksum(text))) + b"\n"


def _decode(letter_id: str, content: bytes) -> Letter:
    outer = _content.decode(content)
    text = bytes(outer.letter)
    if outer.checksum != _checksum(text):
        raise ValueError("the checksum is another")
    letter = _letter.decode(text)
    if letter.letter.letter_id != letter_id:
        raise ValueError("it is another letter's")
    return letter


def _checksum(text: bytes) -> str:
    return blake2b(text, digest_size=_CHECKSUM_BYTES, person=b"psj letter").hexdigest()
