"""What the use cases need from outside, as protocols.

`ledger.infrastructure.postgres` implements them.
"""
