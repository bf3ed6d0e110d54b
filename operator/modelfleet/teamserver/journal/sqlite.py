"""The journal on SQLite: tables and statements. One process, one file; how rows get to the disk is ``writer.py``'s.

Rules that must hold across a crash are in the statements: a call is reserved only under a run that has not ended, and the first end of a call or a run stands.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from .protocol import (
    KEY_LIFETIME,
    MAX_PAYLOAD,
    MAX_REQUEST,
    MAX_RESULT,
    CallEnd,
    CallRow,
    EventRow,
    JournalError,
    JournalMisuse,
    PayloadTooLarge,
    RememberedKey,
    RunRow,
)
from .writer import Writer

__all__ = ["SqliteJournal"]

_SCHEMA_VERSION = 1
_PLAN_LIFETIME = 24 * 3600
_MOST = 2**63 - 1
_RUNS_PER_PRUNE = 50
"""Runs forgotten in one commit, so that calls do not wait long behind it."""

_TABLES = """
CREATE TABLE revision (revision TEXT PRIMARY KEY, plan BLOB NOT NULL, saved REAL NOT NULL) STRICT;
CREATE TABLE run (
  run_id TEXT PRIMARY KEY, team TEXT NOT NULL, revision TEXT NOT NULL REFERENCES revision, caller TEXT NOT NULL,
  started REAL NOT NULL, deadline REAL NOT NULL, ttl REAL NOT NULL, full INTEGER NOT NULL, request BLOB NOT NULL,
  state TEXT NOT NULL, stop_reason TEXT, finished REAL, result BLOB NOT NULL
) STRICT;
CREATE INDEX run_by_revision ON run (revision);
CREATE INDEX run_open ON run (started) WHERE finished IS NULL;
CREATE INDEX run_by_end ON run (finished + ttl) WHERE finished IS NOT NULL;
CREATE TABLE event (
  run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, seq INTEGER NOT NULL CHECK (seq >= 0), kind TEXT NOT NULL, payload BLOB NOT NULL,
  PRIMARY KEY (run_id, seq)
) STRICT;
CREATE TABLE call (
  run_id TEXT NOT NULL REFERENCES run ON DELETE CASCADE, call_id TEXT NOT NULL, attempt INTEGER NOT NULL, role TEXT NOT NULL, target TEXT NOT NULL,
  reserved INTEGER NOT NULL CHECK (reserved >= 0), reserved_tokens INTEGER NOT NULL CHECK (reserved_tokens >= 0), reserved_at REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('reserved', 'settled', 'assumed', 'released')),
  charged INTEGER NOT NULL CHECK (charged >= 0), prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  pool TEXT, flavor TEXT, flags TEXT NOT NULL,
  UNIQUE (run_id, call_id, attempt)
) STRICT;
CREATE TABLE idempotency (
  caller TEXT NOT NULL, key TEXT NOT NULL, body_digest TEXT NOT NULL, run_id TEXT NOT NULL, remembered REAL NOT NULL,
  PRIMARY KEY (caller, key)
) STRICT;
CREATE INDEX idempotency_by_run ON idempotency (run_id);
CREATE INDEX idempotency_by_age ON idempotency (remembered);
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL) STRICT;
"""

_RUN = "run_id, team, revision, caller, started, deadline, ttl, full, request, state, stop_reason, finished, result"
_CALL = "run_id, call_id, attempt, role, target, reserved, reserved_tokens, reserved_at, state, charged, prompt_tokens, completion_tokens, pool, flavor, flags"


class SqliteJournal:
    """``Journal`` on one SQLite file. Make it with ``open``."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @classmethod
    async def open(cls, path: Path, *, window: float = 0.005, most: int = 64) -> SqliteJournal:
        """Open or make the file and hold it alone. Writes wait ``window`` seconds for company, at most ``most`` in a commit. Raises JournalError."""
        writer = Writer(path, window=window, most=most)
        await writer.start(_prepare)
        return cls(writer)

    @property
    def healthy(self) -> bool:
        """Whether the last write worked."""
        return not self._writer.reason

    @property
    def reason(self) -> str:
        """Why it is not healthy; empty when it is."""
        return self._writer.reason

    async def probe(self, now: float) -> bool:
        """``healthy``, after trying a write if it was not."""
        if not self.healthy:
            try:
                await self._write("INSERT INTO probe VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at", (now,))
            except JournalError:
                return False
        return self.healthy

    async def save_plan(self, revision: str, plan: bytes, now: float) -> None:
        """Keep a plan while runs need it."""
        await self._write(
            "INSERT INTO revision VALUES (?, ?, ?) ON CONFLICT (revision) DO UPDATE SET saved = max(saved, excluded.saved)", (revision, plan, now)
        )

    async def plan(self, revision: str) -> bytes | None:
        """A kept plan."""
        rows = await self._read("SELECT plan FROM revision WHERE revision = ?", (revision,))
        return bytes(rows[0][0]) if rows else None

    async def begin(self, run: RunRow) -> None:
        """A run is accepted. Raises PayloadTooLarge for its request."""
        _limit("the request", run.request, MAX_REQUEST)
        request = run.request if run.full else b""
        values = (run.run_id, run.team, run.revision, run.caller, run.started, run.deadline, run.ttl, int(run.full), request)
        await self._write("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'Running', NULL, NULL, x'')", values)

    async def append(self, run_id: str, seq: int, kind: str, payload: bytes) -> None:
        """Something happened. Raises PayloadTooLarge."""
        _limit(f"event {kind}", payload, MAX_PAYLOAD)
        statement = "INSERT INTO event SELECT run_id, ?, ?, CASE WHEN full THEN ? ELSE x'' END FROM run WHERE run_id = ?"
        if not await self._write(statement, (seq, kind, payload, run_id)):
            raise JournalMisuse("JournalMisuse", f"run {run_id} was never begun, so event {seq} ({kind}) has no place")

    async def reserve_call(self, call: CallRow) -> None:
        """An attempt may leave once this has returned."""
        statement = (
            f"INSERT INTO call ({_CALL}) SELECT run_id, ?, ?, ?, ?, ?, ?, ?, 'reserved', 0, 0, 0, NULL, NULL, '' "  # noqa: S608 - names of columns
            "FROM run WHERE run_id = ? AND finished IS NULL"
        )
        values = (call.call_id, call.attempt, call.role, call.target, call.reserved, call.reserved_tokens, call.reserved_at, call.run_id)
        if not await self._write(statement, values):
            raise JournalMisuse("JournalMisuse", f"run {call.run_id} is not running, so call {call.call_id} cannot be reserved")

    async def settle_call(
        self,
        run_id: str,
        call_id: str,
        attempt: int,
        state: CallEnd,
        *,
        charged: int,
        prompt_tokens: int,
        completion_tokens: int,
        flags: tuple[str, ...] = (),
        pool: str | None = None,
        flavor: str | None = None,
    ) -> None:
        """How an attempt ended. The first end stands."""
        # a provider may report any number; what no row can hold is written as the most that one can
        figures = [min(figure, _MOST) for figure in (charged, prompt_tokens, completion_tokens)]
        end = (state, *figures, pool, flavor, ",".join(sorted(flags)))
        await self._writer.ask(lambda connection: _settle(connection, (run_id, call_id, attempt), end))

    async def finish(self, run_id: str, state: str, stop_reason: str, result: bytes, now: float) -> None:
        """A run ended. The first end stands. Raises PayloadTooLarge."""
        _limit("the result", result, MAX_RESULT)
        await self._writer.ask(lambda connection: _finish(connection, run_id, (state, stop_reason, now, result)))

    async def run(self, run_id: str) -> RunRow | None:
        """One run, ended or not."""
        rows = await self._read(f"SELECT {_RUN} FROM run WHERE run_id = ?", (run_id,))  # noqa: S608 - names of columns
        return _run(rows[0]) if rows else None

    async def orphans(self) -> list[RunRow]:
        """Runs that have not ended, oldest first."""
        rows = await self._read(f"SELECT {_RUN} FROM run WHERE finished IS NULL ORDER BY started, run_id")  # noqa: S608 - names of columns
        return [_run(row) for row in rows]

    async def events(self, run_id: str) -> list[EventRow]:
        """What happened in a run, in order."""
        return [EventRow(*row) for row in await self._read("SELECT seq, kind, payload FROM event WHERE run_id = ? ORDER BY seq", (run_id,))]

    async def calls(self, run_id: str) -> list[CallRow]:
        """Every attempt of a run, in the order they were reserved."""
        rows = await self._read(f"SELECT {_CALL} FROM call WHERE run_id = ? ORDER BY rowid", (run_id,))  # noqa: S608 - names of columns
        return [_call(row) for row in rows]

    async def remember_key(self, key: str, caller: str, body_digest: str, run_id: str, now: float) -> RememberedKey | None:
        """Claim an Idempotency-Key of a caller for a run. None: claimed."""
        return await self._writer.ask(lambda connection: _remember(connection, (caller, key), body_digest, run_id, now))

    async def forget_key(self, key: str, caller: str, run_id: str) -> None:
        """Give a claim back."""
        await self._write("DELETE FROM idempotency WHERE caller = ? AND key = ? AND run_id = ?", (caller, key, run_id))

    async def keyed(self, run_id: str) -> bool:
        """Whether an Idempotency-Key is remembered for a run."""
        return bool(await self._read("SELECT 1 FROM idempotency WHERE run_id = ? LIMIT 1", (run_id,)))

    async def prune(self, now: float) -> int:
        """Forget ended runs past their ``ttl``, old keys and plans without runs. How many runs went."""
        gone = 0
        while True:
            last = await self._writer.ask(lambda connection: _prune(connection, now))
            gone += last
            if last < _RUNS_PER_PRUNE:
                return gone

    async def close(self) -> None:
        """Write what was asked for, then let go of the file."""
        await self._writer.close()

    async def _write(self, statement: str, values: tuple[object, ...]) -> int:
        return await self._writer.ask(lambda connection: connection.execute(statement, values).rowcount)

    async def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return await self._writer.ask(lambda connection: connection.execute(statement, values).fetchall(), writes=False)


