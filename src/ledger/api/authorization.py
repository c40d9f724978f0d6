"""Who may do what: the one table of what each method needs."""

from collections.abc import Mapping
from enum import StrEnum

from ledger.v1 import ledger_pb2

SERVICE_NAME = ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"].full_name


class Scope(StrEnum):
    """What a caller may be allowed to do. None includes another."""

    INGEST = "ingest"
    READ = "read"
    PAYOUT = "payout"
    ADMIN = "admin"


# What the bank answers comes as events, hence from whoever may ingest: it moves no money, and cannot name another amount than the
# payout's.
SCOPE_BY_METHOD: Mapping[str, Scope] = {
    "IngestEvent": Scope.INGEST,
    "BatchIngestEvents": Scope.INGEST,
    "StreamEvents": Scope.INGEST,
    "GetEvent": Scope.READ,
    "GetBalance": Scope.READ,
    "ListEntries": Scope.READ,
    "RunPayouts": Scope.PAYOUT,
    "GetPayoutRun": Scope.READ,
    "ListPayoutRunItems": Scope.READ,
    "GetPayout": Scope.READ,
    "ListPayouts": Scope.READ,
    "PutRestaurant": Scope.ADMIN,
    "UpdateRestaurant": Scope.ADMIN,
    "GetRestaurant": Scope.READ,
    "ListRestaurants": Scope.READ,
}


def parse_scopes(text: str) -> frozenset[Scope]:
    """The scopes of a list with commas. Raises ValueError for any other word, and for none at all."""
    try:
        return frozenset(Scope(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"scopes must be some of {','.join(Scope)}, with commas between them") from None
