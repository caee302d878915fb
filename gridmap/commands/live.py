"""A part of a terminal that is drawn again and again, and is left as it was found."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from rich.console import Console, RenderableType
from rich.live import Live


class View:
    """Draws over what it drew before; an interrupt comes between two drawings, and never in one.

    :param screen: has the whole screen, and gives it back
    :param leaves: what was drawn last stays
    """

    def __init__(self, out: Console, screen: bool = False, leaves: bool = True) -> None:
        self._live = Live(console=out, auto_refresh=False, screen=screen, transient=not leaves)

    def draw(self, what: RenderableType) -> None:
        """Shows this instead.

        :raises KeyboardInterrupt: there was one meanwhile
        """
        with _put_off():
            self._live.update(what, refresh=True)

    def __enter__(self) -> View:
        try:
            with _put_off():
                self._live.start()
        except BaseException:
            self._live.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _put_off():
            self._live.stop()


@contextlib.contextmanager
def _put_off() -> Iterator[None]:
    """Has an interrupt wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
    if came:
        raise KeyboardInterrupt
