"""`gridmap_web`: the dashboard, runs and their jobs on pages of this machine.

security.py   who gets in: the token, the session, hosts, origins, headers
watch.py      asks runs, each in its turn, without waiting for one that does not answer
pages.py      what there is to be seen
actions.py    what can be done: cancel, retry
events.py     what has changed, as it changes
charts.py     pictures of numbers, as SVG
text.py       numbers and foreign text, for people
app.py        puts these together
server.py     listens, and ends at once when it is told to
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gridmap import conf
from gridmap.errors import ConfigError

HOST, PORT = "127.0.0.1", 8076

_EXAMPLES = """examples:
  gridmap_web                         print an address; open it in a browser on this machine
  gridmap_web --open                  open the browser, too
  gridmap_web --port 0                take any free port
  gridmap_web --run-dir /scratch/runs show the runs that are kept there

from a laptop, for a login node that is called "login":
  ssh -L 8076:127.0.0.1:8076 login gridmap_web
and open the address that it prints on the laptop.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `gridmap_web`; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        run_dir = options.run_dir or conf.settings(options.profile).run_dir
    except ConfigError as error:
        print(f"gridmap_web: {error}", file=sys.stderr)
        return 1
    try:
        from gridmap.web.server import serve
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("jinja2", "markupsafe", "starlette", "uvicorn"):
            raise
        told = f"gridmap_web: {missing} is not installed: pip install 'gridmap[web]'"
        print(told, file=sys.stderr)
        return 1
    return serve(run_dir, options.host, options.port, options.open, options.profile)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "gridmap_web",
        description="Shows your runs on web pages, while they work and after that.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", default=HOST, help="where to listen (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        help="default: %(default)s, or the next one that is free; 0: any",
    )
    parser.add_argument("--open", action="store_true", help="open a browser")
    parser.add_argument("--profile", metavar="NAME", help="settings of this profile")
    parser.add_argument("--run-dir", metavar="DIR", help="where runs are kept (GRIDMAP_RUN_DIR)")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return port
