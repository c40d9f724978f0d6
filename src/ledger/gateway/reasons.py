"""Why a delivery that is correctly signed is not booked: words for metrics, alerts and replays.

Words that are not here come from a processor's module, or from the ledger: the `reason` of its
error, for example EVENT_ID_REUSED.
"""

UNKNOWN_RESTAURANT = "UNKNOWN_RESTAURANT"
CHARGE_NOT_FOUND = "CHARGE_NOT_FOUND"
PAYOUT_NOT_FOUND = "PAYOUT_NOT_FOUND"
PAYOUT_OF_ANOTHER = "PAYOUT_OF_ANOTHER"
REVERSAL_MISMATCH = "REVERSAL_MISMATCH"
FEE_MISSING = "FEE_MISSING"
FEE_MALFORMED = "FEE_MALFORMED"
FEE_ABOVE_AMOUNT = "FEE_ABOVE_AMOUNT"
BAD_EVENT_ID = "BAD_EVENT_ID"
FETCH_FAILED = "FETCH_FAILED"
GATEWAY_DEFECT = "GATEWAY_DEFECT"


class CannotBook(Exception):
    """A fact cannot become an event. `detail` says what to mend, without personal data.

    With `may_come` the delivery is parked: what it lacks, such as the charge that it is about, may
    still come.
    """

    def __init__(self, reason: str, detail: str, *, may_come: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.may_come = may_come
