"""`ledger quarantine`: deliveries of processors that cannot be booked."""
