"""What SIGHUP means: the server's terminal was closed; without a terminal, files have changed."""

import os
import signal


def ends_at_hangup() -> bool:
    """Whether SIGHUP ends this process: it has a terminal, and `nohup` did not start it.

    Call it before the process installs a handler of SIGHUP.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    os.close(terminal)
    return True
