"""The webhook gateway: turns a processor's HTTP posts into events of the ledger."""
