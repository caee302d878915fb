from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.mailbox import Post


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    """Starts mail servers."""
    made = Post(tmp_path)
    yield made
    made.close()
