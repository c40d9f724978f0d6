"""Which references of a processor can name a payout of the ledger."""

import re

# As the ledger writes them. A reference of another form is of something else that the processor
# pays, and never becomes a payout of the ledger's later.
_PAYOUT_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_payout_id(text: str) -> bool:
    """Whether `text` has the form of the ledger's payout ids."""
    return _PAYOUT_ID.fullmatch(text) is not None
