"""Connects a command to the server, with the timeouts and retries that the contract recommends."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.addresses import is_within_this_machine
from ledger.cli.client_settings import ClientSettings
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.refusals import failure_of, refusal_of_call
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.v1 import ledger_pb2

# Imported by the first call: gRPC takes longer to load than the rest of a command.
if TYPE_CHECKING:
    import grpc

    from ledger.v1 import account_pb2_grpc, ledger_pb2_grpc, payment_pb2_grpc


@contextmanager
def connect(settings: ClientSettings) -> Iterator["ledger_pb2_grpc.LedgerServiceStub"]:
    """Yields a stub for the server of the settings, with their credentials.

    Raises CommandFailure if a call in the block fails, or if the credentials cannot be used.
    """
    with _channel_of(settings) as channel:
        from ledger.v1 import ledger_pb2_grpc

        yield ledger_pb2_grpc.LedgerServiceStub(channel)


@contextmanager
def connect_accounts(settings: ClientSettings) -> Iterator["account_pb2_grpc.AccountServiceStub"]:
    """The same for accounts."""
    with _channel_of(settings) as channel:
        from ledger.v1 import account_pb2_grpc

        yield account_pb2_grpc.AccountServiceStub(channel)


@contextmanager
def connect_payments(settings: ClientSettings) -> Iterator["payment_pb2_grpc.PaymentServiceStub"]:
    """The same for payments."""
    with _channel_of(settings) as channel:
        from ledger.v1 import payment_pb2_grpc

        yield payment_pb2_grpc.PaymentServiceStub(channel)


@contextmanager
def connect_plainly(address: str) -> Iterator["ledger_pb2_grpc.LedgerServiceStub"]:
    """As `connect`, for a server that asks for no credentials, whatever the settings say."""
    with plain_channel(address) as channel:
        from ledger.v1 import ledger_pb2_grpc

        yield ledger_pb2_grpc.LedgerServiceStub(channel)


def plain_channel(address: str) -> AbstractContextManager["grpc.Channel"]:
    """A channel to a server that asks for no credentials, for stubs of several services."""
    return _channel(address, None)


def _channel_of(settings: ClientSettings) -> AbstractContextManager["grpc.Channel"]:
    return _channel(settings.grpc_address, credentials_of(settings))


@contextmanager
def _channel(
    address: str, credentials: "grpc.ChannelCredentials | None"
) -> Iterator["grpc.Channel"]:
    import grpc

    channel = open_channel(address, credentials)
    try:
        yield channel
    except KeyboardInterrupt:
        # The channel stays open: a call interrupted inside gRPC may hold the lock that closing
        # waits for, and the process ends anyway.
        raise
    except grpc.RpcError as error:
        channel.close()
        raise failure_of(refusal_of_call(error), address) from error
    except BaseException:
        channel.close()
        raise
    channel.close()


def credentials_of(settings: ClientSettings) -> "grpc.ChannelCredentials | None":
    """The channel's credentials by the settings; None for plaintext. Raises CommandFailure."""
    authorities, certificate, key = (
        settings.client_tls_ca_file,
        settings.client_tls_certificate_file,
        settings.client_tls_key_file,
    )
    if (certificate is None) != (key is None):
        raise CommandFailure(
            "LEDGER_CLIENT_TLS_CERTIFICATE_FILE and LEDGER_CLIENT_TLS_KEY_FILE go together",
            exit_status=ExitStatus.USAGE,
        )
    if authorities is None and certificate is not None:
        raise CommandFailure(
            "LEDGER_CLIENT_TLS_CERTIFICATE_FILE does nothing without LEDGER_CLIENT_TLS_CA_FILE",
            exit_status=ExitStatus.USAGE,
        )
    import grpc

    token = None if settings.client_token_file is None else _token_in(settings.client_token_file)
    if authorities is not None:
        credentials = grpc.ssl_channel_credentials(
            _read(authorities),
            None if key is None else _read(key),
            None if certificate is None else _read(certificate),
        )
    elif token is not None:
        if not is_within_this_machine(settings.grpc_address):
            raise CommandFailure(
                f"the token would go to {settings.grpc_address} in plaintext:"
                " set LEDGER_CLIENT_TLS_CA_FILE",
                exit_status=ExitStatus.USAGE,
            )
        is_unix = settings.grpc_address.startswith("unix:")
        kind = grpc.LocalConnectionType.UDS if is_unix else grpc.LocalConnectionType.LOCAL_TCP
        credentials = grpc.local_channel_credentials(kind)
    else:
        return None
    if token is None:
        return credentials
    return grpc.composite_channel_credentials(
        credentials, grpc.access_token_call_credentials(token)
    )


def _token_in(path: Path) -> str:
    token = _read(path).decode("ascii", errors="replace").strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise CommandFailure(f"{path} holds no token", exit_status=ExitStatus.USAGE)
    return token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandFailure(
            f"cannot read {path}: {error.strerror}", exit_status=ExitStatus.USAGE
        ) from error


def open_channel(
    address: str, credentials: "grpc.ChannelCredentials | None" = None
) -> "grpc.Channel":
    """A channel to `address`, in plaintext without `credentials`. It connects at the first call.

    The caller closes it.
    """
    import grpc

    service_config = (
        Path(ledger_pb2.__file__).with_name("service_config.json").read_text(encoding="utf-8")
    )
    options = (
        ("grpc.service_config", service_config),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        # A larger message is never retried, whatever the policy says. The default is 256 KiB, and a
        # batch may be larger.
        ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES_MAX),
        # A proxy in the user's environment leads to the web; the ledger is in the internal network.
        ("grpc.enable_http_proxy", 0),
    )
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options=options)
    return grpc.insecure_channel(address, options=options)
