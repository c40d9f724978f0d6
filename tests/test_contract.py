"""Where tools find the contract of an installed package."""

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from ledger.contract import descriptor_set, proto_folder, service_config
from ledger.v1 import account_pb2, error_reason_pb2, ledger_pb2, payment_pb2


def test_descriptor_set_is_the_contract_with_comments() -> None:
    """Every file comes after what it imports, and says what its stubs say."""
    files = {file.name: file for file in FileDescriptorSet.FromString(descriptor_set()).file}
    seen: set[str] = set()
    for name, file in files.items():
        assert set(file.dependency) <= seen, name
        seen.add(name)
    for module in (account_pb2, error_reason_pb2, ledger_pb2, payment_pb2):
        file = files[module.DESCRIPTOR.name]
        assert any(location.leading_comments for location in file.source_code_info.location)
        stubs = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        assert [message.name for message in file.message_type] == [
            message.name for message in stubs.message_type
        ]
        assert file.options == stubs.options
    assert "google/rpc/error_details.proto" in files


def test_files_of_the_contract_are_found() -> None:
    """All that are in the descriptor set, and the service config."""
    described = {
        file.name
        for file in FileDescriptorSet.FromString(descriptor_set()).file
        if file.name.startswith("ledger/")
    }
    found = {str(path.relative_to(proto_folder())) for path in proto_folder().rglob("*.proto")}
    assert found == described
    assert service_config() == (proto_folder() / "ledger" / "v1" / "service_config.json").read_text(
        encoding="utf-8"
    )
