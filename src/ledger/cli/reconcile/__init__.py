"""`ledger reconcile`: a processor's report against the books."""
