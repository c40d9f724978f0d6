"""Random calls that mean something: few restaurants, accounts and payments, and many of each kind.

No instant that they send is within hours of now or of whole days from now, so what a server makes
can be told from what it was sent.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.v1 import account_pb2, ledger_pb2, payment_pb2
from support.comparing import DAY_SECONDS, Call, Side, instant_of
from support.dates import date_message, today

RESTAURANTS = ("res_1", "res_2", "res_3", "res_10")
CURRENCIES = ("PEN", "PEN", "PEN", "JPY")
ACCOUNTS = ("acc_1", "acc_2", "acc_3", "acc_4")
AMOUNTS = (1, 700, 1_250, 9_999, 10_000, 250_000)
ENDPOINTS = ("stripe-live", "adyen-live")
REASONS = ("NO_RESTAURANT", "NO_RULE")
REFERENCES = ("", "", "ref_a", "ref_b")
_PAYOUT_EVENTS = [
    ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
    ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
    ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED,
]
_EVENTS = [
    number
    for name, number in ledger_pb2.EventType.items()
    if number and not name.startswith("EVENT_TYPE_PAYOUT_")
]
_FEE_EVENTS = {
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_CHARGE_REVERSED,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
}
_PLATFORM_EVENTS = {
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED,
}


class RandomCalls:
    """Makes calls from a seed alone."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._now = time.time()
        # How many ids there are of each prefix.
        self._numbers: Counter[str] = Counter()

    def calls(self, count: int) -> Iterator[Call]:
        """So many calls."""
        makers: dict[Callable[[], Call], int] = {
            self._ingest: 30,
            self._ingest_batch: 6,
            self._payout_event: 8,
            self._preview: 3,
            self._event: 5,
            self._events: 8,
            self._balance: 6,
            self._balances: 5,
            self._maturities: 3,
            self._entries: 8,
            self._put_restaurant: 5,
            self._update_restaurant: 4,
            self._restaurants: 3,
            self._run: 7,
            self._runs: 5,
            self._payouts: 7,
            self._submit: 3,
            self._cancel: 3,
            self._create_account: 4,
            self._update_account: 4,
            self._accounts: 3,
            self._account_balance: 4,
            self._account_entries: 5,
            self._authorize: 12,
            self._authorize_batch: 4,
            self._transfers: 3,
            self._operation: 14,
            self._payments: 7,
            self._quarantine: 5,
            self._quarantined: 8,
        }
        for maker in self._chance.choices([*makers], [*makers.values()], k=count):
            yield maker()

    def _one(self, *choices: Any) -> Any:
        return self._chance.choice(choices)

    def _is(self, probability: float) -> bool:
        return self._chance.random() < probability

    def _number(self) -> int:
        return self._chance.randrange(10**6)

    def _id(self, prefix: str, repeats: float = 0.15) -> str:
        """Mostly a new id."""
        if self._is(repeats):
            return f"{prefix}_{self._chance.randint(1, self._numbers[prefix] + 1)}"
        self._numbers[prefix] += 1
        return f"{prefix}_{self._numbers[prefix]}"

    def _instant(self, days_min: int, days_max: int) -> Timestamp:
        """Hours from now and from whole days before or after it."""
        days = self._chance.randint(days_min, days_max)
        return instant_of(int(self._now) + days * DAY_SECONDS - self._one(4, 9, 15) * 3600)

    def _moment(self, side_instants: float = 0.5) -> Callable[[Side], Timestamp | None]:
        """An instant that a server has recorded something at, another one, or none."""
        number = self._number()
        fixed = self._one(None, self._instant(-20, 0))
        if self._is(side_instants):
            return lambda side: side.nth("recorded_at", number, None)
        return lambda _side: fixed

    def _page_size(self) -> int:
        size: int = self._one(2, 5, 20, 1000)
        return size

    def _processor_event(self) -> ledger_pb2.ProcessorEvent:
        kind: Any = self._one(*_EVENTS, ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED)
        if self._is(0.4):
            kind = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
        occurred_at = self._instant(-30, 0)
        event = ledger_pb2.ProcessorEvent(
            event_id=self._id(self._one("evt", "evt", "other")),
            type=kind,
            restaurant_id="" if kind in _PLATFORM_EVENTS else self._one(*RESTAURANTS),
            currency=self._one(*CURRENCIES),
            amount_minor=self._one(*AMOUNTS),
            fee_minor=self._one(0, 1, 300) if kind in _FEE_EVENTS else 0,
            occurred_at=occurred_at,
            reference=self._one(*REFERENCES),
            metadata=self._one({}, {"a": "b", "longer": "x"}),
        )
        if kind == ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED:
            if self._is(0.2):
                later = occurred_at.ToDatetime() + timedelta(days=self._one(0, 2, 40), hours=1)
                event.available_at.FromDatetime(later)
            event.processor_fee_minor = self._one(0, 0, 5)
        if self._is(0.03):
            event.currency = "pen"
        return event

    def _ingest(self) -> Call:
        event = self._processor_event()
        return "IngestEvent", lambda _side: ledger_pb2.IngestEventRequest(event=event)

    def _ingest_batch(self) -> Call:
        events = [self._processor_event() for _ in range(self._one(1, 3, 8))]
        if self._is(0.3):
            events.append(events[0])
        return (
            "BatchIngestEvents",
            lambda _side: ledger_pb2.BatchIngestEventsRequest(events=events),
        )

    def _payout_event(self) -> Call:
        event = ledger_pb2.ProcessorEvent(
            event_id=self._id("bank"),
            type=self._one(*_PAYOUT_EVENTS),
            currency=self._one(*CURRENCIES, "PEN"),
            occurred_at=self._instant(-5, 0),
            bank_reference=self._one("bank_1", "bank_2"),
        )
        if event.type == ledger_pb2.EVENT_TYPE_PAYOUT_FAILED:
            event.failure_code = self._one("", "AC04")
        number, is_wrong = self._number(), self._is(0.1)
        unknown = ("0190a1b2-0000-7000-8000-000000000000", "res_1", 1)

        def request(side: Side) -> Message:
            payout_id, restaurant_id, amount_minor = side.nth("payout", number, unknown)
            event.payout_id, event.restaurant_id = payout_id, restaurant_id
            event.amount_minor = amount_minor + is_wrong
            return ledger_pb2.IngestEventRequest(event=event)

        return "IngestEvent", request

    def _preview(self) -> Call:
        _, ingest = self._one(self._ingest, self._payout_event)()

        def request(side: Side) -> Message:
            return ledger_pb2.PreviewEventRequest(event=ingest(side).event)

        return "PreviewEvent", request

    def _event(self) -> Call:
        event_id = self._id(self._one("evt", "evt", "bank"), repeats=1)
        return "GetEvent", lambda _side: ledger_pb2.GetEventRequest(event_id=event_id)

    def _events(self) -> Call:
        start, end = self._moment(), self._moment()
        fields: dict[str, Any] = {
            "types": self._one((), (), _EVENTS[:1], _EVENTS[1:6]),
            "currency": self._one("", "", "PEN"),
            "with_entries": self._is(0.5),
            "page_size": self._page_size(),
        }
        fields |= self._one(
            {},
            {"restaurant_id": self._one(*RESTAURANTS, "unknown")},
            {"reference": "ref_a"},
            {"reference": "ref_b", "restaurant_id": self._one(*RESTAURANTS)},
            {"event_id_prefix": self._one("evt_1", "bank", "payout:", "other_2")},
        )
        return (
            "ListEvents",
            lambda side: ledger_pb2.ListEventsRequest(
                start_at=start(side), end_at=end(side), **fields
            ),
        )

    def _balance(self) -> Call:
        as_of = self._moment()
        restaurant_id, currency = self._one(*RESTAURANTS, "unknown"), self._one(*CURRENCIES)
        return (
            "GetBalance",
            lambda side: ledger_pb2.GetBalanceRequest(
                restaurant_id=restaurant_id, currency=currency, as_of=as_of(side)
            ),
        )

    def _balances(self) -> Call:
        request = ledger_pb2.ListBalancesRequest(
            currency=self._one(*CURRENCIES),
            restaurant_id_prefix=self._one("", "res_1"),
            in_the_red=self._is(0.2),
            held=self._is(0.2),
            min_available_minor=self._one(None, None, 1_000),
            with_sums=self._is(0.5),
            page_size=self._page_size(),
        )
        return "ListBalances", lambda _side: _copy(request)

    def _maturities(self) -> Call:
        request = ledger_pb2.ListMaturitiesRequest(
            currency=self._one(*CURRENCIES),
            restaurant_id=self._one("", *RESTAURANTS, "unknown"),
            days=self._one(0, 1, 3, 30),
        )
        return "ListMaturities", lambda _side: request

    def _entries(self) -> Call:
        start, end = self._moment(), self._moment()
        number, is_of_payout = self._number(), self._is(0.2)
        fields: dict[str, Any] = {
            "restaurant_id": self._one(*RESTAURANTS, "unknown"),
            "currency": self._one(*CURRENCIES),
            "entry_types": self._one((), (), (ledger_pb2.ENTRY_TYPE_CHARGE,)),
            "event_id": "" if self._is(0.9) else self._id("evt", repeats=1),
            "page_size": self._page_size(),
        }
        return (
            "ListEntries",
            lambda side: ledger_pb2.ListEntriesRequest(
                start_at=start(side),
                end_at=end(side),
                payout_id=side.nth("payout_id", number) if is_of_payout else "",
                **fields,
            ),
        )

    def _profile(self) -> dict[str, Any]:
        hold = None
        if self._is(0.15):
            until = self._one(None, self._instant(-3, -1), self._instant(1, 3))
            hold = ledger_pb2.PayoutHold(reason="is looked into", until=until)
        return {
            "restaurant_id": self._one(*RESTAURANTS),
            "name": self._one("", "Name"),
            "active": not self._is(0.1),
            "maturity_days": self._one(None, 0, 1, 9),
            "metadata": self._one({}, {"tier": "gold"}),
            "payout_hold": hold,
            "min_balance_minor": self._one({}, {}, {"PEN": 5_000}),
        }

    def _put_restaurant(self) -> Call:
        request = ledger_pb2.PutRestaurantRequest(**self._profile())
        return "PutRestaurant", lambda _side: request

    def _update_restaurant(self) -> Call:
        restaurant = ledger_pb2.Restaurant(**self._profile())
        paths = self._one(
            ["name"], ["metadata.tier", "active"], ["min_balance_minor.PEN"], ["payout_hold"], ["x"]
        )
        number, has_etag, may_be_new = self._number(), self._is(0.3), self._is(0.3)

        def request(side: Side) -> Message:
            restaurant.etag = side.nth("etag", number, "") if has_etag else ""
            return ledger_pb2.UpdateRestaurantRequest(
                restaurant=restaurant,
                update_mask=FieldMask(paths=paths),
                allow_missing=may_be_new,
            )

        return "UpdateRestaurant", request

    def _restaurants(self) -> Call:
        if self._is(0.5):
            size = self._page_size()
            return (
                "ListRestaurants",
                lambda _side: ledger_pb2.ListRestaurantsRequest(page_size=size),
            )
        restaurant_id = self._one(*RESTAURANTS, "unknown")
        return (
            "GetRestaurant",
            lambda _side: ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant_id),
        )

    def _run(self) -> Call:
        named = self._one((), (), (), RESTAURANTS[:2], ("res_10", "unknown"))
        request = ledger_pb2.RunPayoutsRequest(
            currency=self._one(*CURRENCIES),
            as_of=date_message(today() - timedelta(days=self._one(0, 0, 0, 1, 2, 9, -1))),
            min_amount_minor=self._one(0, 0, 1_000, 100_000),
            request_id=self._one("", self._id("run")),
            dry_run=self._is(0.3),
            restaurant_ids=named,
        )
        return "RunPayouts", lambda _side: request

    def _runs(self) -> Call:
        number, size = self._number(), self._page_size()
        kinds: list[Call] = [
            (
                "GetPayoutRun",
                lambda side: ledger_pb2.GetPayoutRunRequest(
                    payout_run_id=side.nth("payout_run_id", number)
                ),
            ),
            (
                "ListPayoutRuns",
                lambda _side: ledger_pb2.ListPayoutRunsRequest(currency="PEN", page_size=size),
            ),
            (
                "ListPayoutRunItems",
                lambda side: ledger_pb2.ListPayoutRunItemsRequest(
                    payout_run_id=side.nth("payout_run_id", number),
                    outcome=number % 4,  # type: ignore[arg-type]
                    page_size=size,
                ),
            ),
            (
                "CancelPayoutRun",
                lambda side: ledger_pb2.CancelPayoutRunRequest(
                    payout_run_id=side.nth("payout_run_id", number)
                ),
            ),
        ]
        return kinds[self._chance.randrange(len(kinds))]

    def _payouts(self) -> Call:
        number, size, start = self._number(), self._page_size(), self._moment()
        fields: dict[str, Any] = self._one(
            {},
            {"restaurant_id": self._one(*RESTAURANTS, "unknown")},
            {"state": ledger_pb2.PAYOUT_STATE_CREATED, "currency": "PEN"},
            {"submission_id": self._id("sub", repeats=1)},
            {"states": [ledger_pb2.PAYOUT_STATE_PAID, ledger_pb2.PAYOUT_STATE_SUBMITTED]},
        )
        kinds: list[Call] = [
            (
                "GetPayout",
                lambda side: ledger_pb2.GetPayoutRequest(payout_id=side.nth("payout_id", number)),
            ),
            (
                "ListPayouts",
                lambda side: ledger_pb2.ListPayoutsRequest(
                    start_at=start(side), page_size=size, **fields
                ),
            ),
            (
                "ListPayouts",
                lambda side: ledger_pb2.ListPayoutsRequest(
                    unanswered_since=start(side),
                    payout_run_id=side.nth("payout_run_id", number),
                    page_size=size,
                ),
            ),
            (
                "ListPayoutEntries",
                lambda side: ledger_pb2.ListPayoutEntriesRequest(
                    payout_id=side.nth("payout_id", number), page_size=size
                ),
            ),
        ]
        return kinds[self._chance.randrange(len(kinds))]

    def _submit(self) -> Call:
        submission_id, number = self._id("sub"), self._number()
        payouts_max = self._one(0, 0, 1)
        if self._is(0.6):
            return (
                "SubmitPayouts",
                lambda side: ledger_pb2.SubmitPayoutsRequest(
                    submission_id=submission_id,
                    payout_run_id=side.nth("payout_run_id", number),
                    payouts_max=payouts_max,
                ),
            )
        return (
            "SubmitPayouts",
            lambda side: ledger_pb2.SubmitPayoutsRequest(
                submission_id=submission_id, payout_ids=[side.nth("payout_id", number)]
            ),
        )

    def _cancel(self) -> Call:
        number = self._number()
        return (
            "CancelPayout",
            lambda side: ledger_pb2.CancelPayoutRequest(payout_id=side.nth("payout_id", number)),
        )

    def _create_account(self) -> Call:
        request = account_pb2.CreateAccountRequest(
            account_id=self._one(*ACCOUNTS),
            currency=self._one("PEN", "PEN", "PEN", "PEN", "JPY"),
            overdraft=self._one(
                account_pb2.Overdraft(unlimited=True), account_pb2.Overdraft(limit_minor=20_000)
            ),
        )
        return "CreateAccount", lambda _side: request

    def _update_account(self) -> Call:
        account = account_pb2.Account(
            account_id=self._one(*ACCOUNTS, "unknown"),
            name=self._one("", "Name"),
            state=self._one(1, 1, 1, 2, 3),
            overdraft=account_pb2.Overdraft(limit_minor=self._one(0, 20_000, 1_000_000)),
        )
        paths = self._one(["name"], ["state"], ["overdraft", "name"], ["metadata"])
        request = account_pb2.UpdateAccountRequest(
            account=account, update_mask=FieldMask(paths=paths)
        )
        return "UpdateAccount", lambda _side: request

    def _accounts(self) -> Call:
        if self._is(0.5):
            size = self._page_size()
            return "ListAccounts", lambda _side: account_pb2.ListAccountsRequest(page_size=size)
        account_id = self._one(*ACCOUNTS, "unknown")
        return "GetAccount", lambda _side: account_pb2.GetAccountRequest(account_id=account_id)

    def _account_balance(self) -> Call:
        account_id, as_of = self._one(*ACCOUNTS, "unknown"), self._moment()
        return (
            "GetAccountBalance",
            lambda side: account_pb2.GetAccountBalanceRequest(
                account_id=account_id, as_of=as_of(side)
            ),
        )

    def _account_entries(self) -> Call:
        start, end = self._moment(), self._moment()
        fields: dict[str, Any] = {
            "account_id": self._one(*ACCOUNTS, "unknown"),
            "payment_id": "" if self._is(0.8) else self._id("pay", repeats=1),
            "page_size": self._page_size(),
        }
        return (
            "ListAccountEntries",
            lambda side: account_pb2.ListAccountEntriesRequest(
                start_at=start(side), end_at=end(side), **fields
            ),
        )

    def _order(self) -> dict[str, Any]:
        payer = self._one(*ACCOUNTS)
        order: dict[str, Any] = {
            "payment_id": self._id("pay"),
            "payer_account_id": payer,
            "amount_minor": self._one(*AMOUNTS),
            "currency": self._one("PEN", "PEN", "PEN", "PEN", "JPY"),
            "reference": self._one(*REFERENCES),
        }
        if self._is(0.3):
            order["payee_restaurant_id"] = self._one(*RESTAURANTS, "res_new")
            order["fee_minor"] = self._one(0, 1)
        else:
            order["payee_account_id"] = self._one(
                *(each for each in ACCOUNTS if each != payer), "unknown"
            )
        return order

    def _held_or_not(self) -> dict[str, Any]:
        if self._is(0.5):
            return {"capture": payment_pb2.CAPTURE_MODE_IMMEDIATE}
        expires_at = self._one(None, None, self._instant(2, 5), self._instant(-2, -1))
        return {"capture": payment_pb2.CAPTURE_MODE_MANUAL, "expires_at": expires_at}

    def _authorize(self) -> Call:
        request = payment_pb2.AuthorizePaymentRequest(**self._order(), **self._held_or_not())
        return "AuthorizePayment", lambda _side: request

    def _authorize_batch(self) -> Call:
        request = payment_pb2.BatchAuthorizePaymentsRequest(
            payments=[
                payment_pb2.PaymentOrder(
                    **self._order(), **self._held_or_not(), linked=self._is(0.4)
                )
                for _ in range(self._one(2, 4))
            ]
        )
        request.payments[-1].linked = False
        return "BatchAuthorizePayments", lambda _side: request

    def _transfers(self) -> Call:
        request = payment_pb2.BatchTransfersRequest(
            transfers=[
                payment_pb2.Transfer(**self._order(), linked=self._is(0.2))
                for _ in range(self._one(1, 4))
            ]
        )
        return "BatchTransfers", lambda _side: request

    def _operation(self) -> Call:
        ids = {"operation_id": self._id("op"), "payment_id": self._id("pay", repeats=1)}
        amount_minor = self._one(0, 0, 1, 500, 10_000)
        request: Message = self._one(
            payment_pb2.CapturePaymentRequest(
                **ids, amount_minor=amount_minor, is_final=self._is(0.3)
            ),
            payment_pb2.VoidPaymentRequest(**ids),
            payment_pb2.RefundPaymentRequest(**ids, amount_minor=amount_minor),
            payment_pb2.ReversePaymentRequest(**ids),
        )
        return type(request).DESCRIPTOR.name.removesuffix("Request"), lambda _side: request

    def _payments(self) -> Call:
        if self._is(0.5):
            payment_id = self._id("pay", repeats=1)
            return "GetPayment", lambda _side: payment_pb2.GetPaymentRequest(payment_id=payment_id)
        request = payment_pb2.ListPaymentsRequest(
            state=self._one(0, 0, 1, 3, 6), page_size=self._page_size()
        )
        name, holders = self._one(
            ("payer_account_id", ACCOUNTS),
            ("payee_account_id", ACCOUNTS),
            ("payee_restaurant_id", RESTAURANTS),
        )
        setattr(request, name, self._one(*holders, "unknown"))
        return "ListPayments", lambda _side: _copy(request)

    def _quarantine(self) -> Call:
        request = ledger_pb2.QuarantinePayloadRequest(
            endpoint=self._one(*ENDPOINTS),
            processor=self._one("stripe", "adyen"),
            kind=self._one("charge.succeeded", ""),
            body=self._id("body", repeats=0.3).encode(),
            headers=self._one({}, {"stripe-signature": "t=1"}),
            query=self._one("", "", "data.id=1"),
            reason=self._one(*REASONS, "not a reason"),
            detail=self._one("", "no rule fits"),
            received_at=self._instant(-3, -1),
            retry_at=self._one(None, self._instant(-2, 3)),
        )
        return "QuarantinePayload", lambda _side: request

    def _quarantined(self) -> Call:
        number, size, due_at = self._number(), self._page_size(), self._moment()
        outcome: Any = self._one(2, 3, 4, 4)
        fields: dict[str, Any] = {
            "event_ids": self._one([], [self._id("evt", repeats=1)]),
            "reason": self._one("", *REASONS),
            "retry_at": self._one(None, self._instant(1, 3)),
        }
        endpoint, is_dry = self._one("", *ENDPOINTS), self._is(0.3)
        listed = self._one({}, {"oldest_first": True}, {"with_bodies": True})

        def of_one(side: Side) -> str:
            identifier: str = side.nth("quarantine_id", number)
            return identifier

        kinds: list[Call] = [
            (
                "ListQuarantined",
                lambda side: ledger_pb2.ListQuarantinedRequest(
                    endpoint=endpoint, due_at=due_at(side), page_size=size
                ),
            ),
            (
                "ListQuarantined",
                lambda _side: ledger_pb2.ListQuarantinedRequest(
                    endpoint=endpoint, page_size=size, **listed
                ),
            ),
            (
                "GetQuarantined",
                lambda side: ledger_pb2.GetQuarantinedRequest(quarantine_id=of_one(side)),
            ),
            (
                "GetQuarantineSummary",
                lambda _side: ledger_pb2.GetQuarantineSummaryRequest(endpoint=endpoint),
            ),
            (
                "RetryQuarantined",
                lambda side: ledger_pb2.RetryQuarantinedRequest(
                    quarantine_ids=[of_one(side)], dry_run=is_dry
                ),
            ),
            (
                "RetryQuarantined",
                lambda _side: ledger_pb2.RetryQuarantinedRequest(endpoint=endpoint, dry_run=is_dry),
            ),
            (
                "ResolveQuarantined",
                lambda side: ledger_pb2.ResolveQuarantinedRequest(
                    quarantine_id=of_one(side),
                    move_number=1 + number % 3,
                    outcome=outcome,
                    **fields,
                ),
            ),
            (
                "DiscardQuarantined",
                lambda side: ledger_pb2.DiscardQuarantinedRequest(
                    quarantine_id=of_one(side), reason=fields["reason"]
                ),
            ),
        ]
        return kinds[self._chance.randrange(len(kinds))]


def _copy(request: Any) -> Message:
    """A list sets the token of its next page in its request."""
    copied: Message = type(request)()
    copied.CopyFrom(request)
    return copied
