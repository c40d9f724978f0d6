"""A double-entry ledger for marketplaces that collect card payments for restaurants."""
