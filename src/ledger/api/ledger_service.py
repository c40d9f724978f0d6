"""The service of the contract: each method decodes, calls its use case, and encodes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

from grpc import aio

from ledger.api.convert import (
    balance_lists,
    balances,
    event_lists,
    events,
    payout_entries,
    payouts,
    quarantine,
    restaurants,
    statements,
)
from ledger.api.event_stream import EventStream, HeldRequests, ingest_decoded
from ledger.api.pages import Pages
from ledger.api.transport.writing import Together
from ledger.application.cancel_payout import cancel_payout
from ledger.application.get_balance import GetBalance
from ledger.application.get_event import get_event
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.application.list_balances import list_balances, list_maturities
from ledger.application.list_entries import list_entries
from ledger.application.list_events import list_events
from ledger.application.list_payout_entries import list_payout_entries
from ledger.application.payouts import (
    cancel_payout_run,
    get_payout,
    get_payout_run,
    list_payout_run_items,
    list_payout_runs,
    list_payouts,
)
from ledger.application.ports.balance_lists import BalanceLists
from ledger.application.ports.event_lists import EventLists
from ledger.application.ports.events import EventLedger
from ledger.application.ports.payout_entries import PayoutEntries
from ledger.application.ports.payouts import PayoutRuns, Payouts
from ledger.application.ports.quarantine import Quarantine
from ledger.application.ports.statements import StatementQuery, Statements
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.application.preview_event import PreviewEvent
from ledger.application.quarantine import (
    discard_quarantined,
    get_quarantined,
    list_quarantined,
    quarantine_payload,
    resolve_quarantined,
    retry_quarantined,
)
from ledger.application.restaurants import (
    get_restaurant,
    list_restaurants,
    put_restaurant,
    update_restaurant,
)
from ledger.application.run_payouts import run_payouts
from ledger.application.submit_payouts import submit_payouts
from ledger.observability import CALLER
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

Context = aio.ServicerContext[Any, Any]


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """Implements `ledger.v1.LedgerService`. `occurred_at` is checked against `clock`."""

    def __init__(
        self,
        *,
        ingest_events: IngestEvents,
        ledger: EventLedger,
        event_lists: EventLists,
        preview_event: PreviewEvent,
        balance_lists: BalanceLists,
        get_balance: GetBalance,
        statements: Statements[StatementQuery],
        payout_runs: PayoutRuns,
        payouts: Payouts,
        payout_entries: PayoutEntries,
        quarantine: Quarantine,
        wake_payout_worker: Callable[[], None],
        pages: Pages,
        begin: UnitOfWorkFactory,
        clock: Callable[[], datetime],
    ) -> None:
        self._ingest_events = ingest_events
        self._held = HeldRequests()
        self._ledger = ledger
        self._event_lists = event_lists
        self._preview_event = preview_event
        self._balance_lists = balance_lists
        self._get_balance = get_balance
        self._statements = statements
        self._payout_runs = payout_runs
        self._payouts = payouts
        self._payout_entries = payout_entries
        self._quarantine = quarantine
        self._wake_payout_worker = wake_payout_worker
        self._pages = pages
        self._begin = begin
        self._clock = clock

    async def IngestEvent(
        self, request: ledger_pb2.IngestEventRequest, context: Context
    ) -> ledger_pb2.IngestEventResponse:
        admission = self._ingest_events.admit(1, request.ByteSize(), context.time_remaining())
        decoded = (events.decode_ingest_event(request, self._clock()),)
        size_bytes = events.memory_bytes(decoded, admission.request_bytes)
        (outcome,) = await self._ingest_events(decoded, admission, size_bytes=size_bytes)
        return events.encode_ingest_event(outcome)

    async def BatchIngestEvents(
        self, request: ledger_pb2.BatchIngestEventsRequest, context: Context
    ) -> ledger_pb2.BatchIngestEventsResponse:
        admission = self._ingest_events.admit(
            len(request.events), request.ByteSize(), context.time_remaining()
        )
        decoded = events.decode_batch(request, self._clock())
        # Not held while its events wait: it takes as much memory as they do, or far more.
        del request
        outcomes = await ingest_decoded(
            self._ingest_events,
            decoded,
            admission,
            size_bytes=events.memory_bytes(decoded, admission.request_bytes),
        )
        return events.encode_results(outcomes)

    async def StreamEvents(  # type: ignore[override]  # the frame takes groups of responses
        self, request_iterator: AsyncIterator[ledger_pb2.StreamEventsRequest], context: Context
    ) -> AsyncGenerator[Together]:
        stream = EventStream(self._ingest_events, self._clock, self._held)
        async with aclosing(stream.responses(request_iterator)) as groups:
            async for group in groups:
                yield group

    async def PreviewEvent(
        self, request: ledger_pb2.PreviewEventRequest, context: Context
    ) -> ledger_pb2.PreviewEventResponse:
        event = events.decode_ingest_event(request, self._clock())
        return events.encode_preview(event, await self._preview_event(event))

    async def GetEvent(
        self, request: ledger_pb2.GetEventRequest, context: Context
    ) -> ledger_pb2.GetEventResponse:
        event_id = events.decode_event_id(request)
        return events.encode_event(*await get_event(self._ledger, event_id))

    async def ListEvents(
        self, request: ledger_pb2.ListEventsRequest, context: Context
    ) -> ledger_pb2.ListEventsResponse:
        query = event_lists.decode_event_query(request)
        paging = await self._pages.paging(request, event_lists.event_listing(query))
        page = await list_events(
            self._event_lists,
            self._begin,
            query,
            paging.after,
            paging.page_size,
            with_entries=request.with_entries,
        )
        return event_lists.encode_events_page(paging, page)

    async def GetBalance(
        self, request: ledger_pb2.GetBalanceRequest, context: Context
    ) -> ledger_pb2.GetBalanceResponse:
        query = balances.decode_balance_query(request)
        return balances.encode_balance(await self._get_balance(query))

    async def ListBalances(
        self, request: ledger_pb2.ListBalancesRequest, context: Context
    ) -> ledger_pb2.ListBalancesResponse:
        query = balance_lists.decode_balances_query(request)
        paging = await self._pages.paging(request, balance_lists.balance_listing(query))
        page = await list_balances(
            self._balance_lists,
            query,
            paging.after,
            paging.page_size,
            with_totals=request.with_sums,
        )
        return balance_lists.encode_balances_page(paging, page)

    async def ListMaturities(
        self, request: ledger_pb2.ListMaturitiesRequest, context: Context
    ) -> ledger_pb2.ListMaturitiesResponse:
        currency, restaurant_id, days = balance_lists.decode_maturities(request)
        found = await list_maturities(
            self._balance_lists, self._begin, currency, restaurant_id, days
        )
        return balance_lists.encode_maturities(found)

    async def ListEntries(
        self, request: ledger_pb2.ListEntriesRequest, context: Context
    ) -> ledger_pb2.ListEntriesResponse:
        query = statements.decode_statement_query(request)
        paging = await self._pages.paging(request, statements.statement_listing(query))
        page = await list_entries(self._statements, query, paging.after, paging.page_size)
        return statements.encode_statement_page(paging, page)

    async def RunPayouts(
        self, request: ledger_pb2.RunPayoutsRequest, context: Context
    ) -> ledger_pb2.RunPayoutsResponse:
        key = payouts.decode_payout_run_key(request)
        run = await run_payouts(self._payout_runs, key, dry_run=request.dry_run)
        if not request.dry_run:
            self._wake_payout_worker()
        return payouts.encode_run_payouts(run)

    async def GetPayoutRun(
        self, request: ledger_pb2.GetPayoutRunRequest, context: Context
    ) -> ledger_pb2.GetPayoutRunResponse:
        payout_run_id = payouts.decode_payout_run_id(request)
        run = await get_payout_run(self._payout_runs, payout_run_id)
        return ledger_pb2.GetPayoutRunResponse(payout_run=payouts.encode_payout_run(run))

    async def ListPayoutRuns(
        self, request: ledger_pb2.ListPayoutRunsRequest, context: Context
    ) -> ledger_pb2.ListPayoutRunsResponse:
        query = payouts.decode_payout_run_query(request)
        paging = await self._pages.paging(request, payouts.payout_run_listing(query))
        page = await list_payout_runs(self._payout_runs, query, paging.after, paging.page_size)
        return payouts.encode_payout_run_page(paging, page)

    async def CancelPayoutRun(
        self, request: ledger_pb2.CancelPayoutRunRequest, context: Context
    ) -> ledger_pb2.CancelPayoutRunResponse:
        run = await cancel_payout_run(self._payout_runs, payouts.decode_payout_run_id(request))
        return ledger_pb2.CancelPayoutRunResponse(payout_run=payouts.encode_payout_run(run))

    async def ListPayoutRunItems(
        self, request: ledger_pb2.ListPayoutRunItemsRequest, context: Context
    ) -> ledger_pb2.ListPayoutRunItemsResponse:
        payout_run_id = payouts.decode_payout_run_id(request)
        outcome = payouts.decode_outcome(request.outcome)
        listing = payouts.payout_run_item_listing(payout_run_id, outcome)
        paging = await self._pages.paging(request, listing)
        page = await list_payout_run_items(
            self._payout_runs, payout_run_id, outcome, paging.after, paging.page_size
        )
        return payouts.encode_payout_run_item_page(paging, page)

    async def GetPayout(
        self, request: ledger_pb2.GetPayoutRequest, context: Context
    ) -> ledger_pb2.GetPayoutResponse:
        payout_id = payouts.decode_payout_id(request)
        details = await get_payout(self._payouts, payout_id)
        return ledger_pb2.GetPayoutResponse(payout=payouts.encode_payout_details(details))

    async def ListPayoutEntries(
        self, request: ledger_pb2.ListPayoutEntriesRequest, context: Context
    ) -> ledger_pb2.ListPayoutEntriesResponse:
        payout_id, entry_types = payout_entries.decode_payout_entries(request)
        listing = payout_entries.payout_entry_listing(payout_id, entry_types)
        paging = await self._pages.paging(request, listing)
        page = await list_payout_entries(
            self._payout_entries, payout_id, entry_types, paging.after, paging.page_size
        )
        return payout_entries.encode_payout_entries_page(paging, page)

    async def ListPayouts(
        self, request: ledger_pb2.ListPayoutsRequest, context: Context
    ) -> ledger_pb2.ListPayoutsResponse:
        query = payouts.decode_payout_query(request)
        paging = await self._pages.paging(request, payouts.payout_listing(query))
        page = await list_payouts(
            self._payouts, self._payout_runs, self._begin, query, paging.after, paging.page_size
        )
        return payouts.encode_payout_page(paging, page)

    async def SubmitPayouts(
        self, request: ledger_pb2.SubmitPayoutsRequest, context: Context
    ) -> ledger_pb2.SubmitPayoutsResponse:
        wanted = payouts.decode_submission_request(request)
        is_new, submission = await submit_payouts(self._begin, self._payouts, wanted)
        return payouts.encode_submission(submission, is_new=is_new)

    async def CancelPayout(
        self, request: ledger_pb2.CancelPayoutRequest, context: Context
    ) -> ledger_pb2.CancelPayoutResponse:
        payout_id = payouts.decode_payout_id(request)
        details = await cancel_payout(self._begin, self._payouts, payout_id, self._clock)
        return ledger_pb2.CancelPayoutResponse(payout=payouts.encode_payout_details(details))

    async def PutRestaurant(
        self, request: ledger_pb2.PutRestaurantRequest, context: Context
    ) -> ledger_pb2.PutRestaurantResponse:
        profile = restaurants.decode_profile(request)
        restaurant = await put_restaurant(self._begin, profile)
        return ledger_pb2.PutRestaurantResponse(
            restaurant=restaurants.encode_restaurant(restaurant)
        )

    async def UpdateRestaurant(
        self, request: ledger_pb2.UpdateRestaurantRequest, context: Context
    ) -> ledger_pb2.UpdateRestaurantResponse:
        change = restaurants.decode_restaurant_change(request)
        restaurant = await update_restaurant(self._begin, change)
        return ledger_pb2.UpdateRestaurantResponse(
            restaurant=restaurants.encode_restaurant(restaurant)
        )

    async def GetRestaurant(
        self, request: ledger_pb2.GetRestaurantRequest, context: Context
    ) -> ledger_pb2.GetRestaurantResponse:
        restaurant_id = restaurants.decode_restaurant_id(request)
        restaurant = await get_restaurant(self._begin, restaurant_id)
        return ledger_pb2.GetRestaurantResponse(
            restaurant=restaurants.encode_restaurant(restaurant)
        )

    async def ListRestaurants(
        self, request: ledger_pb2.ListRestaurantsRequest, context: Context
    ) -> ledger_pb2.ListRestaurantsResponse:
        paging = await self._pages.paging(request, restaurants.RESTAURANT_LISTING)
        page = await list_restaurants(self._begin, paging.after, paging.page_size)
        return restaurants.encode_restaurant_page(paging, page)

    async def QuarantinePayload(
        self, request: ledger_pb2.QuarantinePayloadRequest, context: Context
    ) -> ledger_pb2.QuarantinePayloadResponse:
        payload = quarantine.decode_payload(request, self._clock())
        is_new, stored = await quarantine_payload(self._quarantine, payload, _actor())
        return quarantine.encode_quarantined(stored, is_new=is_new)

    async def ListQuarantined(
        self, request: ledger_pb2.ListQuarantinedRequest, context: Context
    ) -> ledger_pb2.ListQuarantinedResponse:
        query = quarantine.decode_quarantine_query(request)
        paging = await self._pages.paging(request, quarantine.quarantine_listing(query))
        page = await list_quarantined(
            self._quarantine,
            query,
            paging.after,
            quarantine.page_size_of(request, paging.page_size),
            with_bodies=request.with_bodies,
        )
        return quarantine.encode_quarantine_page(paging, query, page)

    async def GetQuarantined(
        self, request: ledger_pb2.GetQuarantinedRequest, context: Context
    ) -> ledger_pb2.GetQuarantinedResponse:
        quarantine_id = quarantine.decode_quarantine_id(request)
        payload, moves = await get_quarantined(self._quarantine, quarantine_id)
        return ledger_pb2.GetQuarantinedResponse(
            payload=quarantine.encode_payload_with_moves(payload, moves)
        )

    async def GetQuarantineSummary(
        self, request: ledger_pb2.GetQuarantineSummaryRequest, context: Context
    ) -> ledger_pb2.GetQuarantineSummaryResponse:
        endpoint = quarantine.decode_summarized_endpoint(request)
        return quarantine.encode_summary(await self._quarantine.summary(endpoint))

    async def RetryQuarantined(
        self, request: ledger_pb2.RetryQuarantinedRequest, context: Context
    ) -> ledger_pb2.RetryQuarantinedResponse:
        selection = quarantine.decode_retry_selection(request)
        requested = await retry_quarantined(
            self._quarantine, selection, _actor(), dry_run=request.dry_run
        )
        return quarantine.encode_retries(requested)

    async def ResolveQuarantined(
        self, request: ledger_pb2.ResolveQuarantinedRequest, context: Context
    ) -> ledger_pb2.ResolveQuarantinedResponse:
        resolution = quarantine.decode_resolution(request, self._clock())
        payload = await resolve_quarantined(
            self._begin,
            self._quarantine,
            resolution.quarantine_id,
            resolution.move_number,
            resolution.decision,
            _actor(),
        )
        return ledger_pb2.ResolveQuarantinedResponse(payload=quarantine.encode_payload(payload))

    async def DiscardQuarantined(
        self, request: ledger_pb2.DiscardQuarantinedRequest, context: Context
    ) -> ledger_pb2.DiscardQuarantinedResponse:
        quarantine_id, reason = quarantine.decode_discard(request)
        payload = await discard_quarantined(
            self._begin, self._quarantine, quarantine_id, reason, _actor()
        )
        return ledger_pb2.DiscardQuarantinedResponse(payload=quarantine.encode_payload(payload))


def _actor() -> str:
    """The identity of the caller; empty if callers do not authenticate."""
    return CALLER.get() or ""