def _prepare(connection: sqlite3.Connection) -> None:
    """Tables of a new file; a known version of an old one. Claims of runs that were never begun are dropped: nobody is left to begin them."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _SCHEMA_VERSION):
        raise JournalError("JournalInvalid", f"the journal has version {version}, and this modelfleet knows {_SCHEMA_VERSION}: run the version that made it")
    if version == 0:
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    connection.execute("DELETE FROM idempotency WHERE run_id NOT IN (SELECT run_id FROM run)")


def _settle(connection: sqlite3.Connection, call: tuple[str, str, int], end: tuple[object, ...]) -> None:
    changed = connection.execute(
        "UPDATE call SET state = ?, charged = ?, prompt_tokens = ?, completion_tokens = ?, pool = ?, flavor = ?, flags = ? "
        "WHERE run_id = ? AND call_id = ? AND attempt = ? AND state = 'reserved'",
        (*end, *call),
    ).rowcount
    if not changed and not connection.execute("SELECT 1 FROM call WHERE run_id = ? AND call_id = ? AND attempt = ?", call).fetchone():
        raise JournalMisuse("JournalMisuse", f"attempt {call[2]} of call {call[1]} of run {call[0]} was never reserved")


def _finish(connection: sqlite3.Connection, run_id: str, end: tuple[str, str, float, bytes]) -> None:
    changed = connection.execute(
        "UPDATE run SET state = ?, stop_reason = ?, finished = ?, result = CASE WHEN full THEN ? ELSE x'' END WHERE run_id = ? AND finished IS NULL",
        (*end, run_id),
    ).rowcount
    if not changed and not connection.execute("SELECT 1 FROM run WHERE run_id = ?", (run_id,)).fetchone():
        raise JournalMisuse("JournalMisuse", f"run {run_id} was never begun, so it cannot end")


def _remember(connection: sqlite3.Connection, owner: tuple[str, str], body_digest: str, run_id: str, now: float) -> RememberedKey | None:
    first = connection.execute(
        "SELECT run_id, body_digest FROM idempotency WHERE caller = ? AND key = ? AND remembered > ?", (*owner, now - KEY_LIFETIME)
    ).fetchone()
    if first:
        return RememberedKey(*first)
    connection.execute("INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)", (*owner, body_digest, run_id, now))
    return None


def _prune(connection: sqlite3.Connection, now: float) -> int:
    ended = "SELECT run_id FROM run WHERE finished IS NOT NULL AND finished + ttl <= ? ORDER BY finished + ttl LIMIT ?"
    runs = [(row[0],) for row in connection.execute(ended, (now, _RUNS_PER_PRUNE)).fetchall()]
    # a key cannot be answered without its run
    connection.executemany("DELETE FROM idempotency WHERE run_id = ?", runs)
    connection.executemany("DELETE FROM run WHERE run_id = ?", runs)
    connection.execute("DELETE FROM idempotency WHERE remembered <= ?", (now - KEY_LIFETIME,))
    connection.execute(
        "DELETE FROM revision WHERE saved <= ? AND NOT EXISTS (SELECT 1 FROM run WHERE run.revision = revision.revision)", (now - _PLAN_LIFETIME,)
    )
    return len(runs)


def _run(row: tuple[Any, ...]) -> RunRow:
    values = dict(zip(_RUN.split(", "), row, strict=True))
    return RunRow(**{**values, "full": bool(values["full"])})


def _call(row: tuple[Any, ...]) -> CallRow:
    values = dict(zip(_CALL.split(", "), row, strict=True))
    return CallRow(**{**values, "flags": tuple(values["flags"].split(",")) if values["flags"] else ()})


def _limit(what: str, payload: bytes, most: int) -> None:
    if len(payload) > most:
        raise PayloadTooLarge("PayloadTooLarge", f"{what} has {len(payload)} bytes; a journal keeps at most {most}")
