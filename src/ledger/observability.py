"""Logs one line per event to standard error: JSON for machines, or console for people.

A line that a call causes has the call's ids.
"""

import logging
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

if TYPE_CHECKING:
    # Not at run time: every call's frame imports this module, and settings take pydantic.
    from ledger.settings import LogFormat, LogLevel

# The request id and the method of the current call.
CALL_IDS: ContextVar[tuple[str, str] | None] = ContextVar("CALL_IDS", default=None)

# The identity of its caller, where callers authenticate.
CALLER: ContextVar[str | None] = ContextVar("CALLER", default=None)


def add_call_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Adds the ids of the current call to a line."""
    if (ids := CALL_IDS.get()) is not None:
        event.setdefault("request_id", ids[0])
        event.setdefault("method", ids[1])
    if (caller := CALLER.get()) is not None:
        event.setdefault("identity", caller)
    return event


class _LogFile:
    """Standard error, whose failures are ignored.

    A log that is gone (a closed terminal, a pipe without a reader, a full disk) neither fails a
    call nor keeps a server from draining.
    """

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _drop_lost_clients(record: logging.LogRecord) -> bool:
    """A log filter: False for the traceback of a client that leaves while its response is sent.

    gRPC logs nothing about clients that leave at another time, and an attacker could fill the log
    with such tracebacks.
    """
    return not (
        record.exc_info
        and record.exc_info[0]
        and record.exc_info[0].__name__ == "ExecuteBatchError"
    )


def configure_logging(
    log_format: "LogFormat", level: "LogLevel", *, worker: int | None = None
) -> None:
    """Formats our log lines and those of libraries in one way. A repeated call replaces it.

    `worker` is the number of this process among those that share a log. Each line shows it.
    """
    severity = logging.getLevelNamesMapping()[level.value.upper()]
    shared: list[Processor] = [
        add_call_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:

        def add_worker(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
            return {**event, "worker": worker}

        shared.append(add_worker)
    renderer: Processor
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        # The default traceback prints local variables, which hold what callers sent.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        # Writes a line with its end in one call, even without a buffer: workers share a log.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _LogFile())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    logging.getLogger("grpc._cython.cygrpc").addFilter(_drop_lost_clients)
    # Libraries log only warnings and errors, even if our level is lower.
    logging.basicConfig(handlers=[handler], level=max(severity, logging.WARNING), force=True)
