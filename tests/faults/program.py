"""A user's program, to be run on a host of the lab: RESULTS_FILE WHAT OPTIONS (JSON).

calls    calls that take some time and are counted in the file `calls`
attach   takes over the only run that there is
"""

import json
import logging
import os
import sys
import time
from pathlib import Path

import gridmap

PLACE = os.getcwd()


def make_call(seconds: float):
    """Returns a function that notes its begin, works for so long, and squares its argument."""
    place = PLACE

    def call(number):
        with open(os.path.join(place, "calls"), "a") as file:
            file.write(f"{number} {os.uname().nodename} {time.time():.1f}\n")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.02, seconds))
        return number * number

    return call


def plain(result):
    """Returns a result in a form that JSON can carry."""
    if isinstance(result, tuple):
        return result[0] if len(result[1]) == result[2] else "not what it was"
    if not isinstance(result, BaseException):
        return result
    cause = str(getattr(result, "cause", "exception"))
    return {"type": type(result).__name__, "cause": cause, "text": str(result)}


def write(path, results):
    temporary = Path(path + ".new")
    temporary.write_text(json.dumps([plain(result) for result in results]))
    temporary.replace(path)


def run_calls(count, seconds, carried_bytes=0, interpreter="", **options):
    """Squares numbers, slowly.

    :param carried_bytes: size of what the function carries, and of what it returns beside
    :param interpreter: the Python for the workers
    """
    options.setdefault("on_error", "return")
    if interpreter:
        sys.executable = interpreter
    call = make_call(seconds)
    if not carried_bytes:
        return gridmap.grid_map(call, range(count), **options)
    carried = bytearray(os.urandom(carried_bytes))
    return gridmap.grid_map(lambda n: (call(n), carried, carried_bytes), range(count), **options)


def attach():
    (info,) = gridmap.runs()
    run = None
    while run is None:
        try:
            run = gridmap.attach(info.id, on_error="return")
        except gridmap.BackendError as error:  # no scheduler: a user would try again
            print(error, flush=True)
            time.sleep(1)
    print("attached", info.id, "with", info.completed, "of", info.total, flush=True)
    return run.results()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    path, what, options = sys.argv[1:]
    do = {"calls": run_calls, "attach": attach}[what]
    began = time.monotonic()
    try:
        results = do(**json.loads(options))
    except gridmap.GridMapError as error:
        results = [error]
    print(f"took {time.monotonic() - began:.2f} s")
    write(path, results)
