"""What an answer that takes a while needs: to end with its client's connection, to begin with its first piece."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from fastapi import Request, Response

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499


class ClientGone(Exception):
    """The client closed its connection before the answer was there."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return the result of `work`; cancel it and raise `ClientGone` if the client closes the connection first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def answered(request: Request, work: Awaitable[T]) -> T | Response:
    """Return the result of `work`, or an empty answer, which nobody reads, if the client goes away first."""
    try:
        return await unless_gone(request, work)
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def following(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield `first`, which was waited for before the answer had a status, and then the rest."""
    yield first
    async for one in rest:
        yield one
