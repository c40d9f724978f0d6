"""`ledger payments authorize` and `ledger transfer`: decide a payment."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.metadata import pairs_of
from ledger.cli.parameters import (
    Duration,
    Instant,
    address_option,
    currency_argument,
    json_option,
    metadata_option,
    minor_units,
    payment_argument,
    positive_minor_units,
)
from ledger.cli.payments.answers import DECLINED_STATUS, answer_payment
from ledger.v1 import payment_pb2

if TYPE_CHECKING:
    from ledger.client import Ledger

AUTHORIZE_HELP = f"""
Pay an amount from an account to another one, or to a restaurant. With --manual
the amount is held, and `capture` moves it.

An unknown restaurant is registered by its first payment, even a declined one, as
by its first event; with LEDGER_UNKNOWN_RESTAURANTS=reject it is NOT_FOUND. Check
the id: a typo is paid.

PAYMENT is the id that you give it. May be repeated: a payment is decided once,
and the same command again shows how.
{DECLINED_STATUS}"""
TRANSFER_HELP = f"""
Pay AMOUNT from one account to another at once. `ledger payments authorize` pays
restaurants too, and holds amounts.

PAYMENT is the id that you give it. May be repeated: a payment is decided once,
and the same command again shows how.
{DECLINED_STATUS}"""


@click.command(help=AUTHORIZE_HELP)
@payment_argument
@click.option("--payer", metavar="ACCOUNT", required=True, help="The account that pays.")
@click.option("--payee", metavar="ACCOUNT", help="The account that is paid.")
@click.option(
    "--restaurant", metavar="RESTAURANT", help="The restaurant that is paid instead; check the id."
)
@click.option("--amount", metavar="AMOUNT", required=True, help="How much, such as 12.50.")
@click.option(
    "--currency",
    metavar="CURRENCY",
    required=True,
    help="ISO 4217 code in upper case, such as PEN; that of the accounts.",
)
@click.option("--manual", is_flag=True, help="Hold the amount until it is captured or released.")
@click.option("--fee", metavar="AMOUNT", help="The platform's commission, if a restaurant is paid.")
@click.option(
    "--expires-in",
    metavar="DURATION",
    type=Duration(),
    help="Release what is held after this time, such as 30m or 7d; with --manual."
    "  [default: never]",
)
@click.option(
    "--expires-at", metavar="INSTANT", type=Instant(), help="Release what is held at this instant."
)
@click.option(
    "--reference", metavar="REFERENCE", default="", help="Your text for it, in printable ASCII."
)
@metadata_option
@json_option
@address_option
def authorize(
    payment: str,
    payer: str,
    payee: str | None,
    restaurant: str | None,
    amount: str,
    currency: str,
    manual: bool,
    fee: str | None,
    expires_in: timedelta | None,
    expires_at: Timestamp | None,
    reference: str,
    metadata: tuple[str, ...],
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    if (payee is None) == (restaurant is None):
        raise CommandFailure(
            "say who is paid: --payee or --restaurant"
            if payee is None
            else "give one of --payee and --restaurant",
            exit_status=ExitStatus.USAGE,
        )
    if expires_in is not None and expires_at is not None:
        raise CommandFailure(
            "--expires-in and --expires-at exclude each other", exit_status=ExitStatus.USAGE
        )
    if not manual and (expires_in is not None or expires_at is not None):
        name = "--expires-at" if expires_in is None else "--expires-in"
        raise CommandFailure(f"{name} goes with --manual", exit_status=ExitStatus.USAGE)
    if fee is not None and restaurant is None:
        raise CommandFailure("--fee goes with --restaurant", exit_status=ExitStatus.USAGE)
    request = payment_pb2.AuthorizePaymentRequest(
        payment_id=payment,
        payer_account_id=payer,
        amount_minor=positive_minor_units("--amount", amount, currency),
        currency=currency,
        capture=payment_pb2.CAPTURE_MODE_MANUAL if manual else payment_pb2.CAPTURE_MODE_IMMEDIATE,
        fee_minor=0 if fee is None else minor_units("--fee", fee, currency),
        expires_at=expires_at,
        reference=reference,
        metadata=pairs_of(metadata),
    )
    if payee is not None:
        request.payee_account_id = payee
    if restaurant is not None:
        request.payee_restaurant_id = restaurant
    with connect(settings) as ledger:
        response = (
            ledger.payments.AuthorizePayment(request)
            if expires_in is None
            else _authorize_for(ledger, request, expires_in)
        )
    answer_payment(response, json=json)


@click.command(help=TRANSFER_HELP)
@payment_argument
@click.argument("payer", metavar="FROM", help="The account that pays.")
@click.argument("payee", metavar="TO", help="The account that is paid.")
@click.argument("amount", metavar="AMOUNT", help="How much, such as 12.50.")
@currency_argument
@json_option
@address_option
def transfer(
    payment: str,
    payer: str,
    payee: str,
    amount: str,
    currency: str,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    request = payment_pb2.AuthorizePaymentRequest(
        payment_id=payment,
        payer_account_id=payer,
        payee_account_id=payee,
        amount_minor=positive_minor_units("AMOUNT", amount, currency),
        currency=currency,
        capture=payment_pb2.CAPTURE_MODE_IMMEDIATE,
    )
    with connect(settings) as ledger:
        response = ledger.payments.AuthorizePayment(request)
    answer_payment(response, json=json)


def _authorize_for(
    ledger: "Ledger",
    request: payment_pb2.AuthorizePaymentRequest,
    expires_in: timedelta,
) -> payment_pb2.AuthorizePaymentResponse:
    """Authorises a payment that expires after a time from now.

    On repeat it has the instant of the first call: with another one it would be another payment.
    """
    from ledger.client import LedgerError

    request.expires_at.FromDatetime(datetime.now(UTC) + expires_in)
    try:
        return ledger.payments.AuthorizePayment(request)
    except LedgerError as error:
        if error.reason != "PAYMENT_ID_REUSED":
            raise
    # If anything else differs from the stored payment, the server refuses it again.
    stored = ledger.get_payment(request.payment_id).payment
    request.ClearField("expires_at")
    if stored.HasField("expires_at"):
        request.expires_at.CopyFrom(stored.expires_at)
    return ledger.payments.AuthorizePayment(request)
