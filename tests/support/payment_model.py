"""What payments do to accounts, written from the contract: it shares no code with the service.

The contract does not say which reason a decline gets of several that apply. So the model is given
the reason of the answer, and accepts any that applies, and none if none does.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime


@dataclass(slots=True)
class ModelAccount:
    """An account. `limit_minor` None: it may go below zero without a limit."""

    currency: str = "PEN"
    limit_minor: int | None = 0
    state: str = "OPEN"
    available_minor: int = 0
    held_minor: int = 0

    def lacks(self, amount_minor: int) -> bool:
        """Whether the account cannot pay so much."""
        if self.limit_minor is None:
            return False
        return self.available_minor - amount_minor < -self.limit_minor


@dataclass(slots=True)
class ModelPayment:
    """A payment. `payee` is a restaurant if there is no account of that name."""

    payer: str
    payee: str
    amount_minor: int
    currency: str = "PEN"
    fee_minor: int = 0
    is_transfer: bool = True
    expires_at: datetime | None = None
    state: str = ""
    reason: str = ""
    captured_minor: int = 0
    refunded_minor: int = 0
    held_minor: int = 0

    def standing(self) -> tuple[str, int, int, int]:
        """The state, and what was captured, refunded and is held."""
        return self.state, self.captured_minor, self.refunded_minor, self.held_minor


@dataclass(slots=True)
class PaymentModel:
    """Accounts, restaurants and payments, one command after the other."""

    accounts: dict[str, ModelAccount] = field(default_factory=dict)
    payments: dict[str, ModelPayment] = field(default_factory=dict)
    # Of each restaurant, without the platform's fees.
    payable_minor: Counter[tuple[str, str]] = field(default_factory=Counter)
    fees_minor: Counter[tuple[str, str]] = field(default_factory=Counter)

    def authorize(
        self, payment_id: str, payment: ModelPayment, reason: str, now: datetime | None = None
    ) -> None:
        """Decides a payment that was answered with this reason, empty if it was accepted."""
        self._agree(self.reasons_against(payment, now), reason, payment_id)
        self.accept(payment_id, payment, reason)

    def accept(self, payment_id: str, payment: ModelPayment, reason: str) -> None:
        """Stores a decided payment, and moves its money unless there is a reason."""
        self.payments[payment_id] = payment
        payment.reason = reason
        if reason:
            payment.state = "DECLINED"
            return
        self.accounts[payment.payer].available_minor -= payment.amount_minor
        if payment.is_transfer:
            payment.state = "CAPTURED"
            self._credit(payment, payment.amount_minor)
        else:
            payment.state = "AUTHORIZED"
            payment.held_minor = payment.amount_minor
            self.accounts[payment.payer].held_minor += payment.amount_minor

    def authorize_chain(
        self,
        chain: list[tuple[str, ModelPayment]],
        reasons: list[str],
        now: datetime | None = None,
    ) -> None:
        """Decides payments that are accepted together or not at all."""
        if len(chain) == 1:
            self.authorize(*chain[0], reasons[0], now)
            return
        # Tried on a copy of the accounts, as a later payment may spend what an earlier one brings.
        tried = PaymentModel({name: replace(self.accounts[name]) for name in self.accounts})
        for place, (payment_id, payment) in enumerate(chain):
            against = tried.reasons_against(payment, now)
            if against:
                self._agree(against, reasons[place], payment_id)
                expected = ["LINKED_PAYMENT_DECLINED"] * len(chain)
                expected[place] = reasons[place]
                assert reasons == expected
                break
            tried.accept(payment_id, replace(payment), "")
        else:
            assert reasons == [""] * len(chain)
        for (payment_id, payment), reason in zip(chain, reasons, strict=True):
            self.accept(payment_id, payment, reason)

    def operate(
        self,
        kind: str,
        payment_id: str,
        reason: str,
        *,
        amount_minor: int = 0,
        is_final: bool = False,
    ) -> tuple[int, int]:
        """Decides an operation that was answered with this reason.

        Returns what it captures or refunds, and what it releases. Of a declined one: what was
        asked, and nothing.
        """
        payment = self.payments[payment_id]
        payer = self.accounts[payment.payer]
        refundable_minor = payment.captured_minor - payment.refunded_minor
        match kind:
            case "CAPTURE":
                wanted_minor = amount_minor or payment.held_minor
                self._agree(self._reasons_against_capture(payment, wanted_minor), reason, kind)
            case "VOID" | "EXPIRE":
                wanted_minor = 0
                against = set() if payment.held_minor else {"PAYMENT_NOT_VOIDABLE"}
                self._agree(against, reason, kind)
            case "REFUND":
                wanted_minor = amount_minor or refundable_minor
                against = {"PAYMENT_NOT_REFUNDABLE"}
                if refundable_minor:
                    against = self._reasons_against_refund(payment, wanted_minor)
                self._agree(against, reason, kind)
            case _:
                wanted_minor = refundable_minor
                against = set() if payment.held_minor else {"PAYMENT_NOT_REVERSIBLE"}
                if refundable_minor:
                    against = self._reasons_against_refund(payment, wanted_minor)
                self._agree(against, reason, kind)
        if reason:
            return amount_minor, 0
        released_minor = 0
        if kind == "CAPTURE":
            payment.held_minor -= wanted_minor
            payer.held_minor -= wanted_minor
            self._credit(payment, wanted_minor)
            released_minor = payment.held_minor if is_final else 0
        elif kind != "REFUND":
            released_minor = payment.held_minor
        if kind in ("REFUND", "REVERSE") and wanted_minor:
            payment.refunded_minor += wanted_minor
            payer.available_minor += wanted_minor
            if payment.payee in self.accounts:
                self.accounts[payment.payee].available_minor -= wanted_minor
            else:
                self.payable_minor[payment.payee, payment.currency] -= wanted_minor
        payment.held_minor -= released_minor
        payer.held_minor -= released_minor
        payer.available_minor += released_minor
        if payment.held_minor:
            payment.state = "PARTIALLY_CAPTURED" if payment.captured_minor else "AUTHORIZED"
        elif payment.captured_minor:
            payment.state = "CAPTURED"
        else:
            payment.state = "EXPIRED" if kind == "EXPIRE" else "VOIDED"
        return wanted_minor, released_minor

    def has_expired(self, payment_id: str, now: datetime) -> bool:
        """Whether a payment holds money although its time is over."""
        payment = self.payments[payment_id]
        return bool(payment.held_minor) and (
            payment.expires_at is not None and payment.expires_at <= now
        )

    def reasons_against(self, payment: ModelPayment, now: datetime | None) -> set[str]:
        """All reasons to decline a payment."""
        payer, payee = self.accounts[payment.payer], self.accounts.get(payment.payee)
        reasons = self._states(payer, payee)
        if payer.currency != payment.currency or (payee and payee.currency != payment.currency):
            reasons.add("CURRENCY_MISMATCH")
        if payment.expires_at is not None and now is not None and payment.expires_at <= now:
            reasons.add("EXPIRED")
        if payer.lacks(payment.amount_minor):
            reasons.add("INSUFFICIENT_FUNDS")
        return reasons

    def _reasons_against_capture(self, payment: ModelPayment, wanted_minor: int) -> set[str]:
        if not payment.held_minor:
            return {"PAYMENT_NOT_CAPTURABLE"}
        reasons = self._states(self.accounts[payment.payer], self.accounts.get(payment.payee))
        if wanted_minor > payment.held_minor:
            reasons.add("AMOUNT_EXCEEDS_AUTHORIZED")
        return reasons

    def _reasons_against_refund(self, payment: ModelPayment, wanted_minor: int) -> set[str]:
        payer, payee = self.accounts[payment.payer], self.accounts.get(payment.payee)
        reasons = self._states(payer, payee)
        if payer.state == "FROZEN" and (payee is None or payee.state != "FROZEN"):
            # Its own money comes back to it.
            reasons.discard("ACCOUNT_FROZEN")
        if wanted_minor > payment.captured_minor - payment.refunded_minor:
            reasons.add("AMOUNT_EXCEEDS_CAPTURED")
        if payee is not None and payee.lacks(wanted_minor):
            reasons.add("INSUFFICIENT_FUNDS")
        return reasons

    def _credit(self, payment: ModelPayment, amount_minor: int) -> None:
        before_minor = payment.fee_minor * payment.captured_minor // payment.amount_minor
        payment.captured_minor += amount_minor
        fee_minor = (
            payment.fee_minor * payment.captured_minor // payment.amount_minor - before_minor
        )
        if payment.payee in self.accounts:
            self.accounts[payment.payee].available_minor += amount_minor
        else:
            self.payable_minor[payment.payee, payment.currency] += amount_minor - fee_minor
            self.fees_minor[payment.payee, payment.currency] += fee_minor

    @staticmethod
    def _states(payer: ModelAccount, payee: ModelAccount | None) -> set[str]:
        states = {payer.state, "OPEN" if payee is None else payee.state}
        return {f"ACCOUNT_{state}" for state in states - {"OPEN"}}

    @staticmethod
    def _agree(against: set[str], reason: str, what: str) -> None:
        assert reason in against if against else not reason, (
            f"{what} was answered with {reason or 'yes'!r}, and against it is {sorted(against)}"
        )
