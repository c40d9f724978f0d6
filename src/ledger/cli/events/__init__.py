"""`ledger events`: what is booked, what it posted, and which payout took it."""
