"""`python -m gridmap` is the `gridmap` command."""

from __future__ import annotations

from gridmap.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
