"""Which devices, slots and threads a process for jobs has."""

from __future__ import annotations

import itertools

import pytest

from gridmap.node import devices
from gridmap.node.devices import part, slots, threads, variables

UUIDS = ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1b2", "MIG-GPU-5c89/1/0", "MIG-6f1"]


def dealt(of_worker: list[str], of: int, each: int) -> list[list[str]]:
    return [part(of_worker, place, of, each) for place in range(of)]


@pytest.mark.parametrize(
    ("of_worker", "of", "each", "expected"),
    [
        (["0", "1", "2", "3"], 4, 1, [["0"], ["1"], ["2"], ["3"]]),
        (["4", "5", "6", "7"], 2, 2, [["4", "5"], ["6", "7"]]),
        (UUIDS, 4, 1, [[one] for one in UUIDS]),
        # more than were asked for: each has what its job asked for
        (["0", "1", "2", "3"], 2, 1, [["0"], ["1"]]),
        # nobody asked: all are dealt out
        (["0", "1", "2", "3"], 2, 0, [["0", "1"], ["2", "3"]]),
        (["0", "1", "2"], 2, 0, [["0"], ["1", "2"]]),
        # fewer: some share
        (["0", "1"], 4, 1, [["0"], ["1"], ["0"], ["1"]]),
        (["0", "1", "2"], 2, 2, [["0", "1"], ["2", "0"]]),
        (["0"], 3, 0, [["0"]] * 3),
        (["0"], 2, 4, [["0"]] * 2),
        (["5", "6"], 1, 1, [["5", "6"]]),
        ([], 2, 1, [[], []]),
    ],
)
def test_each_child_has_its_part_of_the_devices(
    of_worker: list[str], of: int, each: int, expected: list[list[str]]
) -> None:
    assert dealt(of_worker, of, each) == expected


@pytest.mark.parametrize("each", [0, 1, 2, 3])
@pytest.mark.parametrize("of", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 13])
def test_whatever_there_is_nobody_goes_without_and_what_is_enough_is_not_shared(
    count: int, of: int, each: int
) -> None:
    given = dealt([f"GPU-{n}" for n in range(count)], of, each)
    assert all(given)
    assert all(len(set(one)) == len(one) for one in given)
    together = list(itertools.chain.from_iterable(given))
    if count >= of * max(1, each):
        assert len(set(together)) == len(together), "two children have the same device"
        assert of == 1 or not each or all(len(one) == each for one in given)
    else:
        assert max(map(together.count, together)) <= -(-of * max(1, each) // count)


@pytest.mark.parametrize(
    ("given", "place", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 1, {"CUDA_VISIBLE_DEVICES": "3"}),
        ({"CUDA_VISIBLE_DEVICES": " 2 , 3 "}, 0, {"CUDA_VISIBLE_DEVICES": "2"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 1, {"CUDA_VISIBLE_DEVICES": "GPU-b"}),
        ({"ZE_AFFINITY_MASK": "0.0,0.1"}, 1, {"ZE_AFFINITY_MASK": "0.1"}),
        # none, and words for none: so for every child
        ({}, 1, {}),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, {"CUDA_VISIBLE_DEVICES": ""}),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1, {"CUDA_VISIBLE_DEVICES": "-1"}),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}),
        # a list ends where a number is no device's
        ({"CUDA_VISIBLE_DEVICES": "5,-1,6"}, 1, {"CUDA_VISIBLE_DEVICES": "5"}),
        # Grid Engine's resource map
        ({"SGE_HGR_gpu": "gpu0 gpu1"}, 1, {"SGE_HGR_gpu": "gpu1"}),
        ({"SGE_HGR_my_GPUs": "0 1", "SGE_HGR_disk": "a b"}, 0, {"SGE_HGR_my_GPUs": "0"}),
        # what Slurm says where it does not know whose devices they are
        (
            {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0,1",
             "GPU_DEVICE_ORDINAL": "0,1"},
            1,
            {"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1", "GPU_DEVICE_ORDINAL": "0"},
        ),
    ],
)  # fmt: skip
def test_the_variables_of_a_child_name_its_part(
    given: dict[str, str], place: int, expected: dict[str, str]
) -> None:
    assert variables({**given, "HOME": "/"}, place, 2, 1) == expected


def test_amd_s_numbers_count_among_the_devices_that_are_left() -> None:
    given = {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "0,1,2,3"}
    assert variables(given, 1, 2, 2) == {
        "ROCR_VISIBLE_DEVICES": "6,7", "HIP_VISIBLE_DEVICES": "0,1",
    }  # fmt: skip
    assert variables({"HIP_VISIBLE_DEVICES": "4,5"}, 1, 2) == {"HIP_VISIBLE_DEVICES": "5"}
    both = {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0,1"}
    own = variables(both, 1, 2, 1, amd=True)
    assert own == {"CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "1"}
    hidden = {"HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "0,1"}
    assert variables(hidden, 1, 2, 1)["HIP_VISIBLE_DEVICES"] == ""


def test_a_worker_of_one_child_leaves_all_as_it_is() -> None:
    given = {"CUDA_VISIBLE_DEVICES": "3,-1", "SGE_HGR_gpu": "a b", "NSLOTS": "8", "HOME": "/"}
    own = variables(given, 0, 1, 1)
    assert own == {"CUDA_VISIBLE_DEVICES": "3,-1", "SGE_HGR_gpu": "a b"}
    assert slots(given, 8, 1) == {}


def test_a_job_reads_how_many_slots_it_has() -> None:
    given = {"NSLOTS": "8", "SLURM_CPUS_ON_NODE": "64"}
    assert slots(given, 2, 4) == {"NSLOTS": "2"}
    assert slots({"SLURM_CPUS_PER_TASK": "8"}, 2, 4) == {"SLURM_CPUS_PER_TASK": "2"}
    assert slots(given, 0, 4) == slots({}, 2, 4) == {}


def test_libraries_start_as_many_threads_as_a_job_has_slots() -> None:
    assert threads({}, 3) == dict.fromkeys(devices.THREADS, "3")
    assert threads({}, 0) == {}
    few = threads({"MKL_NUM_THREADS": "8"}, 3)
    assert "MKL_NUM_THREADS" not in few and few["OPENBLAS_NUM_THREADS"] == "3"
    # they follow it where they have none of their own, and would not where we set that
    assert threads({"OMP_NUM_THREADS": "8"}, 3) == {}
