"""The bound on worker processes of one server."""

WORKERS_MAX = 64
