"""Prints what the server answered to a command about a payment, and sets the exit status."""

import click

from ledger.cli.failures import ExitStatus, report
from ledger.cli.output import print_json, print_line, print_table
from ledger.cli.payments.views import (
    decline_line,
    json_of_operation,
    json_of_payment,
    operation_table,
    payment_table,
)
from ledger.cli.words import word_of
from ledger.v1 import payment_pb2

DECLINED_STATUS = """
Exit status: 0 once it is done, now or by an earlier call; 4 if it was declined:
nothing moved, and a repeat gets the same answer; 1 if it was refused; 3 without
a response: repeat the command.
"""

OperationResponse = (
    payment_pb2.CapturePaymentResponse
    | payment_pb2.VoidPaymentResponse
    | payment_pb2.RefundPaymentResponse
    | payment_pb2.ReversePaymentResponse
)


def answer_payment(response: payment_pb2.AuthorizePaymentResponse, *, json: bool) -> None:
    """Prints the decision about a payment. Ends the command with DECLINED if it was declined."""
    payment = response.payment
    status = word_of(payment_pb2.PaymentStatus, response.status)
    if json:
        print_json({"status": status, "payment": json_of_payment(payment)})
    else:
        print_line(f"{status}: payment {payment.payment_id}{_as_then(status)}")
        print_table(payment_table(payment))
    _end_if_declined(payment.decline_reason)


def answer_operation(response: OperationResponse, *, json: bool) -> None:
    """Prints the decision about an operation. Ends the command with DECLINED if it was declined."""
    operation, payment = response.operation, response.payment
    status = word_of(payment_pb2.OperationStatus, response.status)
    if json:
        print_json(
            {
                "status": status,
                "operation": json_of_operation(operation, payment.currency),
                "payment": json_of_payment(payment),
            }
        )
    else:
        print_line(f"{status}: operation {operation.operation_id}{_as_then(status)}")
        print_table(operation_table(operation, payment.currency))
        print_table(payment_table(payment))
    _end_if_declined(operation.decline_reason)


def _as_then(status: str) -> str:
    return ", as it was first answered" if status == "duplicate" else ""


def _end_if_declined(reason: "payment_pb2.DeclineReason.ValueType") -> None:
    if reason:
        report("declined", [decline_line(reason)])
        raise click.exceptions.Exit(ExitStatus.DECLINED)
