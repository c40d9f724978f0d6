"""Measures the service on a temporary, durable PostgreSQL, each figure beside its limit.

The parent starts every server and every load as a separate process: gRPC does not survive a fork,
and the system counts CPU and memory by process.
"""
