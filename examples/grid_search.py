"""Finds good parameters of a classifier of hand-written digits; needs scikit-learn.

Each combination is tried by cross-validation, in a call of its own.

On the cluster, if there is one:  python examples/grid_search.py
On this machine only:             python examples/grid_search.py --local
"""

import argparse
from functools import partial
from itertools import product

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from gridmap import grid_map


def score(data, parameters):
    """Returns the mean accuracy of a model with these parameters, over three folds."""
    gamma, c = parameters
    return cross_val_score(SVC(gamma=gamma, C=c), *data, cv=3).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--local", action="store_true", help="use this machine only")
    local = parser.parse_args().local

    # The digits are a part of the function, so they travel to each node once, not with each call.
    digits = load_digits(return_X_y=True)
    grid = list(product([0.0001, 0.001, 0.01], [1, 10, 100]))
    scores = grid_map(partial(score, digits), grid, name="svc", local=local, max_processes=2)

    for accuracy, (gamma, c) in sorted(zip(scores, grid, strict=True), reverse=True):
        print(f"accuracy {accuracy:.3f}   gamma {gamma:<7} C {c}")


if __name__ == "__main__":
    main()
