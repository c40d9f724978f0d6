"""Measures the service on a PostgreSQL of its own with durable commits, each figure beside its limit of the same run.

The parent starts every server and every load as a process of its own: gRPC does not survive a fork, and what one of them costs
can only be told when it is alone in its process.
"""
