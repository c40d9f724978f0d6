"""One module a processor: how its deliveries are signed, and what they report."""
