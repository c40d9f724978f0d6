"""Which changes of the contract break a promise to callers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool

from ledger.v1 import ledger_pb2
from scripts.check_contract import broken_promises, contract, elements

PROTO = Path(__file__).parents[2] / "proto"
Change = Callable[[FileDescriptorProto], None]


def lines_with(change: Change) -> list[str]:
    """The elements of ledger.proto after a change of it."""
    file = FileDescriptorProto()
    ledger_pb2.DESCRIPTOR.CopyToProto(file)
    change(file)
    pool = DescriptorPool()
    added: set[str] = set()

    def add(name: str) -> None:
        if name not in added:
            added.add(name)
            found = FileDescriptorProto()
            Default().FindFileByName(name).CopyToProto(found)
            for needed in found.dependency:
                add(needed)
            pool.Add(found)

    for needed in file.dependency:
        add(needed)
    pool.Add(file)
    return list(elements(pool.FindFileByName(file.name)))


def event_field(file: FileDescriptorProto, name: str) -> FieldDescriptorProto:
    (message,) = (kind for kind in file.message_type if kind.name == "ProcessorEvent")
    (field,) = (field for field in message.field if field.name == name)
    return field


def add_field(file: FileDescriptorProto) -> None:
    (message,) = (kind for kind in file.message_type if kind.name == "ProcessorEvent")
    field = message.field.add(name="tip_minor", number=900)
    field.type, field.label = field.TYPE_INT64, field.LABEL_OPTIONAL


def remove_field(file: FileDescriptorProto) -> None:
    (message,) = (kind for kind in file.message_type if kind.name == "ProcessorEvent")
    message.field.remove(event_field(file, "restaurant_id"))


def renumber_field(file: FileDescriptorProto) -> None:
    event_field(file, "restaurant_id").number = 900


def change_type(file: FileDescriptorProto) -> None:
    event_field(file, "restaurant_id").type = FieldDescriptorProto.TYPE_BYTES


def remove_value(file: FileDescriptorProto) -> None:
    (enum,) = (kind for kind in file.enum_type if kind.name == "EventType")
    enum.value.pop()


def make_stream(file: FileDescriptorProto) -> None:
    (method,) = (found for found in file.service[0].method if found.name == "GetBalance")
    method.server_streaming = True


def remove_method(file: FileDescriptorProto) -> None:
    file.service[0].method.pop()


def move_package(file: FileDescriptorProto) -> None:
    file.options.java_package = "example.books.v1"


PRESENT = list(elements(ledger_pb2.DESCRIPTOR))


def test_new_field_breaks_no_promise() -> None:
    """The contract may grow."""
    lines = lines_with(add_field)
    assert len(lines) == len(PRESENT) + 1
    assert broken_promises(PRESENT, lines) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (remove_field, "field ledger.v1.ProcessorEvent.restaurant_id"),
        (renumber_field, "field ledger.v1.ProcessorEvent.restaurant_id"),
        (change_type, "field ledger.v1.ProcessorEvent.restaurant_id"),
        (remove_value, "value ledger.v1.EventType."),
        (make_stream, "rpc ledger.v1.LedgerService.GetBalance"),
        (remove_method, "rpc ledger.v1.LedgerService."),
        (move_package, "option java_package = example.ledger.v1"),
    ],
)
def test_broken_promise_is_named(change: Change, named: str) -> None:
    """It is exactly the element that is gone or has changed."""
    (broken,) = broken_promises(PRESENT, lines_with(change))
    assert named in broken


def test_contract_covers_every_file() -> None:
    """Those of the services and that of the error reasons."""
    files = {str(path.relative_to(PROTO)) for path in PROTO.glob("ledger/v1/*.proto")}
    assert {line.split(":")[0] for line in contract()} == files
