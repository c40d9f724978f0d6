"""Sizes and times that several layers, or the server and its clients, must agree on.

Imports nothing heavy, so that every command may import it.
"""

import sys

# The largest request of methods that take many events or payments, and the largest response: gRPC
# clients accept no more by default.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
# The largest request of every other method.
SMALL_REQUEST_BYTES_MAX = 256 * 1024

BATCH_EVENTS_MAX = 1000
BATCH_PAYMENTS_MAX = 1000
# The metadata entries of all items of a batch together: 64 each if there are 1,000.
BATCH_METADATA_ENTRIES_MAX = 64_000
# The restaurants that a payout run may name.
RUN_RESTAURANTS_MAX = 1000

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000

# What a server takes at once, unless its settings say otherwise.
OPEN_CALLS_DEFAULT, OPEN_STREAMS_DEFAULT = 1000, 32
PAYOUT_RUNS_OPEN_DEFAULT = 50

# How long a stopping server refuses last calls at most.
LAST_CALLS_SECONDS_MAX = 2.0

# Worker processes of one server.
WORKERS_MAX = 64

# The path of a unix socket: sun_path of sockaddr_un, less its closing NUL.
SOCKET_PATH_BYTES_MAX = 107 if sys.platform == "linux" else 103
