"""Accounts and their balances, between the contract's messages and the domain."""

from ledger.api.convert.enums import by_number
from ledger.api.convert.identifiers import id_violations, require_ids
from ledger.api.convert.instants import decode_instant_of, encode_instant
from ledger.api.convert.paging import ID_PLACE, Listing, Paging, fitting
from ledger.api.convert.update_masks import decode_update_mask, update_mask_rule
from ledger.application.accounts import OpenedAccount
from ledger.application.ports.balances import AccountBalanceQuery
from ledger.application.ports.pages import Page
from ledger.domain.accounts import (
    CHANGEABLE_FIELDS,
    NO_OVERDRAFT,
    OVERDRAFT_RULE,
    Account,
    AccountBalance,
    AccountChange,
    AccountProfile,
    AccountState,
    Overdraft,
    profile_violations,
)
from ledger.domain.profiles import within
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import account_pb2

UPDATE_MASK_RULE = update_mask_rule("name", "overdraft", "state")
STATE_RULE = "must be OPEN, FROZEN or CLOSED"
# All accounts: the list has no filters.
ACCOUNT_LISTING = Listing(("ListAccounts",), ID_PLACE)

_STATES = by_number(
    account_pb2.AccountState, "ACCOUNT_STATE_", AccountState, "src/ledger/domain/accounts.py"
)
_STATE_NUMBERS = {
    state: account_pb2.AccountState.ValueType(number) for number, state in _STATES.items()
}


def decode_opening(request: account_pb2.CreateAccountRequest) -> AccountProfile:
    """The account to open. Raises InvalidRequest."""
    overdraft = _decode_overdraft(request.overdraft)
    profile = AccountProfile(
        account_id=request.account_id,
        currency=request.currency,
        name=request.name,
        overdraft=overdraft or NO_OVERDRAFT,
        metadata=dict(request.metadata),
    )
    violations = profile_violations(profile)
    if overdraft is None:
        violations.append(FieldViolation("overdraft", OVERDRAFT_RULE))
    if violations:
        raise InvalidRequest(violations)
    return profile


def decode_account_change(request: account_pb2.UpdateAccountRequest) -> AccountChange:
    """The change that the mask names. Raises InvalidRequest.

    Other fields are ignored, except `account_id` and `etag`. A metadata key that the mask names and
    that has no value is removed.
    """
    message, paths = request.account, request.update_mask.paths
    mask = decode_update_mask(paths, CHANGEABLE_FIELDS)
    overdraft: Overdraft | None = NO_OVERDRAFT
    if "overdraft" in mask.fields:
        overdraft = _decode_overdraft(message.overdraft)
    state: AccountState | None = AccountState.OPEN
    if "state" in mask.fields:
        state = _STATES.get(message.state)
    profile = AccountProfile(
        account_id=message.account_id,
        currency=message.currency,
        name=message.name if "name" in mask.fields else "",
        overdraft=overdraft or NO_OVERDRAFT,
        state=state or AccountState.OPEN,
        metadata=mask.named("metadata", message.metadata),
    )
    # The currency never changes, so it is not judged.
    found = [one for one in profile_violations(profile) if one.field != "currency"]
    if overdraft is None:
        found.append(FieldViolation("overdraft", OVERDRAFT_RULE))
    if state is None:
        found.append(FieldViolation("state", STATE_RULE))
    violations = within("account", found)
    if not mask.is_valid:
        violations.append(FieldViolation("update_mask", UPDATE_MASK_RULE))
    elif not paths:
        violations.append(FieldViolation("update_mask", "must name at least one field"))
    if violations:
        raise InvalidRequest(violations)
    return AccountChange(profile, mask.fields, mask.keys["metadata"], message.etag)


def decode_account_id(request: account_pb2.GetAccountRequest) -> str:
    """Returns the requested id. Raises InvalidRequest."""
    require_ids({"account_id": request.account_id})
    return request.account_id


def decode_account_balance_query(
    request: account_pb2.GetAccountBalanceRequest,
) -> AccountBalanceQuery:
    """Returns which balance is requested. Raises InvalidRequest."""
    violations = id_violations({"account_id": request.account_id})
    as_of = decode_instant_of(request, "as_of", violations)
    if violations:
        raise InvalidRequest(violations)
    return AccountBalanceQuery(request.account_id, as_of)


def encode_account(account: Account) -> account_pb2.Account:
    profile = account.profile
    return account_pb2.Account(
        account_id=profile.account_id,
        currency=profile.currency,
        name=profile.name,
        overdraft=_encode_overdraft(profile.overdraft),
        state=_STATE_NUMBERS[profile.state],
        metadata=profile.metadata,
        created_at=encode_instant(account.created_at),
        updated_at=encode_instant(account.updated_at),
        etag=account.etag,
    )


def encode_opened_account(opened: OpenedAccount) -> account_pb2.CreateAccountResponse:
    return account_pb2.CreateAccountResponse(
        status=account_pb2.CREATE_ACCOUNT_STATUS_DUPLICATE
        if opened.is_duplicate
        else account_pb2.CREATE_ACCOUNT_STATUS_CREATED,
        account=encode_account(opened.account),
    )


def encode_account_page(
    paging: Paging[str], page: Page[Account, str]
) -> account_pb2.ListAccountsResponse:
    """As many accounts of the page as PAGE_BYTES_MAX allows, and at least one."""
    accounts, next_place = fitting(
        map(encode_account, page.items), page.next_place, lambda message: message.account_id
    )
    return account_pb2.ListAccountsResponse(
        accounts=accounts, next_page_token=paging.next_page_token(next_place)
    )


def encode_account_balance(balance: AccountBalance) -> account_pb2.GetAccountBalanceResponse:
    return account_pb2.GetAccountBalanceResponse(
        account_id=balance.account_id,
        currency=balance.currency,
        available_minor=balance.available_minor,
        held_minor=balance.held_minor,
        posted_minor=balance.posted_minor,
        as_of=encode_instant(balance.as_of),
    )


def _decode_overdraft(message: account_pb2.Overdraft) -> Overdraft | None:
    """None if `unlimited` is set to false, which says nothing."""
    match message.WhichOneof("limit"):
        case "limit_minor":
            return Overdraft(message.limit_minor)
        case "unlimited":
            return Overdraft(None) if message.unlimited else None
        case _:
            return NO_OVERDRAFT


def _encode_overdraft(overdraft: Overdraft) -> account_pb2.Overdraft:
    if overdraft.limit_minor is None:
        return account_pb2.Overdraft(unlimited=True)
    return account_pb2.Overdraft(limit_minor=overdraft.limit_minor)
