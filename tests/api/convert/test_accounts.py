"""Accounts and their balances, as requests and responses have them."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from support.violations import violations_of

from ledger.api.convert.accounts import (
    STATE_RULE,
    UPDATE_MASK_RULE,
    decode_account_balance_query,
    decode_account_change,
    decode_account_id,
    decode_opening,
    encode_account,
    encode_account_balance,
    encode_opened_account,
)
from ledger.application.accounts import OpenedAccount
from ledger.application.ports.balances import AccountBalanceQuery
from ledger.domain.accounts import (
    OVERDRAFT_LIMIT_MAX_MINOR,
    OVERDRAFT_RULE,
    Account,
    AccountBalance,
    AccountChange,
    AccountProfile,
    AccountState,
    Overdraft,
)
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.fields import ID_RULE, METADATA_RULE, NAME_RULE
from ledger.domain.money import CURRENCY_RULE
from ledger.v1 import account_pb2

PROFILE = AccountProfile(
    "acc_1", "PEN", "Caja", Overdraft(500), AccountState.OPEN, {"owner": "Lima"}
)
ACCOUNT = Account(PROFILE, PROFILE, UNIX_EPOCH, UNIX_EPOCH + timedelta(microseconds=1))


def change_of(*paths: str, **fields: object) -> account_pb2.UpdateAccountRequest:
    """A request that changes `paths` of acc_1 to what `fields` have."""
    account = account_pb2.Account(account_id="acc_1", **fields)  # type: ignore[arg-type]
    return account_pb2.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=paths))


def test_account_of_a_request_is_in_the_response() -> None:
    request = account_pb2.CreateAccountRequest(
        account_id="acc_1",
        currency="PEN",
        name="Caja",
        overdraft=account_pb2.Overdraft(limit_minor=500),
        metadata={"owner": "Lima"},
    )
    assert decode_opening(request) == PROFILE
    assert encode_account(ACCOUNT) == account_pb2.Account(
        account_id="acc_1",
        currency="PEN",
        name="Caja",
        overdraft=account_pb2.Overdraft(limit_minor=500),
        state=account_pb2.ACCOUNT_STATE_OPEN,
        metadata={"owner": "Lima"},
        created_at=Timestamp(),
        updated_at=Timestamp(nanos=1000),
        etag=ACCOUNT.etag,
    )


def test_missing_fields_of_an_account_have_defaults() -> None:
    """No overdraft, which the response says."""
    profile = decode_opening(account_pb2.CreateAccountRequest(account_id="acc_1", currency="PEN"))
    assert profile == AccountProfile("acc_1", "PEN", "", Overdraft(0), AccountState.OPEN, {})
    message = encode_account(Account(profile, profile, UNIX_EPOCH, UNIX_EPOCH))
    assert message.overdraft == account_pb2.Overdraft(limit_minor=0)


@pytest.mark.parametrize(
    ("message", "overdraft"),
    [
        (account_pb2.Overdraft(), Overdraft(0)),
        (account_pb2.Overdraft(limit_minor=0), Overdraft(0)),
        (account_pb2.Overdraft(limit_minor=10**15), Overdraft(10**15)),
        (account_pb2.Overdraft(unlimited=True), Overdraft(None)),
    ],
)
def test_overdraft_is_decoded(message: account_pb2.Overdraft, overdraft: Overdraft) -> None:
    request = account_pb2.CreateAccountRequest(
        account_id="acc_1", currency="PEN", overdraft=message
    )
    assert decode_opening(request).overdraft == overdraft


@pytest.mark.parametrize(
    "message",
    [
        account_pb2.Overdraft(limit_minor=-1),
        account_pb2.Overdraft(limit_minor=OVERDRAFT_LIMIT_MAX_MINOR + 1),
        account_pb2.Overdraft(unlimited=False),
    ],
)
def test_wrong_overdraft_is_refused(message: account_pb2.Overdraft) -> None:
    """Also one that is said to be not unlimited, and then without a limit."""
    opening = account_pb2.CreateAccountRequest(
        account_id="acc_1", currency="PEN", overdraft=message
    )
    assert violations_of(decode_opening, opening) == [("overdraft", OVERDRAFT_RULE)]
    change = change_of("overdraft", overdraft=message)
    assert violations_of(decode_account_change, change) == [("account.overdraft", OVERDRAFT_RULE)]


def test_every_wrong_field_of_an_account_is_reported() -> None:
    wrong = account_pb2.CreateAccountRequest(
        account_id="",
        currency="pen",
        name="\n",
        overdraft=account_pb2.Overdraft(limit_minor=-1),
        metadata={"a": "\0"},
    )
    assert violations_of(decode_opening, wrong) == [
        ("account_id", ID_RULE),
        ("currency", CURRENCY_RULE),
        ("name", NAME_RULE),
        ("overdraft", OVERDRAFT_RULE),
        ("metadata", METADATA_RULE),
    ]


def test_change_has_only_what_the_mask_names() -> None:
    """The rest of the message is ignored, even if it is invalid."""
    request = change_of(
        "state",
        state=account_pb2.ACCOUNT_STATE_FROZEN,
        currency="x",
        name="\n",
        overdraft=account_pb2.Overdraft(limit_minor=-1),
        metadata={"a": "\0"},
        etag="e",
    )
    change = decode_account_change(request)
    assert change == AccountChange(
        AccountProfile("acc_1", "x", state=AccountState.FROZEN), frozenset({"state"}), etag="e"
    )
    assert change.applied_to(PROFILE) == AccountProfile(
        "acc_1", "PEN", "Caja", Overdraft(500), AccountState.FROZEN, {"owner": "Lima"}
    )


def test_change_of_single_keys_of_the_metadata() -> None:
    """A key that the message lacks is to be removed; a key may contain a point."""
    request = change_of("metadata.a.b", "metadata.owner", metadata={"a.b": "2", "c": "3"})
    changed = decode_account_change(request).applied_to(PROFILE)
    assert changed.metadata == {"a.b": "2"}


@pytest.mark.parametrize("number", [0, 4])
def test_state_that_is_none_is_refused_if_the_mask_names_it(number: int) -> None:
    """Unspecified, or of a newer contract."""
    state = account_pb2.AccountState.ValueType(number)
    assert violations_of(decode_account_change, change_of("state", state=state)) == [
        ("account.state", STATE_RULE)
    ]
    assert decode_account_change(change_of("name", state=state)).fields == {"name"}


@pytest.mark.parametrize(
    "paths",
    [
        ("account_id",),
        ("currency",),
        ("etag",),
        ("overdraft.limit_minor",),
        ("*",),
        ("",),
        ("metadata", "metadata.key"),
        tuple(f"metadata.{number}" for number in range(1001)),
    ],
)
def test_mask_that_names_no_changeable_field_is_refused(paths: tuple[str, ...]) -> None:
    assert violations_of(decode_account_change, change_of(*paths)) == [
        ("update_mask", UPDATE_MASK_RULE)
    ]


def test_empty_mask_is_refused() -> None:
    assert violations_of(decode_account_change, change_of()) == [
        ("update_mask", "must name at least one field")
    ]


def test_every_wrong_field_of_a_change_is_reported() -> None:
    request = change_of("name", "overdraft", "state", "metadata", name="\n", metadata={"": "\0"})
    request.account.account_id = " "
    request.account.overdraft.unlimited = False
    assert violations_of(decode_account_change, request) == [
        ("account.account_id", ID_RULE),
        ("account.name", NAME_RULE),
        ("account.metadata", METADATA_RULE),
        ("account.overdraft", OVERDRAFT_RULE),
        ("account.state", STATE_RULE),
    ]


def test_account_id_is_decoded() -> None:
    assert decode_account_id(account_pb2.GetAccountRequest(account_id="acc_1")) == "acc_1"
    assert violations_of(decode_account_id, account_pb2.GetAccountRequest()) == [
        ("account_id", ID_RULE)
    ]


def test_status_of_an_opening_says_whether_it_was_the_first() -> None:
    for is_duplicate, status in (
        (False, account_pb2.CREATE_ACCOUNT_STATUS_CREATED),
        (True, account_pb2.CREATE_ACCOUNT_STATUS_DUPLICATE),
    ):
        response = encode_opened_account(OpenedAccount(ACCOUNT, is_duplicate))
        assert (response.status, response.account) == (status, encode_account(ACCOUNT))


def test_balance_query_is_decoded() -> None:
    request = account_pb2.GetAccountBalanceRequest(account_id="acc_1")
    assert decode_account_balance_query(request) == AccountBalanceQuery("acc_1", None)
    request.as_of.seconds = 1
    assert decode_account_balance_query(request) == AccountBalanceQuery(
        "acc_1", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    )
    request.as_of.nanos = -1
    request.account_id = "\0"
    assert violations_of(decode_account_balance_query, request) == [
        ("account_id", ID_RULE),
        ("as_of", "must be a valid timestamp"),
    ]


def test_balance_has_what_is_available_and_what_is_held_together() -> None:
    balance = AccountBalance("acc_1", "PEN", -20, 50, UNIX_EPOCH)
    assert encode_account_balance(balance) == account_pb2.GetAccountBalanceResponse(
        account_id="acc_1",
        currency="PEN",
        available_minor=-20,
        held_minor=50,
        posted_minor=30,
        as_of=Timestamp(),
    )
