"""A disk without room: no call is paid for, what is there can be read, and the journal is well again once there is room."""

import asyncio
import contextlib
import resource
from dataclasses import replace

import pytest
from tests.support.volume import full, mounted

from modelfleet.teamserver.journal.protocol import CallRow, JournalError, RunRow
from modelfleet.teamserver.journal.sqlite import SqliteJournal

RUN = RunRow("run-1", "legal/review", "rev-1", "alice", started=100.0, deadline=160.0, ttl=60.0)
CALL = CallRow("run-1", "map/0", 0, "reader", "pool:legal/small", 40, 900, 101.0)


@contextlib.contextmanager
def files_no_longer_than(size):
    """The kernel refuses longer files of this process, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_volume(tmp_path):
    with mounted(tmp_path / "volume", 4) as folder:
        yield folder


async def begun(path):
    journal = await SqliteJournal.open(path, window=0)
    await journal.save_plan("rev-1", b"plan", 99.0)
    await journal.begin(RUN)
    return journal


async def reserve_until_refused(journal):
    """Reserve until the journal refuses; returns how many it promised."""
    for attempt in range(100_000):
        (answer,) = await asyncio.gather(journal.reserve_call(replace(CALL, attempt=attempt)), return_exceptions=True)
        if answer is not None:
            assert isinstance(answer, JournalError)
            assert answer.reason == "JournalReadOnly"
            assert "takes no rows" in answer.message
            assert "Make room on its volume" in answer.message
            return attempt
    raise AssertionError("the disk is not full")


async def fails_closed(journal, room):
    """The story of one shortage; ``room`` ends it."""
    promised = await reserve_until_refused(journal)
    assert not journal.healthy
    assert "takes no rows" in journal.reason
    for attempt in range(3):
        with pytest.raises(JournalError):
            await journal.reserve_call(replace(CALL, call_id="later", attempt=attempt))
    assert not await journal.probe(110.0)
    assert [call.attempt for call in await journal.calls("run-1")] == list(range(promised))
    room.close()
    assert not journal.healthy  # nobody has written yet
    assert await journal.probe(120.0)
    assert (journal.healthy, journal.reason) == (True, "")
    await journal.reserve_call(replace(CALL, attempt=promised))
    return promised + 1


async def reopened_with(path, attempts):
    journal = await SqliteJournal.open(path)
    assert [call.attempt for call in await journal.calls("run-1")] == list(range(attempts))
    await journal.close()


async def test_files_that_may_not_grow_stop_spending_until_they_may(tmp_path):
    journal = await begun(tmp_path / "journal")
    with contextlib.ExitStack() as room:
        room.enter_context(files_no_longer_than(256 * 1024))
        attempts = await fails_closed(journal, room)
    await journal.close()
    await reopened_with(tmp_path / "journal", attempts)


async def test_a_journal_that_was_well_needs_no_write_to_say_so(tmp_path):
    journal = await begun(tmp_path / "journal")
    with files_no_longer_than(0):
        assert await journal.probe(100.0)
    await journal.close()


@pytest.mark.real
async def test_a_full_volume_stops_spending_until_there_is_room(small_volume):
    journal = await begun(small_volume / "journal")
    with contextlib.ExitStack() as room:
        room.enter_context(full(small_volume))
        attempts = await fails_closed(journal, room)
    await journal.close()
    await reopened_with(small_volume / "journal", attempts)


@pytest.mark.real
async def test_a_full_volume_is_no_place_to_open_a_journal(small_volume):
    with full(small_volume), pytest.raises(JournalError) as refused:
        await SqliteJournal.open(small_volume / "journal")
    assert refused.value.reason == "JournalInvalid"
    await (await begun(small_volume / "journal")).close()
