"""Page tokens: only servers can make them, for every list; and how their keys are replaced."""

from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from google.type.date_pb2 import Date
from grpc import aio
from grpc_status import rpc_status
from support.bad_requests import REQUEST_TYPES, path_of
from support.events import event_message, unique
from support.page_tokens import checksummed_token, keyed_token
from support.running import RunningLedger, query, running_ledger

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.v1 import account_pb2, ledger_pb2

UUID_TEXT = "0190a1b2-0000-7000-8000-000000000000"
KEY = b"k" * 32


async def refusal_of(call: object) -> tuple[grpc.StatusCode, str, list[str]]:
    """Code, reason and the fields of a call that is refused."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(bad_request)
    return (
        caught.value.code(),
        info.reason,
        [violation.field for violation in bad_request.field_violations],
    )


REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", ["page_token"])


async def test_caller_cannot_make_a_token(shared_ledger: RunningLedger) -> None:
    """A checksum alone is not enough, as it has no secret.

    With a token that has only a checksum, a caller could choose the opening balance of a statement.
    """
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    instant = "1700000000000000"
    lists: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
        "ListEntries": (
            {"restaurant_id": restaurant_id, "currency": "PEN"},
            [restaurant_id, "PEN", "", "", "", "", ""],
            [instant, "800", "", "999999", "5", "0", "0", UUID_TEXT, "1"],
        ),
        "ListPayoutRunItems": ({"payout_run_id": UUID_TEXT}, [UUID_TEXT, ""], ["a"]),
        "ListEvents": ({}, [""] * 7, [instant, "evt_1"]),
        "ListBalances": ({"currency": "PEN"}, ["PEN", "", "", "", ""], ["a"]),
        "ListPayoutEntries": (
            {"payout_id": UUID_TEXT},
            [UUID_TEXT, ""],
            [instant, "800", UUID_TEXT, "1"],
        ),
        "ListPayoutRuns": ({}, ["", ""], [instant, UUID_TEXT]),
        "ListPayouts": ({}, ["", "", ""], [instant, UUID_TEXT]),
        "ListRestaurants": ({}, [], ["a"]),
        "ListQuarantined": ({}, [""] * 7, [instant, UUID_TEXT]),
        "ListAccounts": ({}, [], ["a"]),
        "ListAccountEntries": (
            {"account_id": "acc_tokens"},
            ["acc_tokens", "", "", "", ""],
            [instant, "800", "", "999999", "5", "0", "0", UUID_TEXT, "1"],
        ),
        "ListPayments": (
            {"payer_account_id": "acc_tokens"},
            ["acc_tokens", "", "", ""],
            [instant, "pay_1"],
        ),
    }
    account = account_pb2.CreateAccountRequest(account_id="acc_tokens", currency="PEN")
    await shared_ledger.accounts.CreateAccount(account)
    assert {
        name for name, type in REQUEST_TYPES.items() if "page_token" in type.fields_by_name
    } == lists.keys()
    for name, (fields, query_of_it, place) in lists.items():
        whole_query = [name, *query_of_it]
        for token in (checksummed_token(whole_query, place), keyed_token(KEY, whole_query, place)):
            request = GetMessageClass(REQUEST_TYPES[name])(**fields, page_token=token)
            call: Any = shared_ledger.channel.unary_unary(path_of(name))
            assert await refusal_of(call(request.SerializeToString())) == REFUSED, name


@pytest.mark.both_servers
async def test_token_is_refused_for_another_list_or_query(ledger: RunningLedger) -> None:
    """The token of a list of runs continues that list only, and only unchanged."""
    for request_id in ("one", "other"):
        request = ledger_pb2.RunPayoutsRequest(
            currency="PEN", as_of=Date(year=2020, month=1, day=1), request_id=request_id
        )
        await ledger.stub.RunPayouts(request)
    token = (
        await ledger.stub.ListPayoutRuns(ledger_pb2.ListPayoutRunsRequest(page_size=1))
    ).next_page_token
    again = ledger_pb2.ListPayoutRunsRequest(page_size=1, page_token=token)
    assert (await ledger.stub.ListPayoutRuns(again)).payout_runs
    changed = token[:-1] + ("A" if token[-1] != "A" else "Q")
    assert (
        await refusal_of(
            ledger.stub.ListPayoutRuns(ledger_pb2.ListPayoutRunsRequest(page_token=changed))
        )
        == REFUSED
    )
    assert (
        await refusal_of(ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(page_token=token)))
        == REFUSED
    )
    of_a_currency = ledger_pb2.ListPayoutRunsRequest(currency="PEN", page_token=token)
    assert await refusal_of(ledger.stub.ListPayoutRuns(of_a_currency)) == REFUSED


async def test_tokens_of_run_items_are_those_of_earlier_servers(ledger: RunningLedger) -> None:
    """Bound to the method, the run and the outcome; the position is the last restaurant's id."""
    for restaurant_id in ("res_a", "res_b"):
        await ledger.ingest(event_message(restaurant_id=restaurant_id))
    run = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=Date(year=2020, month=1, day=1))
    run_id = (await ledger.stub.RunPayouts(run)).payout_run.payout_run_id
    page = await ledger.stub.ListPayoutRunItems(
        ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=run_id, page_size=1)
    )
    ((key,),) = await ledger.query("SELECT secret FROM page_token_keys")
    query_of_it = ["ListPayoutRunItems", run_id, ""]
    assert page.next_page_token == keyed_token(key, query_of_it, ["res_a"])


