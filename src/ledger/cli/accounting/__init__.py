"""`ledger report trial-balance` and `journal`: the books as accountants read them."""
