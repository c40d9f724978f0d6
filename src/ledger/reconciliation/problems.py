"""What is wrong with a report or a mapping, with its place."""

from collections.abc import Sequence
from dataclasses import dataclass

# Problems that are kept; further ones are only counted.
PROBLEMS_SHOWN_MAX = 20
# With this many a file is not what it is said to be, and is read no further.
PROBLEMS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """A place of a file that cannot be used. `line` counts from 1; 0 means the whole file."""

    line: int
    column: str
    text: str

    def __str__(self) -> str:
        return f"{self.column}: {self.text}" if self.column else self.text


class BadCell(Exception):
    """A cell that cannot be read: the column, and what is wrong with it."""

    def __init__(self, column: str, text: str) -> None:
        super().__init__(text)
        self.column = column
        self.text = text


class ReportUnusable(Exception):
    """The report cannot be reconciled. Nothing was compared, and nothing may be posted."""

    def __init__(self, problems: Sequence[Problem], count: int | None = None) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)
        self.count = len(self.problems) if count is None else count


class LayoutUnknown(ReportUnusable):
    """The report's header is none of the layouts that were tried."""


class ProblemList:
    """Collects problems, and gives up when there are too many."""

    def __init__(self) -> None:
        self._shown: list[Problem] = []
        self._count = 0

    def add(self, line: int, column: str, text: str) -> None:
        """Adds a problem. Raises ReportUnusable when there are too many."""
        self._count += 1
        if len(self._shown) < PROBLEMS_SHOWN_MAX:
            self._shown.append(Problem(line, column, text))
        if self._count >= PROBLEMS_MAX:
            self.require_none()

    def require_none(self) -> None:
        """Raises ReportUnusable if there is any problem."""
        if self._count:
            raise ReportUnusable(self._shown, self._count)


def shown(text: str, length_max: int = 40) -> str:
    """`text` in quotes, cut to a length that fits a message."""
    return repr(text if len(text) <= length_max else f"{text[: length_max - 1]}…")
