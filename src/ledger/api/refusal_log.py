"""Log lines of calls that were refused or failed."""

from typing import Any, NamedTuple

from ledger.application.repeats import Repeats
from ledger.errors import DeadlineTooShort, LedgerError, NotAuthenticated, QueueFull, ScopeMissing
from ledger.observability import CALLER

# Refusals that an operator should look at: their lines are warnings.
_WARNINGS = (QueueFull, DeadlineTooShort, NotAuthenticated, ScopeMissing)


class _Kind(NamedTuple):
    """What refusals that are counted together have in common."""

    verb: str
    error: str
    code: str
    identity: str
    why: str
    is_warning: bool


class RefusalLog:
    """Logs the first refusal of each kind and caller at once, and the others as a number.

    A line for each would cost more than the refusal, and an attacker could fill the disk; during an
    outage every call fails. At level debug each has its line.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._repeats: Repeats[_Kind] = Repeats(self._log_repeats)

    def refused(self, error: BaseException, code: str) -> None:
        """Logs a call that was refused."""
        particulars = error.particulars if isinstance(error, NotAuthenticated) else {}
        kind = _Kind(
            "refused",
            type(error).__name__,
            code,
            CALLER.get() or particulars.get("identity", ""),
            _why(error),
            isinstance(error, _WARNINGS),
        )
        self._log_first(kind, **particulars)

    def failed(self, error: LedgerError, code: str, cause: BaseException) -> None:
        """Logs a call that failed. Its kind is in the error's text; the cause's text may vary."""
        kind = _Kind(
            "failed", type(error).__name__, code, CALLER.get() or "", str(error), is_warning=True
        )
        self._log_first(kind, cause=repr(cause))

    def report(self) -> None:
        """Logs the numbers that have not been logged yet."""
        self._repeats.flush()

    def _log_first(self, kind: _Kind, **particulars: str) -> None:
        log = self._log.debug
        if self._repeats.is_first(kind):
            log = self._log.warning if kind.is_warning else self._log.info
        why = {"why": kind.why} if kind.why else {}
        log(f"call {kind.verb}", code=kind.code, error=kind.error, **why, **particulars)

    def _log_repeats(self, kind: _Kind, calls: int) -> None:
        known = {
            name: value for name, value in (("identity", kind.identity), ("why", kind.why)) if value
        }
        log = self._log.warning if kind.is_warning else self._log.info
        log(
            f"more calls {kind.verb} in the same way",
            code=kind.code,
            error=kind.error,
            calls=calls,
            **known,
        )


def _why(error: BaseException) -> str:
    """What the log says more of a refusal. Each has its own line: a stranger's, or a scope's."""
    if isinstance(error, NotAuthenticated):
        return error.why
    return f"the scope {error.scope} is missing" if isinstance(error, ScopeMissing) else ""
