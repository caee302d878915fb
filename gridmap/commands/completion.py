"""`gridmap completion`: what a shell needs to complete the command's words."""

from __future__ import annotations

import argparse

from argcomplete.shell_integration import shellcode


def main(options: argparse.Namespace) -> int:
    """Prints a script for a shell."""
    print(shellcode(["gridmap"], shell=options.shell))
    return 0
