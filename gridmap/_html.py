"""Small pieces of HTML, for notebooks and mails; whatever comes from elsewhere is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LEFT = "text-align:left;vertical-align:top;padding:2px 12px 2px 0;white-space:pre-wrap"


def table(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Returns a small table; it takes its colors from what it stands in, be that light or dark.

    :param head: the names of the columns
    """
    lines = [_row("th", head)] if head else []
    lines += [_row("td", row) for row in rows]
    body = "".join(lines)
    caption = f'<div style="font-weight:bold">{text(title)}</div>' if title else ""
    style = "border-collapse:collapse;background:transparent;color:inherit"
    return f'<div>{caption}<table style="{style}">{body}</table></div>'


def text(value: object) -> str:
    """Returns text that means nothing to a browser but itself."""
    from html import escape  # with the names of all characters, which each worker would load

    return escape(str(value).encode("utf-8", "replace").decode())


def _row(tag: str, cells: Sequence[object]) -> str:
    inside = "".join(f'<{tag} style="{_LEFT}">{text(cell)}</{tag}>' for cell in cells)
    return f'<tr style="background:transparent">{inside}</tr>'
