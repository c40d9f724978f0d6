"""What a server says about itself: its health and its services."""

from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.running import RunningLedger
from support.waiting import until

SERVICE = "ledger.v1.LedgerService"
SERVICES = (SERVICE, "ledger.v1.AccountService", "ledger.v1.PaymentService")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_stub(channel: aio.Channel) -> Any:
    """A client of the health service."""
    return health_pb2_grpc.HealthStub(channel)


async def health_of(ledger: RunningLedger, service: str = SERVICE) -> int:
    """The status that the health service returns."""
    answer = await health_stub(ledger.channel).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def until_serving(ledger: RunningLedger) -> None:
    """Returns when each service is SERVING: once the server's database has answered in time."""

    async def serving() -> bool:
        return all([await health_of(ledger, service) == SERVING for service in SERVICES])

    await until(serving, what="SERVING")


async def listed_services(address: str) -> list[str]:
    """The services that a server describes."""
    async with aio.insecure_channel(address) as channel:
        untyped: Any = channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        async for answer in call:
            return [service.name for service in answer.list_services_response.service]
    return []
