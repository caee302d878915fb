"""Asks runs what pages need to know, without holding up the pages of other runs.

An Observer waits for its run; so each is asked in a thread, one question at a time, and a page
waits for the answer only so long.  Answers are kept for a moment, for whoever asks the same; those
of a run that nobody works on are kept until its files change.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from gridmap.errors import GridMapError
from gridmap.ledger.directory import LEDGER_NAME
from gridmap.views import UNDER_WAY, RunView
from gridmap.watching.observer import Observer, folders

PATIENCE_S = 2.0
"""So long a page waits for a run; when that is over it shows what was known before."""
FRESH_S = 1.0
"""So long an answer is good for others who ask."""
MOST_ASKED = 24
"""Runs that are asked at once."""
MOST_ANSWERS = 100
"""Of one run that are kept."""
MOST_WATCHED = 500
"""Runs whose answers are kept."""

T = TypeVar("T")
Key = tuple[Any, ...]


class NotYet(GridMapError):
    """A run has not answered so far."""


class _Answer(NamedTuple):
    value: Any
    at: float
    finger_print: Any
    """The finger print of a run that nobody works on, None of one under way."""


async def in_thread(work: Callable[[], T]) -> T:
    """Returns what `work` returns, in a thread for which the program does not wait when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def main() -> None:
        try:
            told: tuple[Callable[[Any], None], Any] = future.set_result, work()
        except BaseException as error:
            told = future.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, *told)
        except RuntimeError:  # the loop is closed
            return

    threading.Thread(target=main, name="gridmap-web", daemon=True).start()
    return await future


class Watch:
    """Asks one run.

    :param slots: taken while a question is asked
    """

    def __init__(self, path: Path, slots: asyncio.Semaphore) -> None:
        self.path = path
        self._observer: Observer | None = None
        self._turn = asyncio.Lock()
        self._slots = slots
        self._answers: dict[Key, _Answer] = {}
        self._under_way: dict[Key, asyncio.Task[Any]] = {}
        self.silent_since: float | None = None
        """When it was asked what it has not answered yet, or refused to; by time.time()."""

    async def ask(self, name: str, *arguments: Any, patience_s: float = PATIENCE_S) -> Any:
        """Returns what a method of Observer returns.

        :raises NotYet: that takes longer
        :raises GridMapError: as the method does
        """
        key = (name, *arguments)
        known = self._answers.get(key)
        if known is not None and self._is_good(known):
            return known.value
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        if self.silent_since is not None:
            patience_s = min(patience_s, 0.05)
        done, _ = await asyncio.wait({task}, timeout=patience_s)
        if not done:
            if self.silent_since is None:
                self.silent_since = time.time() - patience_s
            raise NotYet(f"the client of run {self.path.name} has not answered yet")
        return task.result()

    def last(self, name: str, *arguments: Any) -> Any:
        """Returns the last answer there was, None where there was none."""
        known = self._answers.get((name, *arguments))
        return None if known is None else known.value

    def _forget(self, key: Key, done: asyncio.Task[Any]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it

    def _is_good(self, known: _Answer) -> bool:
        if known.finger_print is None:
            return time.monotonic() - known.at < FRESH_S
        return bool(known.finger_print == self._finger_print())

    def _finger_print(self) -> Any:
        """Returns what changes when somebody writes to the run."""
        try:
            folder, ledger = os.stat(self.path), os.stat(self.path / LEDGER_NAME)
        except OSError:
            return None
        return folder.st_mtime_ns, ledger.st_mtime_ns, ledger.st_size, ledger.st_ino

    async def do(self, name: str, *arguments: Any) -> Any:
        """Calls a method that changes something; returns what it returns.

        :raises GridMapError: as the method does
        """
        async with self._turn, self._slots:
            value, _ = await in_thread(lambda: self._put(name, *arguments))
        self.forget()
        return value

    async def _ask(self, key: Key) -> Any:
        async with self._turn, self._slots:
            value, dead = await in_thread(lambda: self._put(*key))
        if isinstance(value, RunView) and value.state == UNDER_WAY and value.error:
            self.silent_since = self.silent_since or time.time()
            value = msgspec.structs.replace(self.last("run") or value, error=value.error)
        else:
            self.silent_since = None
        while len(self._answers) >= MOST_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        self._answers.pop(key, None)
        self._answers[key] = _Answer(
            value, time.monotonic(), self._finger_print() if dead else None
        )
        return value

    def _put(self, name: str, *arguments: Any) -> tuple[Any, bool]:
        if self._observer is None:
            self._observer = Observer(self.path)
        value = getattr(self._observer, name)(*arguments)
        return value, not self._observer.live

    def forget(self) -> None:
        """Forgets what it was told: it has changed."""
        self._answers.clear()

    async def close(self) -> None:
        async with self._turn:
            if self._observer is not None:
                self._observer.close()
                self._observer = None


class Watches:
    """Finds runs, and keeps what they said.

    :param run_dir: where they are kept
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = Path(run_dir)
        self._watches: dict[Path, Watch] = {}
        self._slots: asyncio.Semaphore | None = None
        self._folders: tuple[float, list[Path]] = (0.0, [])

    async def folders(self) -> list[Path]:
        """Returns the directories of runs, the latest first."""
        at, paths = self._folders
        if not paths or time.monotonic() - at > FRESH_S:
            paths = list(reversed(await in_thread(lambda: list(folders(self.run_dir)))))
            self._folders = time.monotonic(), paths
        return paths

    async def find(self, run: str) -> Watch | None:
        """Returns the run of this id, None where there is none."""
        for path in await self.folders():
            if path.name == run:
                return self.watch(path)
        return None

    def watch(self, path: Path) -> Watch:
        if self._slots is None:
            self._slots = asyncio.Semaphore(MOST_ASKED)
        found = self._watches.pop(path, None) or Watch(path, self._slots)
        self._watches[path] = found  # the last one now
        while len(self._watches) > MOST_WATCHED:
            self._close(next(iter(self._watches)))
        return found

    def _close(self, path: Path) -> None:
        task = asyncio.create_task(self._watches.pop(path).close())
        task.add_done_callback(lambda done: done.exception())


async def gathered(**questions: Awaitable[Any]) -> dict[str, Any]:
    """Returns all the answers by name; an error is one, too."""
    answers = await asyncio.gather(*questions.values(), return_exceptions=True)
    found = dict(zip(questions, answers, strict=True))
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, GridMapError):
            raise answer
    return found
