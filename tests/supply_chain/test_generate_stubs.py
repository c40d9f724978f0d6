"""The files that buf needs to build the contract in `proto/` without a network."""

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc
from ruamel.yaml import YAML

from scripts.generate_stubs import IMPORTS, PROTO, ROOT, copy_imports


def test_contract_builds_with_the_copied_imports(tmp_path: Path) -> None:
    """And with the types that every compiler brings along: as buf does it, by its file."""
    modules = [module["path"] for module in YAML().load(ROOT / "buf.yaml")["modules"]]
    assert [ROOT / module for module in modules] == [PROTO, IMPORTS]
    copy_imports(tmp_path)
    includes = [f"-I{folder}" for folder in (PROTO, tmp_path, files("grpc_tools") / "_proto")]
    sources = [str(path) for path in PROTO.glob("ledger/v1/*.proto")]
    output = f"--descriptor_set_out={tmp_path / 'contract.binpb'}"
    assert protoc.main(["protoc", *includes, output, *sources]) == 0
    assert {path.parent.name for path in tmp_path.rglob("*.proto")} == {"rpc", "type"}
