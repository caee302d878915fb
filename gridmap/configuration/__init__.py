"""Configuration files: where they are, who may have written them, what may stand in them.

    places    which files there are to read, the later ones win
    reading   one file: refused if another user could have written it, kept until it changes
    layout    what may stand in it; errors name file, line, key and what is allowed
    arguments the arguments that a profile can give
    current   what all of them say together, now

Only `places` and `current` are loaded where there is no file.  What the values mean is said above:
by `gridmap.conf` for settings, by `gridmap.profiles` for profiles.
"""
