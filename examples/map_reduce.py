"""Counts the words of Python's own standard library: one call a source file, then one sum.

On the cluster, if there is one:  python examples/map_reduce.py
On this machine only:             python examples/map_reduce.py --local
"""

import argparse
import re
import sysconfig
from collections import Counter
from functools import reduce
from operator import add
from pathlib import Path

from gridmap import grid_map


def count_words(path):
    """Maps a file to the words in it."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(re.findall(r"[a-z]+", text.lower()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--local", action="store_true", help="use this machine only")
    local = parser.parse_args().local

    sources = sorted(str(path) for path in Path(sysconfig.get_path("stdlib")).glob("*.py"))
    counts = grid_map(count_words, sources, name="words", local=local, max_processes=2)
    total = reduce(add, counts, Counter())

    print(f"{total.total():,} words in {len(sources)} files; the ten most frequent:")
    for word, n in total.most_common(10):
        print(f"{n:8,} {word}")


if __name__ == "__main__":
    main()
