"""A short form of the most valuable faults; `make faults` plays all in full."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.folders import folder_for_all

from faults.all_faults import FAULTS
from faults.catalogue import Fault, play, together
from faults.clusters import FORGETFUL, Cluster, new_cluster

PLAYED = [
    FAULTS["F1"],
    FAULTS["F4"],
    FAULTS["F10"],
    together(FAULTS["F14"], FAULTS["F15"], FAULTS["F16"], FAULTS["F19"]),
    FAULTS["F22"],
    FAULTS["F34"],
    FAULTS["F80"],
]


@pytest.fixture(scope="module")
async def cluster_and_folder(starts_postgres: None) -> AsyncIterator[tuple[Cluster, Path]]:
    """A cluster for these tests alone: faults damage it."""
    with folder_for_all() as folder, new_cluster(folder / "database", FORGETFUL) as cluster:
        await cluster.make_template()
        logs = folder / "logs"
        logs.mkdir()
        yield cluster, logs


def _marked(fault: Fault) -> object:
    reason = f"the service lacks {fault.missing}"
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if fault.missing else []
    return pytest.param(fault, marks=marks, id=fault.number)


@pytest.mark.parametrize("fault", [_marked(fault) for fault in PLAYED])
async def test_fault(cluster_and_folder: tuple[Cluster, Path], fault: Fault, seed: int) -> None:
    """Nothing is lost or doubled, and the fault's other expectations hold."""
    cluster, folder = cluster_and_folder
    outcome = await play(fault, cluster, folder, seed=seed, full=False)
    print(f"seed {seed}: {outcome}")  # noqa: T201
    assert (outcome.failure, outcome.lost, outcome.doubled) == ("", 0, 0)
    assert outcome.acked > 0
