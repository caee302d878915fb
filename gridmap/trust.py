"""Whether anybody else could have written a file.

A configuration file can name commands to run and where mails go, so it is judged as ssh judges its
own.  The folder is not judged: shared ones are usual, and who can write there can take a file of
yours away, but cannot make one that belongs to you.
"""

from __future__ import annotations

import os
import stat


def why_not(path: str, status: os.stat_result) -> str:
    """Returns why a file is not to be trusted; "" when it is.

    :param status: of the file that is read, behind any link
    """
    if not stat.S_ISREG(status.st_mode):
        return "it is no plain file"
    if status.st_uid not in _trusted():
        return f"it belongs to {_belongs(status)}"
    try:
        link = os.lstat(path)
    except OSError:  # gone meanwhile
        link = status
    if link.st_uid not in _trusted():  # it could lead to another file of ours tomorrow
        return f"it is a link that belongs to {_belongs(link)}"
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _ours_alone(path, status)):
        return f"other users can write it (mode {mode:o}); run: chmod go-w {path}"
    return ""


def _trusted() -> tuple[int, ...]:
    return (os.geteuid(), 0)


def _belongs(status: os.stat_result) -> str:
    trusted = " and of ".join(dict.fromkeys(map(_user, _trusted())))
    return f"{_user(status.st_uid)}, and only files of {trusted} are read"


def _user(uid: int) -> str:
    import pwd  # only here: where users come from a server, it may have to be asked

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _ours_alone(path: str, status: os.stat_result) -> bool:
    """Returns whether a file's group is a private one: this user's, named so, and of nobody else.

    Where each user has such a group, as on Red Hat, new files can often be written by the group.
    """
    import grp
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid())
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    private = (group.gr_gid, group.gr_name) == (user.pw_gid, user.pw_name)
    return private and not {*group.gr_mem} - {user.pw_name} and not _has_list(path)


def _has_list(path: str) -> bool:
    """Returns whether an access control list says who may write a file, not only its mode."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError:  # it has none, or the file system knows of none
        return False
