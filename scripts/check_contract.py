"""Checks that the contract only grew since the last release.

`proto/released.txt` lists what the last release promised, one element a line: messages, fields with
number, type and label, enum values, methods, and the package of each language. Each must still be
there, unchanged. Comments, new
elements and their order are free. `--release` writes the list; a release does so
(docs/releasing.md).

Finds the wire and source breaks that `buf breaking` finds in its category FILE, without buf.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from ledger.v1 import account_pb2, error_reason_pb2, ledger_pb2, payment_pb2

RELEASED = Path(__file__).resolve().parent.parent / "proto" / "released.txt"
HEADER = (
    "# What the last release of the contract promised; scripts/check_contract.py writes this.\n"
)


def elements(file: FileDescriptor) -> Iterator[str]:
    """Everything a client may rely on in a file of the contract, one element a line."""
    where = f"{file.name}: "
    for option, value in file.GetOptions().ListFields():
        yield f"{where}option {option.name} = {value}"
    for message in file.message_types_by_name.values():
        yield from (where + line for line in _of_message(message))
    for enum in file.enum_types_by_name.values():
        yield from (where + line for line in _of_enum(enum))
    for service in file.services_by_name.values():
        for method in service.methods:
            takes = "stream " * method.client_streaming + method.input_type.full_name
            returns = "stream " * method.server_streaming + method.output_type.full_name
            yield f"{where}rpc {method.full_name}({takes}) returns ({returns})"


def _of_message(message: Descriptor) -> Iterator[str]:
    yield f"message {message.full_name}"
    for field in message.fields:
        yield f"field {field.full_name} = {field.number}: {_type_of(field)}"
    for nested in message.nested_types:
        yield from _of_message(nested)
    for enum in message.enum_types:
        yield from _of_enum(enum)


def _type_of(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        kind = field.message_type.full_name
    elif field.enum_type is not None:
        kind = field.enum_type.full_name
    else:
        names = {
            number: name.removeprefix("TYPE_").lower()
            for name, number in vars(FieldDescriptor).items()
            if name.startswith("TYPE_")
        }
        kind = names[field.type]
    label = "repeated " if field.is_repeated else "optional " if field.has_presence else ""
    oneof = field.containing_oneof
    is_of_oneof = oneof is not None and not oneof.name.startswith("_")
    return f"{label}{kind}" + (f" in {oneof.name}" if is_of_oneof and oneof is not None else "")


def _of_enum(enum: EnumDescriptor) -> Iterator[str]:
    yield f"enum {enum.full_name}"
    for value in enum.values:
        yield f"value {enum.full_name}.{value.name} = {value.number}"


def contract() -> list[str]:
    """The elements of the whole contract, sorted."""
    modules = (ledger_pb2, account_pb2, payment_pb2, error_reason_pb2)
    return sorted(line for module in modules for line in elements(module.DESCRIPTOR))


def broken_promises(released: list[str], current: list[str]) -> list[str]:
    """The released elements that are gone or have changed."""
    kept = set(current)
    return [line for line in released if line not in kept]


def main() -> int:
    current = contract()
    if "--release" in sys.argv[1:]:
        RELEASED.write_text(HEADER + "".join(f"{line}\n" for line in current), encoding="utf-8")
        return 0
    lines = RELEASED.read_text(encoding="utf-8").splitlines()
    broken = broken_promises([line for line in lines if not line.startswith("#")], current)
    for line in broken:
        print(f"the contract breaks a promise of the last release: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
