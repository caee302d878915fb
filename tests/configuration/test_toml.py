"""Files in TOML that are none, or hardly."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridmap._toml import MOST_BYTES, load, load_trusted, parse
from gridmap.configuration.reading import Document
from gridmap.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (f"a = 1\nb = {'9' * 5000}\nc = 1\n", 2, "a number has too many digits"),
        (f"a = 1\n\nb = -{'9_9' * 2500}\n", 3, "a number has too many digits"),
        ("a = 1\nb = \n", 2, "Invalid value"),
        (f"a = {'[' * 50_000}\n", None, "nested too deeply"),
    ],
)
def test_an_error_names_file_and_line(text: str, line: int | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^x.toml:.* is no TOML: .*{reason}") as caught:
        parse(text, "x.toml")
    assert caught.value.file == "x.toml"
    assert line in (None, caught.value.line)


@pytest.mark.parametrize("text", [".".join("a" * 2000) + " = 1", f"[{'.'.join('a' * 2000)}]"])
def test_tables_without_end(text: str) -> None:
    with pytest.raises(ConfigError, match="nested (more than 32 deep|too deeply)"):
        Document("x.toml", text)


def test_a_byte_order_mark_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xef\xbb\xbf[a]\nb = 1\n")
    assert load(file) == load_trusted(file) == {"a": {"b": 1}}
    document = Document(str(file), file.read_text())
    assert document.line(("a", "b")) == 2


@pytest.mark.parametrize("read", [load, load_trusted])
def test_a_huge_file_is_not_read(tmp_path: Path, read: object) -> None:
    file = tmp_path / "x.toml"
    file.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="x.toml is not read: it has more than 1 MiB"):
        read(file)  # type: ignore[operator]
