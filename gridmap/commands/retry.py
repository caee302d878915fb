"""`gridmap retry`: runs again what ended without a value."""

from __future__ import annotations

import argparse

from gridmap.commands import attach


def main(options: argparse.Namespace) -> int:
    """Takes the run over, runs again what failed or was canceled, and writes all values."""
    return attach.main(options, again=True)
