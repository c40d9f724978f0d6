"""A little of the faults that matter most, as ordinary tests; `make faults` plays the whole of all of them."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults.catalogue import play
from faults.catalogue_all import FAULTS
from faults.clusters import FORGETFUL, Cluster, new_cluster, new_folder

PLAYED = ["F1", "F4", "F10", "F14", "F15", "F16", "F19", "F22", "F34"]


@pytest.fixture(scope="module")
async def cluster_and_folder() -> AsyncIterator[tuple[Cluster, Path]]:
    """A cluster that other tests do not use: it is going to be hurt."""
    with new_folder() as folder, new_cluster(folder / "database", FORGETFUL) as cluster:
        await cluster.make_template()
        logs = folder / "logs"
        logs.mkdir()
        yield cluster, logs


def _marked(number: str) -> object:
    missing = FAULTS[number].missing
    marks = [pytest.mark.xfail(strict=True, reason=f"the service lacks {missing}")] if missing else []
    return pytest.param(number, marks=marks, id=number)


@pytest.mark.parametrize("number", [_marked(number) for number in PLAYED])
async def test_fault(cluster_and_folder: tuple[Cluster, Path], number: str) -> None:
    """Nothing lost, nothing doubled, and what else the fault expects."""
    seed = random.randrange(2**31)
    cluster, folder = cluster_and_folder
    outcome = await play(FAULTS[number], cluster, folder, seed=seed, full=False)
    print(f"seed {seed}: {outcome}")  # noqa: T201
    assert (outcome.failure, outcome.lost, outcome.doubled) == ("", 0, 0)
    assert outcome.acked > 0
