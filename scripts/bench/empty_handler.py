"""A bare gRPC server with constant responses: the limit of a call. No interceptor, one option."""

import argparse
import asyncio
import signal
import sys
from typing import Any

from grpc import aio

from ledger.v1 import ledger_pb2, ledger_pb2_grpc, payment_pb2, payment_pb2_grpc
from scripts.bench.jobs import loop_factory

READY_PREFIX = "the empty handler is on "


class EmptyHandler(ledger_pb2_grpc.LedgerServiceServicer):
    """Decodes and encodes the messages of the real service, and nothing else."""

    def __init__(self, available_minor: int) -> None:
        self._booked = ledger_pb2.IngestEventResponse(
            status=ledger_pb2.INGEST_STATUS_CREATED,
            transaction_id="01890a5d-ac96-774b-bcce-b302099a8057",
        )
        self._balance = ledger_pb2.GetBalanceResponse(
            restaurant_id="CLP_1", currency="CLP", available_minor=available_minor
        )
        self._balance.last_event_at.GetCurrentTime()
        self._balance.as_of.GetCurrentTime()

    async def IngestEvent(
        self, _request: ledger_pb2.IngestEventRequest, _context: aio.ServicerContext[Any, Any]
    ) -> ledger_pb2.IngestEventResponse:
        return self._booked

    async def GetBalance(
        self, _request: ledger_pb2.GetBalanceRequest, _context: aio.ServicerContext[Any, Any]
    ) -> ledger_pb2.GetBalanceResponse:
        return self._balance


class EmptyPayments(payment_pb2_grpc.PaymentServiceServicer):
    """The same for payments."""

    def __init__(self) -> None:
        self._paid = payment_pb2.AuthorizePaymentResponse(
            status=payment_pb2.PAYMENT_STATUS_CAPTURED,
            payment=payment_pb2.Payment(
                payment_id="bench.1.0.000000001",
                payer_account_id="PEN.1",
                payee_account_id="PEN.501",
                currency="PEN",
                amount_minor=1_000,
                capture=payment_pb2.CAPTURE_MODE_IMMEDIATE,
                state=payment_pb2.PAYMENT_STATE_CAPTURED,
                captured_minor=1_000,
                transaction_id="01890a5d-ac96-774b-bcce-b302099a8057",
            ),
        )
        self._paid.payment.created_at.GetCurrentTime()
        self._held = payment_pb2.AuthorizePaymentResponse(
            status=payment_pb2.PAYMENT_STATUS_AUTHORIZED, payment=self._paid.payment
        )
        self._captured = payment_pb2.CapturePaymentResponse(
            status=payment_pb2.OPERATION_STATUS_APPLIED,
            operation=payment_pb2.PaymentOperation(
                operation_id="c.bench.1.0.000000001",
                kind=payment_pb2.OPERATION_KIND_CAPTURE,
                amount_minor=1_000,
                transaction_id="01890a5d-ac96-774b-bcce-b302099a8058",
                state=payment_pb2.PAYMENT_STATE_CAPTURED,
                captured_minor=1_000,
                created_at=self._paid.payment.created_at,
            ),
            payment=self._paid.payment,
        )

    async def AuthorizePayment(
        self,
        request: payment_pb2.AuthorizePaymentRequest,
        _context: aio.ServicerContext[Any, Any],
    ) -> payment_pb2.AuthorizePaymentResponse:
        return self._held if request.capture == payment_pb2.CAPTURE_MODE_MANUAL else self._paid

    async def CapturePayment(
        self,
        _request: payment_pb2.CapturePaymentRequest,
        _context: aio.ServicerContext[Any, Any],
    ) -> payment_pb2.CapturePaymentResponse:
        return self._captured


async def serve(available_minor: int) -> None:
    """Serves until standard input ends, which it does with the parent."""
    server = aio.server(options=(("grpc.so_reuseport", 0),))
    # The other methods are not called.
    handler = EmptyHandler(available_minor)  # type: ignore[abstract]
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(handler, server)
    payment_pb2_grpc.add_PaymentServiceServicer_to_server(EmptyPayments(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"{READY_PREFIX}127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--available-minor", type=int, required=True)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    # Ctrl-C is for the parent, which ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=loop_factory(uvloop=arguments.uvloop)) as runner:
        runner.run(serve(arguments.available_minor))


if __name__ == "__main__":
    main()
