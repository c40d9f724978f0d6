"""Openings, changes, lists, balances and statements of accounts that are refused."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.bad_requests import (
    BAD_INSTANTS,
    INT64_MAX,
    INT64_MIN,
    Case,
    Cases,
    account_case,
    assert_conflict,
    assert_refused,
    bad_metadata,
    bad_page_tokens,
    case_of,
    groups,
    in_an_hour,
)
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import account_pb2, ledger_pb2

NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
OVERDRAFT_MAX = 10**15
BAD_OVERDRAFTS: dict[str, dict[str, Any]] = {
    "below-0": {"limit_minor": -1},
    "beyond-the-maximum": {"limit_minor": OVERDRAFT_MAX + 1},
    "int64-max": {"limit_minor": INT64_MAX},
    "int64-min": {"limit_minor": INT64_MIN},
    "not-unlimited": {"unlimited": False},
}
BAD_NAMES = {
    "201": "a" * 201,
    "line-feed": "a\n",
    "nul": "\0",
    "delete": "\x7f",
    "next-line": "\x85",
}

pytestmark = [pytest.mark.usefixtures("_known_accounts"), pytest.mark.both_servers]


def bad_openings() -> Iterator[tuple[str, Case]]:
    """Accounts that are not opened."""
    yield "empty", case_of("CreateAccount", "account_id", "currency")
    for name, text in BAD_NAMES.items():
        yield f"name-{name}", account_case("name", name=text)
    for name, overdraft in BAD_OVERDRAFTS.items():
        yield f"overdraft-{name}", account_case("overdraft", overdraft=overdraft)
    for name, metadata in bad_metadata():
        yield f"metadata-{name}", account_case("metadata", metadata=metadata)
    yield (
        "everything",
        account_case(
            *("account_id", "currency", "name", "overdraft", "metadata"),
            account_id="",
            currency="pen",
            name="\n",
            overdraft={"limit_minor": -1},
            metadata={"": "\0"},
        ),
    )


def bad_changes() -> Iterator[tuple[str, Case]]:
    """Masks that name nothing or what cannot be changed, and bad values that the mask names."""

    def change(path: str, *paths: str, **fields: Any) -> Case:
        return case_of(
            "UpdateAccount",
            path,
            account={"account_id": "known", **fields},
            update_mask={"paths": paths},
        )

    yield "mask-of-nothing", change("update_mask")
    for path in (
        "*",
        "",
        "account_id",
        "currency",
        "created_at",
        "updated_at",
        "etag",
        "Name",
        "name.x",
        "overdraft.unlimited",
        "account.name",
        "\0",
    ):
        yield f"mask-{path!r}", change("update_mask", "name", path)
    yield "mask-of-a-map-and-its-key", change("update_mask", "metadata", "metadata.a")
    yield "mask-of-1001-paths", change("update_mask", *["name"] * 1001)
    yield (
        "no-account",
        case_of("UpdateAccount", "account.account_id", update_mask={"paths": ["name"]}),
    )
    for name, text in BAD_NAMES.items():
        yield f"changed-name-{name}", change("account.name", "name", name=text)
    for name, overdraft in BAD_OVERDRAFTS.items():
        yield (
            f"changed-overdraft-{name}",
            change("account.overdraft", "overdraft", overdraft=overdraft),
        )
    for number in (0, 4, 77, -1, 2**31 - 1, -(2**31)):
        yield f"changed-state-{number}", change("account.state", "state", state=number)
    for name, metadata in bad_metadata():
        yield f"changed-metadata-{name}", change("account.metadata", "metadata", metadata=metadata)
        keys = [f"metadata.{key}" for key in metadata][:1000]
        yield f"changed-metadata-keys-{name}", change("account.metadata", *keys, metadata=metadata)
    etag = Case(
        "UpdateAccount",
        case_of(
            "UpdateAccount",
            account={"account_id": "known", "etag": "x" * 32},
            update_mask={"paths": ["name"]},
        ).sent(),
        grpc.StatusCode.FAILED_PRECONDITION,
        "ACCOUNT_CHANGED",
    )
    yield "etag-of-another-state", etag


def bad_queries() -> Iterator[tuple[str, Case]]:
    """Accounts that do not exist, and pages, instants and filters that are refused."""
    for size in (-1, -(2**31)):
        for method, of in {
            "ListAccounts": {},
            "ListAccountEntries": {"account_id": "known"},
        }.items():
            yield f"{method}-page_size-{size}", case_of(method, "page_size", page_size=size, **of)
    for name, token in bad_page_tokens(["ListAccounts"]):
        yield (
            f"ListAccounts-page_token-{name}",
            case_of("ListAccounts", "page_token", page_token=token),
        )
    for name, token in bad_page_tokens(["ListAccountEntries", "known", "", "", "", ""]):
        yield f"ListAccountEntries-page_token-{name}", entries("page_token", page_token=token)
    for name, (seconds, nanos) in BAD_INSTANTS.items():
        instant = Timestamp(seconds=seconds, nanos=nanos)
        yield (
            f"as_of-{name}",
            case_of("GetAccountBalance", "as_of", account_id="known", as_of=instant),
        )
        for path in ("start_at", "end_at"):
            yield f"{path}-{name}", entries(path, **{path: instant})
    yield "as_of-in-an-hour", Case("GetAccountBalance", balance_in_an_hour, fields=("as_of",))
    for paths in (("start_at",), ("end_at",), ("start_at", "end_at")):
        yield (
            f"in-an-hour-{'-'.join(paths)}",
            Case("ListAccountEntries", partial(entries_in_an_hour, *paths), fields=paths),
        )
    yield (
        "start-after-end",
        entries("start_at", start_at={"seconds": 2}, end_at={"seconds": 1, "nanos": 999_999_999}),
    )
    for numbers in (
        [0],
        [max(ledger_pb2.EntryType.values()) + 1],
        [-1],
        [2**31 - 1],
        [-(2**31)],
        [16, 77],
        [0] * 100_000,
    ):
        yield (
            f"entry_types-{numbers[-1]}-of-{len(numbers)}",
            entries("entry_types", entry_types=numbers),
        )
    for method in ("GetAccount", "GetAccountBalance", "ListAccountEntries"):
        unknown = case_of(method, account_id="unknown").sent()
        yield f"{method}-unknown", Case(method, unknown, *NOT_FOUND)
        yield f"{method}-empty", case_of(method, "account_id")
    unknown = case_of(
        "UpdateAccount", account={"account_id": "unknown"}, update_mask={"paths": ["name"]}
    ).sent()
    yield "UpdateAccount-unknown", Case("UpdateAccount", unknown, *NOT_FOUND)


def entries(*fields: str, **changes: Any) -> Case:
    """A statement of an account that has no entries, with some fields changed."""
    return case_of("ListAccountEntries", *fields, account_id="known", **changes)


def balance_in_an_hour() -> bytes:
    request = account_pb2.GetAccountBalanceRequest(account_id="known", as_of=in_an_hour())
    return request.SerializeToString()


def entries_in_an_hour(*paths: str) -> bytes:
    """A request whose instants are in the future when it is sent."""
    return entries(**{path: in_an_hour() for path in paths}).sent()


@pytest.mark.parametrize("cases", groups(bad_openings(), bad_changes(), bad_queries()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)


async def test_account_with_other_contents_is_refused(shared_ledger: RunningLedger) -> None:
    """ALREADY_EXISTS names the fields that differ, and no values."""
    case = account_case(
        account_id="known", currency="USD", name="other", overdraft={"limit_minor": 1}
    )
    await assert_conflict(
        shared_ledger, case, "ACCOUNT_ID_REUSED", "account_id", "currency,name,overdraft"
    )
