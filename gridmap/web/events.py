"""What has changed on a page, told as it changes (server-sent events)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gridmap.web.pages import Context, Page

LIVE_S, STILL_S = 2.0, 10.0
"""How often it is looked for changes: while a run is under way, and else."""
QUIET_S = 15.0
"""After so long without a change a comment is sent, so that a dead connection is noticed."""
MOST_STREAMS = 100


class _Counted(StreamingResponse):
    """A stream of events that says when it is over, also where nobody has begun to read it."""

    def __init__(self, events: AsyncIterator[str], left: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


Render = Callable[[Request, Page, Context], dict[str, str]]


class Streams:
    """Tells all open pages what changes; ends them when the program ends.

    :param render: returns the regions of a page as HTML, by name
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._closing: asyncio.Event | None = None
        self._number = 0

    def close(self) -> None:
        """Ends all streams; in the loop's thread."""
        if self._closing is not None:
            self._closing.set()

    def open(self, request: Request, page: Page) -> StreamingResponse:
        if self._number >= MOST_STREAMS:
            raise HTTPException(503, f"{MOST_STREAMS} pages are kept up to date already.")
        self._number += 1  # now: many that come at once would all be let in
        return _Counted(self._events(request, page), self._left)

    def _left(self) -> None:
        self._number -= 1

    async def _events(self, request: Request, page: Page) -> AsyncIterator[str]:
        if self._closing is None:
            self._closing = asyncio.Event()
        told: dict[str, str] = {}
        told_at = time.monotonic()
        yield "retry: 3000\n\n"
        while not self._closing.is_set():
            try:
                context = await page.collect(request)
            except HTTPException as error:  # the run is gone
                yield _event("gone", {"text": error.detail})
                return
            changed = {}
            for name, html in self._regions(request, page, context).items():
                if told.get(name) != html:
                    told[name] = changed[name] = html
            if changed:
                yield _event("regions", changed)
                told_at = time.monotonic()
            elif time.monotonic() - told_at > QUIET_S:
                yield ": nothing new\n\n"
                told_at = time.monotonic()
            await self._rest(LIVE_S if context.get("live") else STILL_S)

    def _regions(self, request: Request, page: Page, context: Context) -> dict[str, str]:
        regions = self._render(request, page, context)
        return {**regions, "title": context["title"], "say": context.get("say", "")}

    async def _rest(self, seconds: float) -> None:
        assert self._closing is not None
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except asyncio.TimeoutError:
            return


def _event(name: str, data: dict[str, str]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
