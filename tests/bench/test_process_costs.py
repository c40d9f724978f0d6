"""The memory of processes, as the bench counts it."""

import os
import subprocess
import sys

import pytest

from scripts.bench.process_costs import private_bytes

ALLOCATED = 64 * 1024 * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
def test_private_memory_of_descendants_counts() -> None:
    before = private_bytes(os.getpid())
    assert before is not None
    assert before > 0
    # The child fills its memory, reports that, and waits for its standard input to end.
    program = f"import sys; filled = b'x' * {ALLOCATED}; print(len(filled), flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == str(ALLOCATED)
        with_child = private_bytes(os.getpid())
        of_child = private_bytes(child.pid)
    finally:
        child.communicate()
    assert with_child is not None
    assert of_child is not None
    assert with_child > of_child > ALLOCATED
