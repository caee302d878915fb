"""The `gridmap` command: a table of subcommands, of which only the one that is used is loaded.

Exit status: 0 all went well, 1 something failed, 2 wrong usage, 3 no such run or job, 4 still under
way, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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

    :param module: has `main(options)`, which returns the exit status, and `add_arguments(parser)`
    :param help: one line
    :param examples: command lines, and what each does
    :param arguments: has `add_arguments(name, parser)` instead: a module that is loaded faster
    """

    name: str
    module: str
    help: str
    examples: tuple[tuple[str, str], ...]
    arguments: str = ""


def _of_runs(name: str, help: str, *examples: tuple[str, str]) -> Command:
    module = f"gridmap.commands.{name}"
    return Command(name, module, help, examples, "gridmap.commands.arguments")


COMMANDS = (
    _of_runs(
        "runs",
        "list the runs that there are, the latest last",
        ("gridmap runs", "the latest 20"),
        ("gridmap runs --live --json", "those that are under way, for a program"),
    ),
    _of_runs(
        "status",
        "show one run at a glance, and by the exit status",
        ("gridmap status last", "exit status 0: all jobs have values, 4: under way, else 1"),
        ("gridmap status 20260714 --watch", "until it is over; the beginning of an id is enough"),
        ("gridmap status last --json", "for a program"),
    ),
    _of_runs(
        "jobs",
        "list the jobs of a run",
        ("gridmap jobs last --failed", "those that failed"),
        ("gridmap jobs last --sort memory --descending -n 10", "the ten largest"),
        ("gridmap jobs last --search node17", "those of a host, by name, or by error"),
    ),
    _of_runs(
        "show",
        "show what a job died of and used, its log, its traceback",
        ("gridmap show last 17", "job 17 of the latest run"),
        ("gridmap show last fold_3", "the job of this name"),
    ),
    _of_runs(
        "logs",
        "print what workers wrote",
        ("gridmap logs last", "the end of each log"),
        ("gridmap logs last 17 --follow", "of the worker that runs job 17, as it is written"),
    ),
    _of_runs(
        "cancel",
        "end jobs, or a run and its workers, also of a dead program",
        ("gridmap cancel last", "all of it, after a question"),
        ("gridmap cancel last 17 18", "two of its jobs"),
    ),
    _of_runs(
        "retry",
        "run again what has no value, and write all values",
        ("gridmap retry last", "to gridmap-RUN.pkl in the working directory"),
        ("gridmap retry last --failed -o all.json", "as JSON"),
    ),
    _of_runs(
        "attach",
        "finish a run whose program died, and write its values",
        ("gridmap attach last", "to gridmap-RUN.pkl in the working directory"),
        ("gridmap attach last --output values.pkl --force", "to this file, which may exist"),
    ),
    _of_runs(
        "results",
        "print or write the values that are kept; starts nothing",
        (
            "gridmap results last",
            "each in short; they are unpickled, which may run code of your jobs",
        ),
        ("gridmap results last --output values.pkl", "to a file, for pickle.load"),
    ),
    _of_runs(
        "top",
        "watch all runs that are under way",
        ("gridmap top", "until Ctrl-C"),
        ("gridmap top --interval 10", "with a look every 10 seconds"),
    ),
    _of_runs(
        "report",
        "compare what was asked for with what was used",
        ("gridmap report last", "for people"),
        ("gridmap report last --json", "for a program"),
    ),
    _of_runs(
        "clean",
        "remove runs that are over or dead, and their values",
        ("gridmap clean --dry-run", "what would go"),
        ("gridmap clean --older-than 7 --ended --yes", "without a question"),
    ),
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
    _of_runs(
        "completion",
        "print what a shell needs to complete words and ids",
        ("gridmap completion bash", 'in ~/.bashrc: eval "$(gridmap completion bash)"; zsh alike'),
        ("gridmap completion fish", "in config.fish: gridmap completion fish | source"),
    ),
)

EXIT_STATUS = (
    "exit status: 0 all went well, 1 something failed, 2 wrong usage, 3 no such run or job,\n"
    "             4 still under way, 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    :raises SystemExit: after --help, --version and wrong usage
    """
    if sys.stdout is None:  # whoever closed it wants the exit status
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return main(argv)
    argv = sys.argv[1:] if argv is None else list(argv)
    if "_ARGCOMPLETE" in os.environ:
        _complete()
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
        return _say(command.name, error, getattr(options, "json", False))
    return status


def _say(command: str, error: BaseException, as_json: bool) -> int:
    """Tells of an error; returns the exit status for it."""
    from gridmap.watching.logs import harmless

    status: int = load("gridmap.commands.common").exit_status(error)
    if as_json:
        print(json.dumps({"error": str(error), "status": status}), file=sys.stderr)
    else:
        print(f"gridmap {command}: {harmless(str(error))}", file=sys.stderr)
    return status


def _complete() -> None:
    """Answers a shell that completes a line, and ends."""
    import argcomplete

    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "")
    words = line[: int(point)] if point.isdecimal() else line
    argcomplete.autocomplete(_parser(words.split()[1:])[0], always_complete_options="long")


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
            if command.arguments:
                load(command.arguments).add_arguments(command.name, subparser)
            else:
                load(command.module).add_arguments(subparser)
    return parser, chosen


def _epilog(*commands: Command) -> str:
    examples = [example for command in commands for example in command.examples]
    width = max(len(line) for line, _ in examples)
    lines = [f"  {line:{width}}  {what}" for line, what in examples]
    return "\n".join(["examples:", *lines, "", EXIT_STATUS])