async def first_token(ledger: RunningLedger) -> str:
    """The token of the first page of restaurants, of which there are several."""
    for _ in range(2):
        await ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=unique("res"))
        )
    return (
        await ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=1))
    ).next_page_token


async def test_every_server_of_the_books_accepts_the_token(database: Database) -> None:
    """The key is in the database, so a list continues at another server, and after a restart."""
    async with running_ledger(database) as one, running_ledger(database) as other:
        token = await first_token(one)
        request = ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=token)
        assert (await other.stub.ListRestaurants(request)).restaurants
    async with running_ledger(database) as later:
        assert (await later.stub.ListRestaurants(request)).restaurants


async def test_key_is_replaced_without_breaking_lists(database: Database) -> None:
    """From the next start the new key makes tokens and the old key still verifies.

    Once the old key is deleted its tokens are refused.
    """
    async with running_ledger(database) as ledger:
        token = await first_token(ledger)
    request = ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=token)
    await query(
        database.migration_url,
        "INSERT INTO page_token_keys (secret, created_at) "
        "VALUES (sha256('another'), now() + interval '1 s')",
    )
    async with running_ledger(database) as ledger:
        assert (await ledger.stub.ListRestaurants(request)).restaurants
        newer = ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=await first_token(ledger))
    await query(
        database.migration_url, "DELETE FROM page_token_keys WHERE secret <> sha256('another')"
    )
    async with running_ledger(database) as ledger:
        assert await refusal_of(ledger.stub.ListRestaurants(request)) == REFUSED
        assert (await ledger.stub.ListRestaurants(newer)).restaurants


async def test_only_servers_can_read_the_keys(database: Database) -> None:
    """Keys are random in each database. The server's role reads them and cannot change them.

    The role of people who read the books cannot read them.
    """
    ((secret,),) = await query(database.migration_url, "SELECT secret FROM page_token_keys")
    assert len(secret) == 32
    reading = "SELECT count(*) FROM page_token_keys"
    assert await allowed(database, "ledger_app", reading)
    for statement in ("DELETE FROM page_token_keys", "UPDATE page_token_keys SET secret = secret"):
        assert not await allowed(database, "ledger_app", statement)
    assert not await allowed(database, "ledger_read", reading)


async def allowed(database: Database, role: str, statement: str) -> bool:
    """Whether `role` may run the statement."""
    engine = create_engine(database.migration_url, pool_size=1, role=role)
    try:
        async with autocommit(engine) as connection:
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await engine.dispose()
    return True
