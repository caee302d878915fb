"""The `gridmap` command: a table of subcommands, of which only the one that is used is loaded.

Exit status: 0 all went well, 1 something failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from gridmap._loading import load
from gridmap._version import __version__
from gridmap.errors import GridMapError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Command(NamedTuple):
    """A subcommand.

    :param module: has `add_arguments(parser)` and `main(options)`, which returns the exit status
    :param help: one line
    :param examples: command lines, and what each does
    """

    name: str
    module: str
    help: str
    examples: tuple[tuple[str, str], ...]


COMMANDS = (
    Command(
        "config",
        "gridmap.commands.config",
        "show what is configured, and where each value comes from",
        (
            ("gridmap config", "all settings, defaults of arguments and profiles"),
            ("gridmap config --path", "which files are looked for, and which are read"),
            ("gridmap config --profile gpu", "what holds for a call with profile='gpu'"),
        ),
    ),
    Command(
        "doctor",
        "gridmap.doctor",
        "look at what a run needs, and say what to change",
        (
            ("gridmap doctor", "everything, by two short jobs"),
            ("gridmap doctor --no-submit", "only what costs nothing"),
        ),
    ),
)

EXIT_STATUS = "exit status: 0 all went well, 1 something failed, 2 wrong usage, 130 interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    :raises SystemExit: after --help, --version and wrong usage
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser, command = _parser(argv)
    if not argv:
        parser.print_help(sys.stderr)
        return USAGE
    options = parser.parse_args(argv)
    assert command is not None  # or the parser would have ended it
    logging.basicConfig(format="gridmap: %(message)s")
    try:
        status: int = load(command.module).main(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `gridmap config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (GridMapError, OSError) as error:
        print(f"gridmap {command.name}: {error}", file=sys.stderr)
        return FAILED
    return status


def _parser(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, Command | None]:
    """Returns the parser, and the subcommand that the words name."""
    parser = argparse.ArgumentParser(
        "gridmap",
        description="Maps Python functions onto a cluster; this is its command for people.",
        epilog=_epilog(*COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gridmap {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((word for word in argv if not word.startswith("-")), "")
    chosen = None
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if command.name == named:
            chosen = command
            load(command.module).add_arguments(subparser)
    return parser, chosen


def _epilog(*commands: Command) -> str:
    examples = [example for command in commands for example in command.examples]
    width = max(len(line) for line, _ in examples)
    lines = [f"  {line:{width}}  {what}" for line, what in examples]
    return "\n".join(["examples:", *lines, "", EXIT_STATUS])
