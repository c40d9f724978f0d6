"""The client of a ledger with asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from ledger.addresses import DEFAULT_ADDRESS
from ledger.client.async_channel import AsyncChannel
from ledger.client.async_pages import AsyncPages
from ledger.client.async_streams import AsyncOutcomes, stream_events
from ledger.client.balances import AccountBalance, Balance
from ledger.client.batches import ATTEMPTS_MAX, TimeLeft, batches_of, pause_seconds
from ledger.client.channels import Usable, check_address
from ledger.client.credentials import Credentials
from ledger.client.errors import TryLater, too_slow
from ledger.client.messages import (
    CaptureMode,
    EntryType,
    EventType,
    Overdraft,
    PaymentState,
    PayoutRunItemOutcome,
    PayoutRunState,
    PayoutState,
    QuarantineState,
    currency_of,
    mask_of,
    minor_by_currency,
    minor_of,
    new_event,
    number_of,
    numbers_of,
    overdraft_of,
    part_of,
    run_request,
    set_payee,
    set_side,
    timestamp_of,
)
from ledger.client.money import Money
from ledger.client.outcomes import EventOutcome, PaymentOutcome
from ledger.client.streaming import STREAM_BATCH_EVENTS, StreamLimits
from ledger.limits import BATCH_EVENTS_MAX, BATCH_PAYMENTS_MAX
from ledger.v1 import (
    account_pb2,
    account_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    payment_pb2,
    payment_pb2_grpc,
)

# While a payout run is waited for.
POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.05, 1.0
RUN_SECONDS_MAX = 3600.0


class AsyncLedger:
    """Calls a ledger at `address`, host:port or unix:path. It connects at the first call.

    Every method may be repeated, and the contract's service config repeats a failed one up to three
    times. Methods raise LedgerError, and return messages of the contract, whose comments have the
    rules of each method and field. `timeout`, in seconds, makes the contract's deadline of a call
    shorter.

    Safe for many threads or tasks; not for a process that was forked after the first call.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, credentials: Credentials | None = None
    ) -> None:
        """Raises ValueError for what is no address, CredentialsError for a token in plaintext."""
        check_address(address)
        self.address = address
        self._credentials = credentials or Credentials()
        self._credentials.check(address)
        self._usable = Usable()
        self._channel: AsyncChannel | None = None
        self._opening = threading.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A call that Ctrl-C has ended inside gRPC may hold the lock that closing waits for.
        if kind is not KeyboardInterrupt:
            await self.close()

    async def close(self) -> None:
        """Ends open calls and the connection. The client cannot be used again."""
        self._usable.is_closed = True
        with self._opening:
            channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @cached_property
    def service(self) -> "ledger_pb2_grpc.LedgerServiceAsyncStub":
        """The typed stub of LedgerService. Its methods raise LedgerError."""
        stub = ledger_pb2_grpc.LedgerServiceStub(self._open())
        return cast("ledger_pb2_grpc.LedgerServiceAsyncStub", stub)

    @cached_property
    def accounts(self) -> "account_pb2_grpc.AccountServiceAsyncStub":
        """The typed stub of AccountService."""
        stub = account_pb2_grpc.AccountServiceStub(self._open())
        return cast("account_pb2_grpc.AccountServiceAsyncStub", stub)

    @cached_property
    def payments(self) -> "payment_pb2_grpc.PaymentServiceAsyncStub":
        """The typed stub of PaymentService."""
        stub = payment_pb2_grpc.PaymentServiceStub(self._open())
        return cast("payment_pb2_grpc.PaymentServiceAsyncStub", stub)

    def _open(self) -> Any:
        with self._opening:
            if self._channel is None:
                self._usable.begin()
                self._channel = AsyncChannel(self.address, self._credentials, self._usable)
            return self._channel

    # Events

    async def ingest(
        self, event: ledger_pb2.ProcessorEvent, *, timeout: float | None = None
    ) -> ledger_pb2.IngestEventResponse:
        """Books an event once. A repeat is answered with DUPLICATE and the first transaction id.

        Raises Conflict if the id was booked with other contents.
        """
        request = ledger_pb2.IngestEventRequest(event=event)
        return await self.service.IngestEvent(request, timeout=timeout)

    async def ingest_event(
        self,
        *,
        event_id: str,
        type: EventType,
        amount: Money,
        occurred_at: datetime,
        restaurant_id: str = "",
        fee: Money | None = None,
        processor_fee: Money | None = None,
        available_at: datetime | None = None,
        reference: str = "",
        payout_id: str = "",
        bank_reference: str = "",
        failure_code: str = "",
        failure_text: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ledger_pb2.IngestEventResponse:
        """Books the event that `new_event` makes of these arguments, as `ingest` does."""
        event = new_event(
            event_id=event_id,
            type=type,
            amount=amount,
            occurred_at=occurred_at,
            restaurant_id=restaurant_id,
            fee=fee,
            processor_fee=processor_fee,
            available_at=available_at,
            reference=reference,
            payout_id=payout_id,
            bank_reference=bank_reference,
            failure_code=failure_code,
            failure_text=failure_text,
            metadata=metadata,
        )
        return await self.ingest(event, timeout=timeout)

    async def ingest_events(
        self,
        events: Iterable[ledger_pb2.ProcessorEvent],
        *,
        batch_size: int = BATCH_EVENTS_MAX,
        timeout: float | None = None,
    ) -> list[EventOutcome]:
        """Books events in batches. Returns the outcome of each, in their order.

        One event's error affects no other. What a busy server puts off is sent again, a few times.
        Raises LedgerError if a batch cannot be sent: then repeat the call, as booked events are
        duplicates. `timeout` is for each batch, with its repeats. `stream_events` holds fewer
        outcomes at a time.
        """
        outcomes: list[EventOutcome] = []
        for batch in batches_of(events, batch_size):
            outcomes += await self._ingest_batch(batch, timeout)
        return outcomes

    def stream_events(
        self,
        events: AsyncIterable[ledger_pb2.ProcessorEvent] | Iterable[ledger_pb2.ProcessorEvent],
        *,
        batch_size: int = STREAM_BATCH_EVENTS,
        limits: StreamLimits | None = None,
    ) -> AsyncOutcomes:
        """Books events in one stream, in their order, while the outcomes are iterated over.

        One outcome for each event, in their order. Reads a few thousand events ahead, and no
        further than the outcomes are taken. After a broken connection a new stream goes on where
        the last one ended: nothing is lost, and what was booked is a duplicate. Raises LedgerError
        if the server refuses the stream, is silent for a minute, or stays away.
        """
        return stream_events(self.service, events, batch_size, limits or StreamLimits())

    async def preview_event(
        self, event: ledger_pb2.ProcessorEvent, *, timeout: float | None = None
    ) -> ledger_pb2.PreviewEventResponse:
        """What `ingest` would post now. Books nothing, and fails as `ingest` would."""
        request = ledger_pb2.PreviewEventRequest(event=event)
        return await self.service.PreviewEvent(request, timeout=timeout)

    async def get_event(
        self, event_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.GetEventResponse:
        """The event and the entries that it posted."""
        request = ledger_pb2.GetEventRequest(event_id=event_id)
        return await self.service.GetEvent(request, timeout=timeout)

    def list_events(
        self,
        *,
        restaurant_id: str = "",
        reference: str = "",
        types: Sequence[EventType] = (),
        currency: str = "",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        event_id_prefix: str = "",
        with_entries: bool = False,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.ListedEvent, ledger_pb2.ListEventsResponse]:
        """The events that pass all filters."""
        request = ledger_pb2.ListEventsRequest(
            restaurant_id=restaurant_id,
            reference=reference,
            types=numbers_of(ledger_pb2.EventType, types),
            currency=currency,
            start_at=timestamp_of(start_at),
            end_at=timestamp_of(end_at),
            event_id_prefix=event_id_prefix,
            with_entries=with_entries,
        )
        return AsyncPages(
            self.service.ListEvents,
            request,
            lambda page: page.events,
            page_size=page_size,
            timeout=timeout,
        )

    # Balances

    async def get_balance(
        self,
        restaurant_id: str,
        currency: str,
        *,
        as_of: datetime | None = None,
        timeout: float | None = None,
    ) -> Balance:
        """What the restaurant has, now or at a past instant. Counts whatever was booked before."""
        request = ledger_pb2.GetBalanceRequest(
            restaurant_id=restaurant_id, currency=currency, as_of=timestamp_of(as_of)
        )
        return Balance(await self.service.GetBalance(request, timeout=timeout))

    def list_balances(
        self,
        currency: str,
        *,
        restaurant_id_prefix: str = "",
        in_the_red: bool = False,
        held: bool = False,
        min_available: Money | None = None,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.RestaurantBalance, ledger_pb2.ListBalancesResponse]:
        """What the restaurants that pass all filters have."""
        request = ledger_pb2.ListBalancesRequest(
            currency=currency,
            restaurant_id_prefix=restaurant_id_prefix,
            in_the_red=in_the_red,
            held=held,
        )
        if min_available is not None:
            request.min_available_minor = minor_of(min_available, currency)
        return AsyncPages(
            self.service.ListBalances,
            request,
            lambda page: page.balances,
            page_size=page_size,
            timeout=timeout,
        )

    async def list_maturities(
        self,
        currency: str,
        *,
        restaurant_id: str = "",
        days: int = 0,
        timeout: float | None = None,
    ) -> ledger_pb2.ListMaturitiesResponse:
        """How much becomes available on which day; 0 days: the server's default."""
        request = ledger_pb2.ListMaturitiesRequest(
            restaurant_id=restaurant_id, currency=currency, days=days
        )
        return await self.service.ListMaturities(request, timeout=timeout)

    def list_entries(
        self,
        restaurant_id: str,
        currency: str,
        *,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        entry_types: Sequence[EntryType] = (),
        event_id: str = "",
        payout_id: str = "",
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.LedgerEntry, ledger_pb2.ListEntriesResponse]:
        """The statement of a restaurant. Its `pages` have the balances before and after it."""
        request = ledger_pb2.ListEntriesRequest(
            restaurant_id=restaurant_id,
            currency=currency,
            start_at=timestamp_of(start_at),
            end_at=timestamp_of(end_at),
            entry_types=numbers_of(ledger_pb2.EntryType, entry_types),
            event_id=event_id,
            payout_id=payout_id,
        )
        return AsyncPages(
            self.service.ListEntries,
            request,
            lambda page: page.entries,
            page_size=page_size,
            timeout=timeout,
        )

    # Payouts

    async def run_payouts(
        self,
        currency: str,
        *,
        as_of: date,
        min_amount: Money | None = None,
        request_id: str = "",
        restaurant_ids: Sequence[str] = (),
        wait: bool = False,
        wait_timeout: float = RUN_SECONDS_MAX,
        timeout: float | None = None,
    ) -> ledger_pb2.PayoutRun:
        """Starts a payout run; the same arguments name the same run.

        With `wait` returns when it has ended, as `wait_for_run` does.
        """
        request = run_request(currency, as_of, min_amount, request_id, restaurant_ids)
        run = (await self.service.RunPayouts(request, timeout=timeout)).payout_run
        return await self.wait_for_run(run.payout_run_id, wait_timeout) if wait else run

    async def plan_payouts(
        self,
        currency: str,
        *,
        as_of: date,
        min_amount: Money | None = None,
        restaurant_ids: Sequence[str] = (),
        timeout: float | None = None,
    ) -> ledger_pb2.RunPayoutsResponse:
        """What such a run would do. Writes nothing."""
        request = run_request(currency, as_of, min_amount, "", restaurant_ids)
        request.dry_run = True
        return await self.service.RunPayouts(request, timeout=timeout)

    async def wait_for_run(
        self,
        payout_run_id: str,
        timeout: float = RUN_SECONDS_MAX,
        *,
        on_progress: Callable[[ledger_pb2.PayoutRun], None] = lambda _: None,
    ) -> ledger_pb2.PayoutRun:
        """Returns the run when it has ended: SUCCEEDED, or CANCELED by a call.

        `on_progress` gets each state that is seen. Goes on while the server is away. Raises TooSlow
        after `timeout` seconds; the run goes on.
        """
        ends_at = monotonic() + timeout
        pause = POLL_SECONDS_MIN
        failure: TryLater | None = None
        while True:
            try:
                run = await self.get_payout_run(
                    payout_run_id, timeout=max(ends_at - monotonic(), POLL_SECONDS_MIN)
                )
                on_progress(run)
                if run.state != ledger_pb2.PAYOUT_RUN_STATE_RUNNING:
                    return run
                failure = None
            except TryLater as error:
                failure = error
            left_seconds = ends_at - monotonic()
            if left_seconds <= 0:
                text = f"payout run {payout_run_id} has not ended within {timeout:g} s"
                raise too_slow(text) from failure
            await asyncio.sleep(min(pause, left_seconds))
            pause = min(pause * 1.5, POLL_SECONDS_MAX)

    async def get_payout_run(
        self, payout_run_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.PayoutRun:
        """The run with its progress."""
        request = ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id)
        return (await self.service.GetPayoutRun(request, timeout=timeout)).payout_run

    def list_payout_runs(
        self,
        *,
        currency: str = "",
        state: PayoutRunState | None = None,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.PayoutRun, ledger_pb2.ListPayoutRunsResponse]:
        """The runs, latest first."""
        request = ledger_pb2.ListPayoutRunsRequest(
            currency=currency, state=number_of(ledger_pb2.PayoutRunState, state)
        )
        return AsyncPages(
            self.service.ListPayoutRuns,
            request,
            lambda page: page.payout_runs,
            page_size=page_size,
            timeout=timeout,
        )

    async def cancel_payout_run(
        self, payout_run_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.PayoutRun:
        """Ends a run: it creates no further payout."""
        request = ledger_pb2.CancelPayoutRunRequest(payout_run_id=payout_run_id)
        return (await self.service.CancelPayoutRun(request, timeout=timeout)).payout_run

    def list_payout_run_items(
        self,
        payout_run_id: str,
        *,
        outcome: PayoutRunItemOutcome | None = None,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.PayoutRunItem, ledger_pb2.ListPayoutRunItemsResponse]:
        """What a run did with each restaurant."""
        request = ledger_pb2.ListPayoutRunItemsRequest(
            payout_run_id=payout_run_id,
            outcome=number_of(ledger_pb2.PayoutRunItemOutcome, outcome),
        )
        return AsyncPages(
            self.service.ListPayoutRunItems,
            request,
            lambda page: page.items,
            page_size=page_size,
            timeout=timeout,
        )

    async def get_payout(
        self, payout_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.Payout:
        """The payout with its items and its history."""
        request = ledger_pb2.GetPayoutRequest(payout_id=payout_id)
        return (await self.service.GetPayout(request, timeout=timeout)).payout

    def list_payout_entries(
        self,
        payout_id: str,
        *,
        entry_types: Sequence[EntryType] = (),
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.LedgerEntry, ledger_pb2.ListPayoutEntriesResponse]:
        """The entries that the payout counted."""
        request = ledger_pb2.ListPayoutEntriesRequest(
            payout_id=payout_id, entry_types=numbers_of(ledger_pb2.EntryType, entry_types)
        )
        return AsyncPages(
            self.service.ListPayoutEntries,
            request,
            lambda page: page.entries,
            page_size=page_size,
            timeout=timeout,
        )

    def list_payouts(
        self,
        *,
        restaurant_id: str = "",
        currency: str = "",
        states: Sequence[PayoutState] = (),
        payout_run_id: str = "",
        submission_id: str = "",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        unanswered_since: datetime | None = None,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.Payout, ledger_pb2.ListPayoutsResponse]:
        """The payouts that pass all filters."""
        request = ledger_pb2.ListPayoutsRequest(
            restaurant_id=restaurant_id,
            currency=currency,
            states=numbers_of(ledger_pb2.PayoutState, states),
            payout_run_id=payout_run_id,
            submission_id=submission_id,
            start_at=timestamp_of(start_at),
            end_at=timestamp_of(end_at),
            unanswered_since=timestamp_of(unanswered_since),
        )
        return AsyncPages(
            self.service.ListPayouts,
            request,
            lambda page: page.payouts,
            page_size=page_size,
            timeout=timeout,
        )

    async def submit_payouts(
        self,
        submission_id: str,
        *,
        payout_run_id: str = "",
        payout_ids: Sequence[str] = (),
        payouts_max: int = 0,
        timeout: float | None = None,
    ) -> ledger_pb2.SubmitPayoutsResponse:
        """Fixes which payouts go to the bank together. A repeat returns the same submission."""
        request = ledger_pb2.SubmitPayoutsRequest(
            submission_id=submission_id,
            payout_run_id=payout_run_id,
            payout_ids=payout_ids,
            payouts_max=payouts_max,
        )
        return await self.service.SubmitPayouts(request, timeout=timeout)

    async def cancel_payout(
        self, payout_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.Payout:
        """Takes back a payout that the bank does not have: its amount is available again."""
        request = ledger_pb2.CancelPayoutRequest(payout_id=payout_id)
        return (await self.service.CancelPayout(request, timeout=timeout)).payout

    # Restaurants

    async def put_restaurant(
        self,
        restaurant_id: str,
        *,
        name: str = "",
        active: bool = True,
        maturity_days: int | None = None,
        metadata: Mapping[str, str] | None = None,
        payout_hold: ledger_pb2.PayoutHold | None = None,
        min_balances: Sequence[Money] = (),
        timeout: float | None = None,
    ) -> ledger_pb2.Restaurant:
        """Replaces the whole profile, also what is not named here."""
        request = ledger_pb2.PutRestaurantRequest(
            restaurant_id=restaurant_id,
            name=name,
            active=active,
            metadata=metadata,
            payout_hold=payout_hold,
            min_balance_minor=minor_by_currency(min_balances),
        )
        if maturity_days is not None:
            request.maturity_days = maturity_days
        return (await self.service.PutRestaurant(request, timeout=timeout)).restaurant

    async def update_restaurant(
        self,
        restaurant: ledger_pb2.Restaurant,
        fields: Sequence[str],
        *,
        allow_missing: bool = False,
        timeout: float | None = None,
    ) -> ledger_pb2.Restaurant:
        """Changes the named fields, such as "active" or "metadata.KEY".

        Raises Refused (RESTAURANT_CHANGED) if `restaurant` has an etag that is no longer the
        current one.
        """
        request = ledger_pb2.UpdateRestaurantRequest(
            restaurant=restaurant, update_mask=mask_of(fields), allow_missing=allow_missing
        )
        return (await self.service.UpdateRestaurant(request, timeout=timeout)).restaurant

    async def get_restaurant(
        self, restaurant_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.Restaurant:
        """The profile of a restaurant."""
        request = ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant_id)
        return (await self.service.GetRestaurant(request, timeout=timeout)).restaurant

    def list_restaurants(
        self, *, page_size: int | None = None, timeout: float | None = None
    ) -> AsyncPages[ledger_pb2.Restaurant, ledger_pb2.ListRestaurantsResponse]:
        """All restaurants, by id."""
        return AsyncPages(
            self.service.ListRestaurants,
            ledger_pb2.ListRestaurantsRequest(),
            lambda page: page.restaurants,
            page_size=page_size,
            timeout=timeout,
        )

    # The quarantine

    async def quarantine_payload(
        self,
        *,
        endpoint: str,
        processor: str,
        kind: str,
        body: bytes,
        received_at: datetime,
        reason: str,
        detail: str = "",
        headers: Mapping[str, str] | None = None,
        query: str = "",
        retry_at: datetime | None = None,
        timeout: float | None = None,
    ) -> ledger_pb2.QuarantinePayloadResponse:
        """Keeps a delivery that cannot be booked; with `retry_at` it is PARKED until then."""
        request = ledger_pb2.QuarantinePayloadRequest(
            endpoint=endpoint,
            processor=processor,
            kind=kind,
            body=body,
            headers=headers,
            query=query,
            reason=reason,
            detail=detail,
            received_at=timestamp_of(received_at),
            retry_at=timestamp_of(retry_at),
        )
        return await self.service.QuarantinePayload(request, timeout=timeout)

    def list_quarantined(
        self,
        *,
        endpoint: str = "",
        processor: str = "",
        states: Sequence[QuarantineState] = (),
        reason: str = "",
        end_at: datetime | None = None,
        due_at: datetime | None = None,
        oldest_first: bool = False,
        with_bodies: bool = False,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[ledger_pb2.QuarantinedPayload, ledger_pb2.ListQuarantinedResponse]:
        """The payloads that pass all filters."""
        request = ledger_pb2.ListQuarantinedRequest(
            endpoint=endpoint,
            processor=processor,
            states=numbers_of(ledger_pb2.QuarantineState, states),
            reason=reason,
            end_at=timestamp_of(end_at),
            due_at=timestamp_of(due_at),
            oldest_first=oldest_first,
            with_bodies=with_bodies,
        )
        return AsyncPages(
            self.service.ListQuarantined,
            request,
            lambda page: page.payloads,
            page_size=page_size,
            timeout=timeout,
        )

    async def get_quarantined(
        self, quarantine_id: str, *, timeout: float | None = None
    ) -> ledger_pb2.QuarantinedPayload:
        """The payload with its body and its moves."""
        request = ledger_pb2.GetQuarantinedRequest(quarantine_id=quarantine_id)
        return (await self.service.GetQuarantined(request, timeout=timeout)).payload

    async def get_quarantine_summary(
        self, *, endpoint: str = "", timeout: float | None = None
    ) -> ledger_pb2.GetQuarantineSummaryResponse:
        """How many payloads are where, and since when."""
        request = ledger_pb2.GetQuarantineSummaryRequest(endpoint=endpoint)
        return await self.service.GetQuarantineSummary(request, timeout=timeout)

    async def retry_quarantined(
        self,
        *,
        quarantine_ids: Sequence[str] = (),
        endpoint: str = "",
        reason: str = "",
        all: bool = False,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> ledger_pb2.RetryQuarantinedResponse:
        """Asks the gateway to try payloads again: by id, by filters, or all."""
        if isinstance(quarantine_ids, str):
            raise TypeError(f"a list of ids, not {quarantine_ids!r} alone")
        request = ledger_pb2.RetryQuarantinedRequest(
            quarantine_ids=quarantine_ids,
            endpoint=endpoint,
            reason=reason,
            all=all,
            dry_run=dry_run,
        )
        return await self.service.RetryQuarantined(request, timeout=timeout)

    async def resolve_quarantined(
        self,
        quarantine_id: str,
        *,
        move_number: int,
        outcome: QuarantineState,
        event_ids: Sequence[str] = (),
        reason: str = "",
        detail: str = "",
        retry_at: datetime | None = None,
        timeout: float | None = None,
    ) -> ledger_pb2.QuarantinedPayload:
        """Notes what became of a try, if `move_number` is still the payload's latest move."""
        request = ledger_pb2.ResolveQuarantinedRequest(
            quarantine_id=quarantine_id,
            move_number=move_number,
            outcome=number_of(ledger_pb2.QuarantineState, outcome),
            event_ids=event_ids,
            reason=reason,
            detail=detail,
            retry_at=timestamp_of(retry_at),
        )
        return (await self.service.ResolveQuarantined(request, timeout=timeout)).payload

    async def discard_quarantined(
        self, quarantine_id: str, *, reason: str, timeout: float | None = None
    ) -> ledger_pb2.QuarantinedPayload:
        """Gives up a payload, for a reason."""
        request = ledger_pb2.DiscardQuarantinedRequest(quarantine_id=quarantine_id, reason=reason)
        return (await self.service.DiscardQuarantined(request, timeout=timeout)).payload

    # Accounts

    async def create_account(
        self,
        account_id: str,
        currency: str,
        *,
        name: str = "",
        overdraft: Overdraft = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> account_pb2.CreateAccountResponse:
        """Opens an account. A repeat is answered with DUPLICATE and the account as it is now.

        `overdraft` is how far below zero it may go: Money, "unlimited", or None for not at all.
        """
        request = account_pb2.CreateAccountRequest(
            account_id=account_id,
            currency=currency,
            name=name,
            overdraft=overdraft_of(overdraft, currency),
            metadata=metadata,
        )
        return await self.accounts.CreateAccount(request, timeout=timeout)

    async def update_account(
        self,
        account: account_pb2.Account,
        fields: Sequence[str],
        *,
        timeout: float | None = None,
    ) -> account_pb2.Account:
        """Changes the named fields, as `update_restaurant` does; Refused is ACCOUNT_CHANGED."""
        request = account_pb2.UpdateAccountRequest(account=account, update_mask=mask_of(fields))
        return (await self.accounts.UpdateAccount(request, timeout=timeout)).account

    async def get_account(
        self, account_id: str, *, timeout: float | None = None
    ) -> account_pb2.Account:
        """An account."""
        request = account_pb2.GetAccountRequest(account_id=account_id)
        return (await self.accounts.GetAccount(request, timeout=timeout)).account

    def list_accounts(
        self, *, page_size: int | None = None, timeout: float | None = None
    ) -> AsyncPages[account_pb2.Account, account_pb2.ListAccountsResponse]:
        """All accounts, by id."""
        return AsyncPages(
            self.accounts.ListAccounts,
            account_pb2.ListAccountsRequest(),
            lambda page: page.accounts,
            page_size=page_size,
            timeout=timeout,
        )

    async def get_account_balance(
        self,
        account_id: str,
        *,
        as_of: datetime | None = None,
        timeout: float | None = None,
    ) -> AccountBalance:
        """What an account has available and held, now or at a past instant."""
        request = account_pb2.GetAccountBalanceRequest(
            account_id=account_id, as_of=timestamp_of(as_of)
        )
        return AccountBalance(await self.accounts.GetAccountBalance(request, timeout=timeout))

    def list_account_entries(
        self,
        account_id: str,
        *,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        entry_types: Sequence[EntryType] = (),
        payment_id: str = "",
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[account_pb2.AccountEntry, account_pb2.ListAccountEntriesResponse]:
        """The statement of an account. Its `pages` have the balances before and after it."""
        request = account_pb2.ListAccountEntriesRequest(
            account_id=account_id,
            start_at=timestamp_of(start_at),
            end_at=timestamp_of(end_at),
            entry_types=numbers_of(ledger_pb2.EntryType, entry_types),
            payment_id=payment_id,
        )
        return AsyncPages(
            self.accounts.ListAccountEntries,
            request,
            lambda page: page.entries,
            page_size=page_size,
            timeout=timeout,
        )

    # Payments. A decline is an answer, not an error: look at `decline_reason`.

    async def authorize_payment(
        self,
        payment_id: str,
        *,
        payer_account_id: str,
        amount: Money,
        payee_account_id: str | None = None,
        payee_restaurant_id: str | None = None,
        capture: CaptureMode = "manual",
        fee: Money | None = None,
        expires_at: datetime | None = None,
        reference: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> payment_pb2.AuthorizePaymentResponse:
        """Decides a payment once: holds the amount ("manual"), or moves it ("immediate")."""
        request = payment_pb2.AuthorizePaymentRequest(
            payment_id=payment_id,
            payer_account_id=payer_account_id,
            currency=currency_of(amount),
            amount_minor=amount.minor,
            capture=number_of(payment_pb2.CaptureMode, capture),
            fee_minor=minor_of(fee, amount.currency),
            expires_at=timestamp_of(expires_at),
            reference=reference,
            metadata=metadata,
        )
        set_payee(request, payee_account_id, payee_restaurant_id)
        return await self.payments.AuthorizePayment(request, timeout=timeout)

    async def transfer(
        self,
        payment_id: str,
        *,
        payer_account_id: str,
        amount: Money,
        payee_account_id: str | None = None,
        payee_restaurant_id: str | None = None,
        fee: Money | None = None,
        reference: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> payment_pb2.AuthorizePaymentResponse:
        """Moves money at once: a payment that is captured when it is authorised."""
        return await self.authorize_payment(
            payment_id,
            payer_account_id=payer_account_id,
            amount=amount,
            payee_account_id=payee_account_id,
            payee_restaurant_id=payee_restaurant_id,
            capture="immediate",
            fee=fee,
            reference=reference,
            metadata=metadata,
            timeout=timeout,
        )

    async def batch_transfers(
        self,
        transfers: Iterable[payment_pb2.Transfer],
        *,
        batch_size: int = BATCH_PAYMENTS_MAX,
        timeout: float | None = None,
    ) -> list[PaymentOutcome]:
        """Decides transfers in batches, in their order. Returns the outcome of each.

        A chain of `linked` transfers stays in one batch. A batch that does not get through is sent
        again, a few times; then raises LedgerError. Repeat the call then: what is decided stays so.
        `timeout` is for each batch, with its repeats.
        """
        outcomes: list[PaymentOutcome] = []
        for batch in batches_of(transfers, batch_size):
            request = payment_pb2.BatchTransfersRequest(transfers=batch)
            left = TimeLeft(timeout)
            response = await self._insist(self.payments.BatchTransfers, request, left)
            outcomes += PaymentOutcome.of_all(batch, response.results)
        return outcomes

    async def batch_authorize_payments(
        self,
        payments: Iterable[payment_pb2.PaymentOrder],
        *,
        batch_size: int = BATCH_PAYMENTS_MAX,
        timeout: float | None = None,
    ) -> list[PaymentOutcome]:
        """The same for payments that may be captured later."""
        outcomes: list[PaymentOutcome] = []
        for batch in batches_of(payments, batch_size):
            request = payment_pb2.BatchAuthorizePaymentsRequest(payments=batch)
            left = TimeLeft(timeout)
            response = await self._insist(self.payments.BatchAuthorizePayments, request, left)
            outcomes += PaymentOutcome.of_all(batch, response.results)
        return outcomes

    async def capture_payment(
        self,
        operation_id: str,
        payment_id: str,
        *,
        amount_minor: int | None = None,
        is_final: bool = False,
        timeout: float | None = None,
    ) -> payment_pb2.CapturePaymentResponse:
        """Moves what is held to the payee: all of it, or so many minor units of its currency.

        The rest stays held unless `is_final` releases it.
        """
        request = payment_pb2.CapturePaymentRequest(
            operation_id=operation_id,
            payment_id=payment_id,
            amount_minor=part_of(amount_minor),
            is_final=is_final,
        )
        return await self.payments.CapturePayment(request, timeout=timeout)

    async def void_payment(
        self, operation_id: str, payment_id: str, *, timeout: float | None = None
    ) -> payment_pb2.VoidPaymentResponse:
        """Releases what is held."""
        request = payment_pb2.VoidPaymentRequest(operation_id=operation_id, payment_id=payment_id)
        return await self.payments.VoidPayment(request, timeout=timeout)

    async def refund_payment(
        self,
        operation_id: str,
        payment_id: str,
        *,
        amount_minor: int | None = None,
        timeout: float | None = None,
    ) -> payment_pb2.RefundPaymentResponse:
        """Moves back what was captured: all of it, or so many minor units of its currency."""
        request = payment_pb2.RefundPaymentRequest(
            operation_id=operation_id, payment_id=payment_id, amount_minor=part_of(amount_minor)
        )
        return await self.payments.RefundPayment(request, timeout=timeout)

    async def reverse_payment(
        self, operation_id: str, payment_id: str, *, timeout: float | None = None
    ) -> payment_pb2.ReversePaymentResponse:
        """Undoes a payment wherever it stands: releases and refunds in one step."""
        request = payment_pb2.ReversePaymentRequest(
            operation_id=operation_id, payment_id=payment_id
        )
        return await self.payments.ReversePayment(request, timeout=timeout)

    async def get_payment(
        self, payment_id: str, *, timeout: float | None = None
    ) -> payment_pb2.GetPaymentResponse:
        """A payment with its operations and its entries."""
        request = payment_pb2.GetPaymentRequest(payment_id=payment_id)
        return await self.payments.GetPayment(request, timeout=timeout)

    def list_payments(
        self,
        *,
        payer_account_id: str | None = None,
        payee_account_id: str | None = None,
        payee_restaurant_id: str | None = None,
        state: PaymentState | None = None,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncPages[payment_pb2.Payment, payment_pb2.ListPaymentsResponse]:
        """The payments of one payer or payee, latest first."""
        request = payment_pb2.ListPaymentsRequest(state=number_of(payment_pb2.PaymentState, state))
        set_side(request, payer_account_id, payee_account_id, payee_restaurant_id)
        return AsyncPages(
            self.payments.ListPayments,
            request,
            lambda page: page.payments,
            page_size=page_size,
            timeout=timeout,
        )

    async def _ingest_batch(
        self, events: list[ledger_pb2.ProcessorEvent], timeout: float | None
    ) -> list[EventOutcome]:
        """The outcomes of a batch, when those that the server put off were sent again."""
        outcomes: dict[int, EventOutcome] = {}
        places = list(range(len(events)))
        left = TimeLeft(timeout)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            request = ledger_pb2.BatchIngestEventsRequest(events=[events[at] for at in places])
            response = await self._insist(self.service.BatchIngestEvents, request, left)
            found = EventOutcome.of_all(request.events, response.results)
            outcomes.update(zip(places, found, strict=True))
            put_off = [at for at in places if isinstance(outcomes[at].error, TryLater)]
            pause = pause_seconds(attempt, None)
            if not put_off or attempt == ATTEMPTS_MAX or not left.allows(pause):
                break
            places = put_off
            await asyncio.sleep(pause)
        return [outcomes[at] for at in range(len(events))]

    async def _insist(self, method: Any, request: Any, left: TimeLeft) -> Any:
        """The response of a call that is repeated while the server is busy or away."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return await method(request, timeout=left.seconds)
            except TryLater as error:
                pause = pause_seconds(attempt, error.retry_after)
                if attempt == ATTEMPTS_MAX or not left.allows(pause):
                    raise
                await asyncio.sleep(pause)
        raise RuntimeError("no attempt was made")
