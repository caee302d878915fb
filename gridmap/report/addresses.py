"""Guesses where mails go, from this host's name; may ask a name server for it."""

from __future__ import annotations

import os

NONE = "none"
"""Stands for no user and no file, where a setting names one."""


def guess_server() -> str:
    """Returns the last three parts of this host's name."""
    return ".".join(_host_parts()[-3:])


def guess_recipient() -> str:
    """Returns the user at the last two parts of this host's name."""
    user = os.environ.get("USER", "")
    if not user:
        import getpass

        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
    return f"{user}@{'.'.join(_host_parts()[-2:])}"


def _host_parts() -> list[str]:
    import socket

    name = socket.gethostname()
    if "." not in name:  # only then is the name server asked
        name = socket.getfqdn()
    return name.split(".")
