"""The connection of a command to the server: any client's, with the timeouts and retries that the contract recommends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from ledger.cli.refusals import failure_of, refusal_of_call
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

MESSAGE_BYTES_MAX = 4 * 1024 * 1024


@contextmanager
def connect(address: str) -> Iterator["ledger_pb2_grpc.LedgerServiceStub"]:
    """A client of the server at `address`. Raises CommandFailure for a call of the block that was refused."""
    channel = open_channel(address)
    try:
        yield ledger_pb2_grpc.LedgerServiceStub(channel)
    except KeyboardInterrupt:
        # Not closed: what was interrupted inside gRPC may hold the lock that closing waits for, and the process ends anyway.
        raise
    except grpc.RpcError as error:
        channel.close()
        raise failure_of(refusal_of_call(error), address) from error
    except BaseException:
        channel.close()
        raise
    channel.close()


def open_channel(address: str) -> grpc.Channel:
    """A channel to `address`; connects at its first call. To be closed."""
    service_config = Path(ledger_pb2.__file__).with_name("service_config.json").read_text(encoding="utf-8")
    options = (
        ("grpc.service_config", service_config),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        # The proxy in a user's environment is the way to the web; the ledger is inside the house.
        ("grpc.enable_http_proxy", 0),
    )
    return grpc.insecure_channel(address, options=options)
