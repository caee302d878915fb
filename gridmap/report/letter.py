"""What a mail says, once as plain text and once as HTML that means the same.

Names, errors and logs come from jobs, which may print anything: control characters are shown, not
obeyed, and nothing is markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from email.message import EmailMessage
from typing import TYPE_CHECKING

from msgspec import Struct

from gridmap import _html
from gridmap.report.addresses import guess_recipient

if TYPE_CHECKING:
    from gridmap.conf import Settings

MOST_TEXT = 20_000
"""Characters of a traceback or log that a mail holds: its end."""
MOST_LINE = 200

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
"""Source: ECMA-48, control sequences and strings, as terminals take them."""


class Section(Struct, frozen=True):
    """A part of a mail below a title.

    :param verbatim: its lines are those of a log or a program
    """

    title: str
    text: str
    verbatim: bool = False


class Letter(Struct):
    """A mail before it is one.

    :param lead: the one sentence that says it all
    :param facts: (name, value); those without a value are left out
    """

    subject: str
    lead: str
    facts: list[tuple[str, str]]
    sections: list[Section]


def line(text: str, most: int = MOST_LINE) -> str:
    """Returns text as one line that is not long, without control characters: fit for a header."""
    flat = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def plain(text: str, most: int = MOST_TEXT) -> str:
    """Returns the end of a text that nothing can mistake for more than text.

    Colors are left out, of a progress bar that was drawn over and over the last is kept, and any
    other control character is shown as its code.
    """
    cut = len(text) > most
    text = _ESCAPES.sub("", text[-most:].replace("\r\n", "\n"))
    lines = (_shown(one.rstrip("\r").rpartition("\r")[2]) for one in text.split("\n"))
    return ("[...]" if cut else "") + "\n".join(lines)


def _shown(one: str) -> str:
    if one.isprintable():
        return one
    return "".join(sign if sign == "\t" or _is_text(sign) else _code(sign) for sign in one)


def _is_text(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == "Zs"


def _code(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


# --- as text --------------------------------------------------------------------------------------


def as_text(letter: Letter) -> str:
    parts = [plain(letter.lead), "\n".join(_aligned(letter.facts))]
    for section in letter.sections:
        lines = plain(section.text).strip("\n").split("\n")
        body = "\n".join(f"  {one}" if one else "" for one in lines)
        parts.append(f"{section.title}\n{'-' * len(section.title)}\n{body}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _aligned(facts: Iterable[tuple[str, str]]) -> Iterable[str]:
    told = [(name, plain(value)) for name, value in facts if value]
    width = max((len(name) for name, _ in told), default=0)
    for name, value in told:
        first, *more = value.split("\n")
        yield f"{name:{width}}  {first}"
        yield from (f"{'':{width}}  {one}" for one in more)


# --- as HTML --------------------------------------------------------------------------------------

_SANS = "font-family:system-ui,-apple-system,'Segoe UI',Arial,sans-serif;font-size:14px"
_MONO = (
    "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;line-height:1.4;"
    "white-space:pre-wrap;overflow-wrap:anywhere;margin:0;padding:8px 10px;"
    "border-left:3px solid #888"
)


def as_html(letter: Letter) -> str:
    """Returns a page that asks for nothing from elsewhere and takes the reader's own colors."""
    lead = f'<p style="font-size:16px;font-weight:600">{_html.text(plain(letter.lead))}</p>'
    facts = _html.table("", [(name, plain(value)) for name, value in letter.facts if value])
    parts = [_section(section) for section in letter.sections]
    return (
        '<!DOCTYPE html><html><head><meta charset="utf-8">'
        '<meta name="color-scheme" content="light dark"></head>'
        f'<body style="{_SANS}">{lead}{facts}{"".join(parts)}</body></html>'
    )


def _section(section: Section) -> str:
    body = _html.text(plain(section.text).strip("\n"))
    style = _MONO if section.verbatim else "white-space:pre-wrap;margin:0"
    title = f'<h3 style="font-size:14px;margin:16px 0 6px">{_html.text(section.title)}</h3>'
    return (
        f'{title}<pre style="{style}">{body}</pre>'
        if section.verbatim
        else (f'{title}<div style="{style}">{body}</div>')
    )


# --- as a message ---------------------------------------------------------------------------------


def message_of(letter: Letter, settings: Settings) -> EmailMessage:
    """Returns the mail, in both forms."""
    mail = EmailMessage()
    mail["From"] = line(settings.error_mail_sender)
    mail["To"] = line(settings.error_mail_recipient or guess_recipient(), most=1000)
    mail["Subject"] = line(letter.subject)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notice comes back
    mail.set_content(as_text(letter))
    mail.add_alternative(as_html(letter), subtype="html")
    return mail
