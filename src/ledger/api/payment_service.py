"""The payments of the contract: each method decodes, calls its use case, and encodes."""

from itertools import chain
from typing import Any

from grpc import aio

from ledger.api.convert import payments
from ledger.api.pages import Pages
from ledger.application.payments.pay import Pay
from ledger.application.payments.read_payments import get_payment, list_payments
from ledger.application.ports.payments import Payments
from ledger.domain.payments import OperationKind
from ledger.v1 import payment_pb2, payment_pb2_grpc

Context = aio.ServicerContext[Any, Any]


class PaymentService(payment_pb2_grpc.PaymentServiceServicer):
    """Implements `ledger.v1.PaymentService`."""

    def __init__(self, *, pay: Pay, payments: Payments, pages: Pages) -> None:
        self._pay = pay
        self._payments = payments
        self._pages = pages

    async def AuthorizePayment(
        self, request: payment_pb2.AuthorizePaymentRequest, context: Context
    ) -> payment_pb2.AuthorizePaymentResponse:
        order = payments.decode_order(request)
        size_bytes = payments.memory_bytes((order,), request.ByteSize())
        outcome = await self._pay.authorize(order, size_bytes=size_bytes)
        return payments.encode_authorization(outcome)

    async def BatchAuthorizePayments(
        self, request: payment_pb2.BatchAuthorizePaymentsRequest, context: Context
    ) -> payment_pb2.BatchAuthorizePaymentsResponse:
        chains, errors = payments.decode_payments(request)
        size_bytes = payments.memory_bytes(chain.from_iterable(chains), request.ByteSize())
        # Not held while its payments wait: it takes as much memory as they do.
        del request
        outcomes = await self._pay.authorize_batch(chains, size_bytes=size_bytes)
        response = payment_pb2.BatchAuthorizePaymentsResponse()
        payments.write_results(response.results, errors, outcomes)
        return response

    async def BatchTransfers(
        self, request: payment_pb2.BatchTransfersRequest, context: Context
    ) -> payment_pb2.BatchTransfersResponse:
        chains, errors = payments.decode_transfers(request)
        size_bytes = payments.memory_bytes(chain.from_iterable(chains), request.ByteSize())
        del request
        outcomes = await self._pay.authorize_batch(chains, size_bytes=size_bytes)
        response = payment_pb2.BatchTransfersResponse()
        payments.write_results(response.results, errors, outcomes)
        return response

    async def CapturePayment(
        self, request: payment_pb2.CapturePaymentRequest, context: Context
    ) -> payment_pb2.CapturePaymentResponse:
        response = payment_pb2.CapturePaymentResponse()
        await self._operate(OperationKind.CAPTURE, request, response)
        return response

    async def VoidPayment(
        self, request: payment_pb2.VoidPaymentRequest, context: Context
    ) -> payment_pb2.VoidPaymentResponse:
        response = payment_pb2.VoidPaymentResponse()
        await self._operate(OperationKind.VOID, request, response)
        return response

    async def RefundPayment(
        self, request: payment_pb2.RefundPaymentRequest, context: Context
    ) -> payment_pb2.RefundPaymentResponse:
        response = payment_pb2.RefundPaymentResponse()
        await self._operate(OperationKind.REFUND, request, response)
        return response

    async def ReversePayment(
        self, request: payment_pb2.ReversePaymentRequest, context: Context
    ) -> payment_pb2.ReversePaymentResponse:
        response = payment_pb2.ReversePaymentResponse()
        await self._operate(OperationKind.REVERSE, request, response)
        return response

    async def GetPayment(
        self, request: payment_pb2.GetPaymentRequest, context: Context
    ) -> payment_pb2.GetPaymentResponse:
        payment_id = payments.decode_payment_id(request)
        return payments.encode_payment_details(await get_payment(self._payments, payment_id))

    async def ListPayments(
        self, request: payment_pb2.ListPaymentsRequest, context: Context
    ) -> payment_pb2.ListPaymentsResponse:
        query = payments.decode_payment_query(request)
        paging = await self._pages.paging(request, payments.payment_listing(query))
        page = await list_payments(self._payments, query, paging.after, paging.page_size)
        return payments.encode_payment_page(paging, page)

    async def _operate(self, kind: OperationKind, request: Any, response: Any) -> None:
        order = payments.decode_operation(kind, request)
        size_bytes = payments.memory_bytes((order,), request.ByteSize())
        outcome = await self._pay.operate(order, size_bytes=size_bytes)
        payments.write_operation_outcome(response, outcome)
