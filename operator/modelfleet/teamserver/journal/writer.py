"""One thread that owns the SQLite connection: what arrives together is committed together, and nobody hears of success before the disk did.

Decided here: batches, transactions, what an SQLite error means for those who wait, and whether the journal is healthy. Tables are ``sqlite.py``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .protocol import JournalError, JournalMisuse

__all__ = ["Writer"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

_WAL_KEPT = 16 * 1024 * 1024
"""Bytes of the write-ahead log that stay allocated after a burst."""
_OF_ONE_ROW = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)
"""Errors that say something about a row, not about the file."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    writes: bool
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    future: asyncio.Future[Any]
    value: Any = None
    error: Exception | None = None

    def deliver(self) -> None:
        if self.future.done():  # its await was cancelled; the row is written all the same
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Runs work on the connection, in order. ``window``: seconds that the first write of a batch waits for company; ``most``: work in one commit."""

    def __init__(self, path: Path, *, window: float, most: int) -> None:
        self.path = path
        self.reason = ""
        self._window = window
        self._most = most
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None

    async def start(self, prepare: Work) -> None:
        """Open the file, take its lock and ``prepare`` the tables. Raises JournalError: JournalLocked or JournalInvalid."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(target=self._run, args=(prepare, opened), name="journal", daemon=True)
        self._thread.start()
        await opened

    async def ask(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True) -> T:
        """Run ``work`` in the next batch; returns once the batch is durable. Raises JournalError, or what ``work`` raised about its own rows."""
        if self._closed:
            raise JournalError("JournalReadOnly", f"the journal {self.path} is closed: this process is ending")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, writes, future))
        return await future

    async def close(self) -> None:
        """Do what was asked for before, then let go of the file. Closing twice is safe."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # --- on the thread ---

    def _run(self, prepare: Work, opened: asyncio.Future[None]) -> None:
        try:
            connection = _open(self.path, prepare)
        except JournalError as error:
            _deliver([_Answer(opened, error=error)])
            return
        _deliver([_Answer(opened)])
        with contextlib.closing(connection):
            while batch := self._gather():
                _deliver(self._commit(connection, batch))

    def _gather(self) -> list[_Job]:
        """The next batch, at least one; empty: closed, and everything asked for before is done."""
        job = self._jobs.get()
        batch: list[_Job] = []
        until = time.monotonic() + (self._window if job is not None and job.writes else 0)
        while job is not None:
            batch.append(job)
            if len(batch) >= self._most:
                return batch
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch
        if batch:
            self._jobs.put(None)  # nothing follows the end, so it may be put back
        return batch

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job]) -> list[_Answer]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            answers = []
            wrote = False
            for job in batch:
                before = connection.total_changes
                answers.append(_attempt(connection, job))
                wrote = wrote or (answers[-1].error is None and connection.total_changes > before)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            return self._failed(connection, batch, error)
        if wrote:
            self.reason = ""
        return answers

    def _failed(self, connection: sqlite3.Connection, batch: list[_Job], error: sqlite3.Error) -> list[_Answer]:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        self.reason = f"the journal {self.path} takes no rows: {error}. Make room on its volume, or make the volume writable; until then no call is paid for."
        answers = []
        for job in batch:
            if job.writes:
                answers.append(_Answer(job.future, error=JournalError("JournalReadOnly", self.reason)))
                continue
            try:
                answers.append(_attempt(connection, job))
            except sqlite3.Error as again:
                answers.append(_Answer(job.future, error=JournalError("JournalReadOnly", f"the journal {self.path} gives no rows: {again}")))
        return answers


def _attempt(connection: sqlite3.Connection, job: _Job) -> _Answer:
    """One job's answer; rows that contradict undo that job alone. Raises sqlite3.Error when the file is at fault."""
    connection.execute("SAVEPOINT job")
    try:
        answer = _Answer(job.future, value=job.work(connection))
    except _OF_ONE_ROW as error:
        answer = _Answer(job.future, error=JournalMisuse("JournalMisuse", f"the journal already holds something else: {error}"))
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked
        answer = _Answer(job.future, error=error)
    if answer.error is not None:
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return answer


def _deliver(answers: list[_Answer]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer.future.get_loop(), []).append(answer)
    for loop, of_loop in by_loop.items():
        with contextlib.suppress(RuntimeError):  # a loop that is closed waits for nothing
            loop.call_soon_threadsafe(_deliver_all, of_loop)


def _deliver_all(answers: list[_Answer]) -> None:
    for answer in answers:
        answer.deliver()


def _open(path: Path, prepare: Work) -> sqlite3.Connection:
    connection = None
    try:
        with contextlib.suppress(FileExistsError):
            # prompts are in it, so nobody else reads it; the files beside it inherit the mode
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        # before the first look at the file, so that no shared memory is used and the lock is held for good
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        connection.execute("BEGIN IMMEDIATE")
        prepare(connection)
        connection.execute("COMMIT")
        if mode != "wal" or connection.execute("PRAGMA locking_mode").fetchone()[0] != "exclusive":
            raise JournalError(
                "JournalInvalid", f"the volume of the journal {path} does not support SQLite's write-ahead log with an exclusive lock; use a local one"
            )
    except (sqlite3.Error, OSError, JournalError) as error:
        if connection is not None:
            connection.close()
        raise _why(path, error) from error
    return connection


def _why(path: Path, error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    if isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
        return JournalError("JournalLocked", f"the journal {path} is in use by another process: there can be one team runtime (one replica, strategy Recreate)")
    return JournalError("JournalInvalid", f"the journal {path} cannot be opened: {error}. Give it a folder that is writable and a file that a journal made.")
