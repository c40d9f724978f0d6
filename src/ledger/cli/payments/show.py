"""`ledger payments show` and `list`."""

import click

from ledger.cli.client_settings import load_client_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import counted, print_json, print_json_lines, print_line, print_table
from ledger.cli.parameters import (
    Word,
    address_option,
    json_lines_option,
    json_option,
    payment_argument,
)
from ledger.cli.payments.views import (
    entries_table,
    json_of_entry,
    json_of_operation,
    json_of_payment,
    operations_table,
    payment_table,
    payments_table,
)
from ledger.cli.words import number_of, prefix_of, words_of
from ledger.client.sync_pages import pages_of
from ledger.v1 import payment_pb2

PAYMENT_STATE = Word(prefix_of(payment_pb2.PaymentState), words_of(payment_pb2.PaymentState))

SHOW_HELP = """
Show a payment as it stands, the operations on it, and the entries that they
posted.
"""
LIST_HELP = """
List the payments of a payer or a payee, the latest first. Give one of --payer,
--payee and --restaurant.
"""


@click.command(help=SHOW_HELP)
@payment_argument
@json_option
@address_option
def show(payment: str, json: bool, address: str | None) -> None:
    settings = load_client_settings(address)
    with connect(settings) as ledger:
        response = ledger.get_payment(payment)
    currency = response.payment.currency
    if json:
        print_json(
            {
                **json_of_payment(response.payment),
                "operations": [
                    json_of_operation(operation, currency) for operation in response.operations
                ],
                "entries": [json_of_entry(entry) for entry in response.entries],
            }
        )
        return
    print_table(payment_table(response.payment))
    if response.operations:
        print_table(operations_table(response.operations, currency))
    if response.entries:
        print_table(entries_table(response.entries, currency))


@click.command(help=LIST_HELP)
@click.option("--payer", metavar="ACCOUNT", help="Those that this account pays.")
@click.option("--payee", metavar="ACCOUNT", help="Those that pay this account.")
@click.option("--restaurant", metavar="RESTAURANT", help="Those that pay this restaurant.")
@click.option(
    "--state",
    metavar="STATE",
    type=PAYMENT_STATE,
    help=f"Only those in this state: {', '.join(PAYMENT_STATE.words)}.",
)
@json_lines_option
@address_option
def list_payments(
    payer: str | None,
    payee: str | None,
    restaurant: str | None,
    state: str | None,
    json: bool,
    address: str | None,
) -> None:
    settings = load_client_settings(address)
    if [payer, payee, restaurant].count(None) != 2:
        raise CommandFailure(
            "give one of --payer, --payee and --restaurant", exit_status=ExitStatus.USAGE
        )
    request = payment_pb2.ListPaymentsRequest()
    if payer is not None:
        request.payer_account_id = payer
    if payee is not None:
        request.payee_account_id = payee
    if restaurant is not None:
        request.payee_restaurant_id = restaurant
    if state is not None:
        request.state = number_of(payment_pb2.PaymentState, state)
    count = 0
    with connect(settings) as ledger:
        for page in pages_of(ledger.payments.ListPayments, request):
            count += len(page.payments)
            if json:
                print_json_lines(map(json_of_payment, page.payments))
            elif page.payments:
                print_table(payments_table(page.payments))
    if not json:
        print_line(counted(count, "payment"))
