"""Compares a processor's settlement or balance report with the books: no RPC, no float.

`reconcile.py` is the entry; `docs/reconciliation.md` describes layouts, matching and results.
"""
