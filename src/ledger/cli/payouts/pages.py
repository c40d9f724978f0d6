"""Lists as the server tells them: page by page, so that however long they are, only one page of them is held."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ledger.limits import PAGE_SIZE_MAX
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.v1 import ledger_pb2_grpc


def payout_pages(
    stub: "ledger_pb2_grpc.LedgerServiceStub", request: ledger_pb2.ListPayoutsRequest
) -> Iterator[list[ledger_pb2.Payout]]:
    """The payouts that `request` asks for, the latest first; at least one page, which may be empty. Raises grpc.RpcError."""
    request.page_size = PAGE_SIZE_MAX
    while True:
        answer = stub.ListPayouts(request)
        yield list(answer.payouts)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


def run_pages(
    stub: "ledger_pb2_grpc.LedgerServiceStub", request: ledger_pb2.ListPayoutRunsRequest
) -> Iterator[list[ledger_pb2.PayoutRun]]:
    """The runs that `request` asks for, likewise."""
    request.page_size = PAGE_SIZE_MAX
    while True:
        answer = stub.ListPayoutRuns(request)
        yield list(answer.payout_runs)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


def run_item_pages(
    stub: "ledger_pb2_grpc.LedgerServiceStub", payout_run_id: str
) -> Iterator[list[ledger_pb2.PayoutRunItem]]:
    """The restaurants of a run with what became of each, likewise."""
    request = ledger_pb2.ListPayoutRunItemsRequest(
        payout_run_id=payout_run_id, page_size=PAGE_SIZE_MAX
    )
    while True:
        answer = stub.ListPayoutRunItems(request)
        yield list(answer.items)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return
