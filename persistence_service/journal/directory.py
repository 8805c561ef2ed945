"""The journal's directory: what the files are called, how they come into being and how they go.

::

    lock                     who owns the directory
    head                     the number of the newest segment, so that its disappearance is noticed
    0000000000000007.seg     a segment
    0000000000000006.released  an empty file: segment 6 was removed on purpose; gone when the next manifest is on disk
    *.new                    something that was being created when a process died
    quarantine/              damaged bytes, kept for a person
"""

from __future__ import annotations

import contextlib
import re
import secrets
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from persistence_service.journal.format import (
    BODY_OFFSET,
    KIND_MANIFEST,
    ManifestEntry,
    SegmentHeader,
    SegmentKeys,
    encode_header,
    encode_manifest,
    encode_record,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from persistence_service.journal.files import Files

HEAD_NAME: Final = "head"
QUARANTINE_NAME: Final = "quarantine"
_SEGMENT_NAME = re.compile(r"(\d{16})\.seg")
_RELEASED_NAME = re.compile(r"(\d{16})\.released")
_HEAD = struct.Struct(">8s16sQQ")
_HEAD_MAGIC: Final = b"PSJHEAD\x01"
_HEAD_CHECKSUM_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Head:
    """The newest segment that was ever published here."""

    journal_id: bytes
    number: int
    first_sequence: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The names in the directory, by what they are; segments by the number in their name."""

    segments: dict[int, Path]
    released: dict[int, Path]
    unfinished: tuple[Path, ...]


@dataclass(slots=True)
class NewSegment:
    """A segment that is being created under a temporary name; `size` is where the next record goes."""

    fd: int
    path: Path
    header: SegmentHeader
    keys: SegmentKeys
    size: int


def segment_name(number: int) -> str:
    return f"{number:016d}.seg"


class JournalDirectory:
    """Names, creation and removal; every method blocks and raises OSError."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.files = files

    @property
    def quarantine(self) -> Path:
        return self.path / QUARANTINE_NAME

    def listing(self) -> Listing:
        segments: dict[int, Path] = {}
        released: dict[int, Path] = {}
        unfinished: list[Path] = []
        for name in self.files.names(self.path):
            if match := _SEGMENT_NAME.fullmatch(name):
                segments[int(match[1])] = self.path / name
            elif match := _RELEASED_NAME.fullmatch(name):
                released[int(match[1])] = self.path / name
            elif name.endswith(".new"):
                unfinished.append(self.path / name)
        return Listing(segments, released, tuple(unfinished))

    # ------------------------------------------------------------------------------------------------- creation

    def begin(
        self,
        *,
        journal_id: bytes,
        number: int,
        first_sequence: int,
        created_at_us: int,
        high_water_us: int,
        live: Sequence[ManifestEntry],
    ) -> NewSegment:
        """A new segment with its manifest under a temporary name; `publish` it or `discard` it."""
        header = SegmentHeader(
            journal_id, number, first_sequence, created_at_us, high_water_us, secrets.token_bytes(16)
        )
        keys = SegmentKeys.derive(header.secret)
        manifest = encode_manifest(tuple(live))
        head = encode_record(
            keys,
            BODY_OFFSET,
            sequence=first_sequence,
            accepted_at_us=created_at_us,
            high_water_us=high_water_us,
            kind=KIND_MANIFEST,
            items=0,
            payload=manifest,
        )
        path = self.path / (segment_name(number) + ".new")
        self.files.unlink(path)
        new = NewSegment(self.files.create(path), path, header, keys, 0)
        try:
            new.size = self.files.write_all(new.fd, (encode_header(header), head, manifest), 0)
        except BaseException:
            self.discard(new)
            raise
        return new

    def publish(self, new: NewSegment) -> Path:
        """The segment has its name, and name and content are on disk; a failure leaves nothing under that name or all of it."""
        path = self.path / segment_name(new.header.number)
        try:
            self.files.sync(new.fd)
            self.files.rename(new.path, path)
        except BaseException:
            self.discard(new)
            raise
        try:
            self.files.sync_directory(self.path)
        except BaseException:
            new.path = path
            self.discard(new)
            raise
        return path

    def discard(self, new: NewSegment) -> None:
        """What `begin` made is gone, as far as the disk lets it go; the next start removes what is left."""
        with contextlib.suppress(OSError):
            self.files.close(new.fd)
        with contextlib.suppress(OSError):
            self.files.unlink(new.path)

    # -------------------------------------------------------------------------------------------------- removal

    def mark_released(self, path: Path, number: int) -> Path:
        """The segment is removed on purpose, and its room is free; works on a full disk.

        The renamed, emptied file is the durable note that the segment is not missing; it may go when a manifest that no
        longer lists the segment is on disk.
        """
        released = self.path / f"{number:016d}.released"
        try:
            self.files.rename(path, released)
        except FileNotFoundError:  # an earlier attempt came this far, or a person removed the file
            with contextlib.suppress(FileExistsError):
                self.files.close(self.files.create(released))
        self.files.sync_directory(self.path)
        with contextlib.suppress(FileNotFoundError):
            self.files.truncate(released, 0)
        return released

    def make_quarantine(self) -> None:
        """There is a quarantine; what stood in its place and is no directory is in it."""
        try:
            self.files.make_directory(self.quarantine)
        except FileExistsError:
            aside = self.path / f"{QUARANTINE_NAME}.aside"
            self.files.rename(self.quarantine, aside)
            self.files.make_directory(self.quarantine)
            self.files.rename(aside, self.quarantine / aside.name)

    def set_aside(self, path: Path) -> Path:
        """The whole file is in quarantine, under a name that was free."""
        self.make_quarantine()
        taken = set(self.files.names(self.quarantine))
        name, attempt = path.name, 0
        while name in taken:
            attempt += 1
            name = f"{path.name}.{attempt}"
        target = self.quarantine / name
        self.files.rename(path, target)
        self.files.sync_directory(self.quarantine)
        self.files.sync_directory(self.path)
        return target

    def note_in_quarantine(self, name: str, text: bytes) -> None:
        """A small file of this content is in quarantine; one that has the name already stays as it is."""
        self.make_quarantine()
        if name not in self.files.names(self.quarantine):
            fd = self.files.create(self.quarantine / name)
            try:
                self.files.write_all(fd, (text,), 0)
                self.files.sync(fd)
            finally:
                self.files.close(fd)
            self.files.sync_directory(self.quarantine)

    # ----------------------------------------------------------------------------------------------------- head

    def write_head(self, head: Head) -> None:
        """The head names this segment; an older head stays if the process dies meanwhile."""
        fields = _HEAD.pack(_HEAD_MAGIC, head.journal_id, head.number, head.first_sequence)
        path = self.path / (HEAD_NAME + ".new")
        self.files.unlink(path)
        fd = self.files.create(path)
        try:
            self.files.write_all(fd, (fields, _head_checksum(fields)), 0)
            self.files.sync(fd)
        finally:
            self.files.close(fd)
        try:
            self.files.rename(path, self.path / HEAD_NAME)
        except IsADirectoryError:
            self.set_aside(self.path / HEAD_NAME)
            self.files.rename(path, self.path / HEAD_NAME)

    def read_head(self) -> Head | None:
        """The head, or None when there is none that is intact."""
        try:
            fd = self.files.open_existing(self.path / HEAD_NAME)
        except OSError:
            return None
        try:
            content = self.files.read(fd, 0, _HEAD.size + _HEAD_CHECKSUM_BYTES)
        except OSError:
            return None
        finally:
            self.files.close(fd)
        fields = content[: _HEAD.size]
        if content[_HEAD.size :] != _head_checksum(fields) or len(fields) < _HEAD.size:
            return None
        magic, journal_id, number, first_sequence = _HEAD.unpack(fields)
        return Head(journal_id, number, first_sequence) if magic == _HEAD_MAGIC else None


def _head_checksum(fields: bytes) -> bytes:
    return blake2b(fields, digest_size=_HEAD_CHECKSUM_BYTES, person=b"psj head").digest()
