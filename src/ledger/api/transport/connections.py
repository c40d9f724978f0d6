"""Limits the connections of a server to the file descriptors it has."""

import resource

CONNECTIONS_MAX = 4096
# At the address for health checks: a few for each worker process.
HEALTH_CONNECTIONS_MAX = 32
# For files, threads and their pipes, and connections that are closed as soon as they are accepted.
DESCRIPTORS_SPARE = 64
CONNECTIONS_MIN = 16


def room_for_connections(others: int) -> int:
    """How many clients may be connected if the process needs `others` descriptors for other uses.

    Raises the process's limit as far as allowed, up to what CONNECTIONS_MAX needs. Without a free
    descriptor a server could not even refuse a connection, and new clients would hang.
    """
    wanted = CONNECTIONS_MAX + others + DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [limit for limit in (hard, wanted) if limit != resource.RLIM_INFINITY]
    if soft != resource.RLIM_INFINITY and soft < min(limits):
        soft = min(limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return min(CONNECTIONS_MAX, max(CONNECTIONS_MIN, soft - others - DESCRIPTORS_SPARE))
