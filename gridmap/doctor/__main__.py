"""``python -m gridmap.doctor``: the same as ``gridmap doctor``."""

from __future__ import annotations

import argparse
import sys

from gridmap.doctor import add_arguments, main

parser = argparse.ArgumentParser(
    "gridmap doctor", description="Looks at what a run needs, and says what to change."
)
add_arguments(parser)
sys.exit(main(parser.parse_args()))
