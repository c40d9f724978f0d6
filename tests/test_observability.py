"""The lines of the log."""

import io
import logging
import socket
import sys

import pytest
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from support.commands import logging_kept

from ledger.observability import configure_logging
from ledger.settings import LogFormat, LogLevel


@pytest.mark.parametrize("log_format", LogFormat)
def test_each_line_is_one_write(monkeypatch: pytest.MonkeyPatch, log_format: LogFormat) -> None:
    """With its line end, also when the output is unbuffered. Else lines of workers would mix."""
    ours, log = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    # Like stderr with PYTHONUNBUFFERED. Each write is a datagram.
    unbuffered = io.TextIOWrapper(io.FileIO(log.fileno(), "w", closefd=False), write_through=True)
    with ours, log, logging_kept():
        monkeypatch.setattr(sys, "stderr", unbuffered)
        configure_logging(log_format, LogLevel.INFO)
        structlog.get_logger("ours").info("x" * 10_000)
        logging.getLogger("a library").warning("something is wrong")
        ours.setblocking(False)
        for text in (b"x" * 10_000, b"something is wrong"):
            line = ours.recv(100_000)
            assert text in line
            assert line.endswith(b"\n")
        with pytest.raises(BlockingIOError):
            ours.recv(1)


def test_client_that_leaves_causes_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's line about a reset during a response is dropped. Its other lines are logged."""
    log = io.StringIO()
    library = logging.getLogger("grpc._cython.cygrpc")
    with logging_kept():
        monkeypatch.setattr(sys, "stderr", log)
        configure_logging(LogFormat.JSON, LogLevel.INFO)
        for error in (cygrpc.ExecuteBatchError("the client left"), ValueError("something else")):
            try:
                raise error
            except (cygrpc.ExecuteBatchError, ValueError):
                library.exception("raised by servicer method")
    assert "something else" in log.getvalue()
    assert "the client left" not in log.getvalue()
