"""How many connections a server takes: never more than it has descriptors for."""

import resource

CONNECTIONS_MAX = 4096
# To the address for health checks alone: a few for each worker's orchestrator.
HEALTH_CONNECTIONS_MAX = 32
# For files, threads and their pipes, and connections that are closed as soon as they are taken.
DESCRIPTORS_SPARE = 64
CONNECTIONS_MIN = 16


def room_for_connections(others: int) -> int:
    """How many clients may be connected when `others` descriptors are needed otherwise.

    Raises the limit of this process as far as it may, to what CONNECTIONS_MAX needs. Without a
    descriptor left a server accepts nothing, and new clients hang instead of hearing that it is full.
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
