"""The ledger on PostgreSQL 15 or later, without extensions."""
