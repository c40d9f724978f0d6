"""What SIGHUP means to a server: its terminal is gone; without a terminal, that files have changed."""

import os
import signal


def ends_at_hangup() -> bool:
    """Whether SIGHUP ends this process: it has a controlling terminal, and `nohup` did not start it.

    To be asked before the process handles SIGHUP.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    os.close(terminal)
    return True
