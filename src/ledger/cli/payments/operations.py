"""`ledger payments capture`, `void`, `refund` and `reverse`."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.parameters import (
    address_option,
    json_option,
    payment_argument,
    positive_minor_units,
)
from ledger.cli.payments.answers import DECLINED_STATUS, OperationResponse, answer_operation

if TYPE_CHECKING:
    from ledger.client import Ledger

# Sends the command with an operation id and an amount in minor units, 0 for all.
_Send = Callable[["Ledger", str, int | None], OperationResponse]

_REPEAT = f"""
The answer, or the error if there was none, shows the operation id. The same
command with --operation-id of that id is a repeat: it does nothing twice, and
shows the first answer. Without the option each call is another operation.
{DECLINED_STATUS}"""
CAPTURE_HELP = f"""
Move what is held for PAYMENT to the payee: all of it, or --amount. The rest
stays held unless --final releases it.
{_REPEAT}"""
VOID_HELP = f"""
Release what is held for PAYMENT and not captured.
{_REPEAT}"""
REFUND_HELP = f"""
Move what was captured of PAYMENT back to the payer: all that was not refunded,
or --amount. Fees are not returned: the restaurant bears them.
{_REPEAT}"""
REVERSE_HELP = f"""
Undo PAYMENT, wherever it stands: release what is held and refund what was
captured, both or neither. Fees are not returned: the restaurant bears them.
{_REPEAT}"""


def _parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the parameters that all four commands share."""
    operation_id = click.option(
        "--operation-id",
        metavar="ID",
        help="The operation's id; give it to be able to repeat.  [default: a new one]",
    )
    return payment_argument(operation_id(json_option(address_option(function))))


def _amount_option(whole: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--amount",
        metavar="AMOUNT",
        help=f"How much, such as 12.50; the payment is read for its currency.  [default: {whole}]",
    )


@click.command(help=CAPTURE_HELP)
@_amount_option("all that is held")
@click.option("--final", "is_final", is_flag=True, help="Release what is left.")
@_parameters
def capture(
    payment: str,
    operation_id: str | None,
    amount: str | None,
    is_final: bool,
    json: bool,
    address: str | None,
) -> None:
    def send(ledger: "Ledger", operation_id: str, amount_minor: int | None) -> OperationResponse:
        return ledger.capture_payment(
            operation_id, payment, amount_minor=amount_minor, is_final=is_final
        )

    _operate(send, payment, operation_id, amount, json=json, address=address)


@click.command(help=VOID_HELP)
@_parameters
def void(payment: str, operation_id: str | None, json: bool, address: str | None) -> None:
    def send(ledger: "Ledger", operation_id: str, _: int | None) -> OperationResponse:
        return ledger.void_payment(operation_id, payment)

    _operate(send, payment, operation_id, None, json=json, address=address)


@click.command(help=REFUND_HELP)
@_amount_option("all that was not refunded")
@_parameters
def refund(
    payment: str, operation_id: str | None, amount: str | None, json: bool, address: str | None
) -> None:
    def send(ledger: "Ledger", operation_id: str, amount_minor: int | None) -> OperationResponse:
        return ledger.refund_payment(operation_id, payment, amount_minor=amount_minor)

    _operate(send, payment, operation_id, amount, json=json, address=address)


@click.command(help=REVERSE_HELP)
@_parameters
def reverse(payment: str, operation_id: str | None, json: bool, address: str | None) -> None:
    def send(ledger: "Ledger", operation_id: str, _: int | None) -> OperationResponse:
        return ledger.reverse_payment(operation_id, payment)

    _operate(send, payment, operation_id, None, json=json, address=address)


def _operate(
    send: _Send,
    payment_id: str,
    operation_id: str | None,
    amount: str | None,
    *,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    chosen_id = operation_id or f"cli.{uuid.uuid4()}"
    with _naming(chosen_id), connect(settings) as ledger:
        amount_minor = None
        if amount is not None:
            # The currency of a payment never changes.
            currency = ledger.get_payment(payment_id).payment.currency
            amount_minor = positive_minor_units("--amount", amount, currency)
        response = send(ledger, chosen_id, amount_minor)
    answer_operation(response, json=json)


@contextmanager
def _naming(operation_id: str) -> Iterator[None]:
    """Names the operation if the command ends without an answer, so that it can be repeated."""
    repeat = f"it may have been carried out: repeat it with --operation-id {operation_id}"
    try:
        yield
    except CommandFailure as failure:
        if failure.exit_status is not ExitStatus.UNREACHABLE:
            raise
        raise CommandFailure(*failure.lines, repeat, exit_status=failure.exit_status) from failure
    except KeyboardInterrupt:
        raise CommandFailure("interrupted", repeat, exit_status=ExitStatus.INTERRUPTED) from None
