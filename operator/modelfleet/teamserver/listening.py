"""What comes first: a run's next text, silence, its end, or the client leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import Request

from .run import Run

__all__ = ["END", "QUIET", "Piece", "next_piece", "pieces_of", "unless_gone"]

T = TypeVar("T")


class Mark:
    """Nothing came for a while (``QUIET``), or nothing comes any more (``END``)."""


Piece = str | Mark
QUIET: Final = Mark()
END: Final = Mark()


async def pieces_of(run: Run, silence: float) -> AsyncGenerator[Piece]:
    """The run's text; ``QUIET`` after each ``silence`` seconds without any. Raises Torn."""
    texts = aiter(run.text())
    coming = asyncio.ensure_future(_after(texts))
    try:
        while True:
            await asyncio.wait({coming}, timeout=silence)
            if not coming.done():
                yield QUIET
                continue
            piece = coming.result()
            if piece is END:
                return
            if piece:
                yield piece
            coming = asyncio.ensure_future(_after(texts))
    finally:
        coming.cancel()


async def _after(texts: AsyncIterator[str]) -> Piece:
    return await anext(texts, END)


async def next_piece(pieces: AsyncGenerator[Piece]) -> Piece:
    """The next piece, ``END`` after the last. Raises as ``pieces_of``."""
    return await anext(pieces, END)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What ``work`` gives; None when the client left before. A client that left does not end the run by this alone."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
