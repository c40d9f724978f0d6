"""What the demonstration says, and what it compares."""

from ledger.cli.failures import report
from ledger.cli.output import print_line


class Demonstration:
    """Prints what happens, and collects the differences from what is expected."""

    def __init__(self) -> None:
        self.differences: list[str] = []
        self._is_interrupted = False

    def interrupt(self, *_: object) -> None:
        """Ends the demonstration before the next sentence; the second time, at once.

        An exception at any other point can leave gRPC holding a lock that the clean-up waits for.
        """
        if self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True

    def say(self, sentence: str) -> None:
        """Prints a sentence. Raises KeyboardInterrupt if the user has asked for the end."""
        if self._is_interrupted:
            raise KeyboardInterrupt
        print_line()
        for line in sentence.split("\n"):
            print_line(line)

    def expect(self, what: str, seen: object, expected: object) -> None:
        """Reports a difference between `seen` and `expected`, if there is one, and goes on."""
        if seen != expected:
            self.differences.append(f"{what}: {seen}, which should be {expected}")
            report("wrong", [self.differences[-1]])
