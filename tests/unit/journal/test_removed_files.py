"""Somebody removes files of a running journal: nothing is acknowledged into a file that nobody can find again."""

import asyncio
import shutil
from errno import EIO

import pytest
from structlog.typing import EventDict

from persistence_service.errors import JournalLocked, JournalUnavailable
from persistence_service.journal import Journal, Loss
from persistence_service.journal.format import BODY_OFFSET
from tests.unit.journal.bench import Bench, payloads, put, replay_all, settle


async def refused(journal: Journal, *, durable: bool = True) -> None:
    with pytest.raises(JournalUnavailable):
        await put(journal, b"refused", durable=durable)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_removed_directory_is_made_again_with_all_that_was_acknowledged(
    bench: Bench, logged: list[EventDict], durable: bool
) -> None:
    journal = await bench.open()
    kept = [await put(journal, b"kept"), await put(journal, b"quick", durable=False)]
    shutil.rmtree(bench.path)
    await refused(journal, durable=durable)
    after = await put(journal, b"after")
    assert [await journal.read(position) for position in (*kept, after)] == [b"kept", b"quick", b"after"]
    assert (journal.stats().losses, journal.stats().failing) == ((), None)
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"kept", b"quick", b"after"]
    assert survivor.stats().losses == ()
    assert {"journal_segment_abandoned", "journal_failing", "journal_directory_made_again", "journal_recovered"} <= {
        event["event"] for event in logged
    }


async def test_a_directory_that_was_made_again_has_one_owner(bench: Bench) -> None:
    journal = await bench.open()
    shutil.rmtree(bench.path)
    await refused(journal)
    await put(journal, b"after")
    with pytest.raises(JournalLocked):
        await bench.open()
    await journal.close()
    assert payloads(await replay_all(await bench.open())) == [b"after"]


async def test_a_removed_segment_is_written_again(bench: Bench) -> None:
    journal = await bench.open()
    kept = await put(journal, b"kept")
    kept.segment.home.path.unlink()
    await refused(journal)
    await put(journal, b"after")
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"kept", b"after"]
    assert survivor.stats().losses == ()


async def test_a_removed_directory_is_noticed_before_a_new_segment_is_begun(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    await put(journal, b"k" * 400)
    shutil.rmtree(bench.path)
    bench.path.mkdir()
    await refused(journal)
    await put(journal, b"a" * 400)
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"k" * 400, b"a" * 400]


async def test_closing_after_the_directory_was_removed_keeps_what_was_acknowledged(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"kept")
    shutil.rmtree(bench.path)
    await journal.close()
    assert payloads(await replay_all(await bench.open())) == [b"kept"]


async def test_older_segments_that_went_with_the_directory_are_told_as_loss_once(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    lost = await put(journal, bytes(400))
    kept = await put(journal, b"k" * 400)
    for _ in range(2):
        shutil.rmtree(bench.path)
        await refused(journal)
        await settle(journal)
    assert journal.stats().losses == (Loss(1, 1, 1, "segment missing"),)
    survivor = await bench.open(bench.crash())
    assert payloads(await replay_all(survivor)) == [b"k" * 400]
    assert survivor.stats().losses == (Loss(1, 1, 1, "segment missing"),)
    journal.release(lost.segment, 1)  # the database has it all the same
    await settle(journal)
    survivor = await bench.open(bench.crash("stored"))
    assert (payloads(await replay_all(survivor)), survivor.stats().losses) == ([b"k" * 400], ())
    assert await journal.read(kept) == b"k" * 400


async def test_another_process_that_took_the_directory_over_keeps_it(bench: Bench) -> None:
    journal = await bench.open(segment_bytes=BODY_OFFSET + 600)
    stored = await put(journal, bytes(400))
    await put(journal, b"kept" * 100)
    shutil.rmtree(bench.path)
    other = await bench.open()
    theirs = await put(other, b"theirs")
    journal.release(stored.segment, 1)  # a segment of the same name as one of theirs
    for _ in range(3):
        await refused(journal)
        await settle(journal)
    assert journal.stats().failing == "EBUSY"
    await other.close()
    await refused(journal)
    await bench.until(lambda: journal.stats().failing == "EEXIST")
    await journal.close()
    assert await asyncio.to_thread(theirs.segment.home.path.exists)
    assert payloads(await replay_all(await bench.open())) == [b"theirs"]


async def test_a_directory_that_cannot_be_made_again_is_tried_until_it_can(bench: Bench) -> None:
    journal = await bench.open()
    await put(journal, b"kept")
    bench.files.fail("make_directory", EIO)
    await asyncio.to_thread(shutil.rmtree, bench.path)
    for _ in range(3):
        await refused(journal)
    assert not bench.path.exists()
    bench.files.heal()
    await bench.until(lambda: journal.stats().failing is None)
    await put(journal, b"after")
    assert payloads(await replay_all(await bench.open(bench.crash()))) == [b"kept", b"after"]
