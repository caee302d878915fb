"""Makes a list of jobs by hand: each with its own arguments, name and needs.

On the cluster, if there is one:  python examples/manual.py
On this machine only:             python examples/manual.py --local
"""

import argparse

from gridmap import Job, process_jobs


def integral(f, low, high, steps=1000):
    """Returns the integral of f by the midpoint rule."""
    width = (high - low) / steps
    return width * sum(f(low + (i + 0.5) * width) for i in range(steps))


def square(x):
    return x * x


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--local", action="store_true", help="use this machine only")
    local = parser.parse_args().local

    jobs = [
        Job(integral, [square, 0, 1], name="coarse"),
        Job(
            integral,
            [square, 0, 1],
            {"steps": 100_000},
            name="fine",
            mem_free="500M",
            h_rt="0:10:0",
        ),
        Job(integral, [lambda x: 4 / (1 + x * x), 0, 1], name="pi", add_env={"LANG": "C"}),
    ]
    results = process_jobs(jobs, local=local, max_processes=2)

    for job, result in zip(jobs, results, strict=True):
        print(f"{job.name:8} {result:.9f}")


if __name__ == "__main__":
    main()
