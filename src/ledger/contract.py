"""The contract as files, for tools and for generators of other languages.

A wheel has them; in a checkout they are in `proto/`.
"""

from importlib.resources import files
from pathlib import Path

from ledger.resources import resource


def proto_folder() -> Path:
    """The folder below which the contract's .proto files are: `ledger/v1/ledger.proto` and others.

    They import google/rpc and google/type, whose files the package googleapis-common-protos has.
    """
    return resource("proto")


def descriptor_set() -> bytes:
    """A google.protobuf.FileDescriptorSet of the contract, with all that it imports and comments.

    It also has google/rpc/error_details.proto, whose messages come with errors.
    """
    return files("ledger.v1").joinpath("ledger.binpb").read_bytes()


def service_config() -> str:
    """The recommended deadlines and retries of every method, as gRPC's JSON."""
    return files("ledger.v1").joinpath("service_config.json").read_text(encoding="utf-8")
