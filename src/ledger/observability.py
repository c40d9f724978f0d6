"""Logs: one event a line on standard error, JSON for machines or console for people, with the call's ids bound to it."""

import logging
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ledger.settings import LogFormat, LogLevel

# The request id and the method of the call that is being answered.
CALL_IDS: ContextVar[tuple[str, str] | None] = ContextVar("CALL_IDS", default=None)

# The identity of its caller, where callers are asked who they are.
CALLER: ContextVar[str | None] = ContextVar("CALLER", default=None)


def add_call_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Adds the ids of the call to a line that is logged on its behalf."""
    if (ids := CALL_IDS.get()) is not None:
        event.setdefault("request_id", ids[0])
        event.setdefault("method", ids[1])
    if (caller := CALLER.get()) is not None:
        event.setdefault("identity", caller)
    return event


class _LogFile:
    """Standard error, as long as it can be written to.

    A log that is gone (a closed terminal, a pipe without a reader, a full disk) neither fails a
    call nor keeps a server from draining.
    """

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _is_no_lost_client(record: logging.LogRecord) -> bool:
    """False for the traceback that gRPC logs if a client leaves in the moment of its answer.

    Of other clients that leave it logs nothing, and a stranger may make a thousand leave at once.
    """
    return not (
        record.exc_info
        and record.exc_info[0]
        and record.exc_info[0].__name__ == "ExecuteBatchError"
    )


def configure_logging(log_format: LogFormat, level: LogLevel, *, worker: int | None = None) -> None:
    """Sends our lines and those of the libraries through one formatter. For the start of a process; on repeat it replaces.

    `worker` is the number of this process among those that share a log, and stands in each of its lines.
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
    if log_format is LogFormat.JSON:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        # Plain: the fancy traceback prints local variables, and those hold what callers sent.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        # Writes a line and its end at once, also where Python does not buffer: workers share the log.
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
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_lost_client)
    # Libraries speak up only when something is wrong, unless everything is asked for.
    logging.basicConfig(handlers=[handler], level=max(severity, logging.WARNING), force=True)
