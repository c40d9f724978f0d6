"""How many processes one server may be."""

WORKERS_MAX = 64
