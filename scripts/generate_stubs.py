"""Generates `src/ledger/v1` from `proto/`.

With `--check` it only compares, and fails if what is committed is stale. With `--imports FOLDER` it
only copies what the contract imports of google.rpc and google.type, for buf.

The package `ledger.v1` and the folder `ledger/v1` have the same name, so the imports of the
generated code need no change.
"""

import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import google.rpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "src" / "ledger" / "v1"
IMPORTS = ROOT / ".cache" / "imports"
SERVICE_CONFIG = "service_config.json"
DESCRIPTOR_SET = "ledger.binpb"
# google.rpc and google.type ship their .proto files next to their modules.
COMMON_PROTOS = Path(next(iter(google.rpc.__path__))).parent.parent
# The details of errors. No file of the contract imports them.
ERROR_DETAILS = "google/rpc/error_details.proto"


def run_protoc(*outputs: str, also: tuple[str, ...] = ()) -> None:
    """Runs protoc over the contract, and the files in `also`. Raises RuntimeError when it fails."""
    well_known_types = files("grpc_tools") / "_proto"
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("ledger/v1/*.proto"))
    if (
        protoc.main(
            [
                "protoc",
                f"-I{PROTO}",
                f"-I{well_known_types}",
                f"-I{COMMON_PROTOS}",
                *outputs,
                *sources,
                *also,
            ]
        )
        != 0
    ):
        raise RuntimeError("protoc failed; its messages are above")


def generate(target: Path) -> Path:
    """Generates below `target`; returns the folder of the modules. Raises RuntimeError."""
    plugins = Path(sys.executable).parent
    run_protoc(
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet,readable_stubs:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    )
    folder = target / "ledger" / "v1"
    # A proto file without a service needs no gRPC module.
    for module in folder.glob("error_reason_pb2_grpc.py*"):
        module.unlink()
    (folder / "__init__.py").write_text(
        '"""The contract: messages, stubs, the service config and the descriptor set, as `make '
        'proto` generates them."""\n'
    )
    shutil.copy(PROTO / "ledger" / "v1" / SERVICE_CONFIG, folder / SERVICE_CONFIG)
    run_protoc(
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={folder / DESCRIPTOR_SET}",
        also=(ERROR_DETAILS,),
    )
    return folder


def copy_imports(target: Path) -> None:
    """Copies the files of google.rpc and google.type that the descriptor set has to `target`."""
    described = FileDescriptorSet.FromString((STUBS / DESCRIPTOR_SET).read_bytes())
    for file in described.file:
        if file.name.startswith("google/") and not file.name.startswith("google/protobuf/"):
            (target / file.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(COMMON_PROTOS / file.name, target / file.name)


def main() -> int:
    if sys.argv[1:2] == ["--imports"]:
        copy_imports(Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        names = sorted(path.name for path in fresh.iterdir())
        if "--check" not in sys.argv[1:]:
            shutil.rmtree(STUBS, ignore_errors=True)
            shutil.copytree(fresh, STUBS)
            copy_imports(IMPORTS)
            return 0
        committed = sorted(path.name for path in STUBS.iterdir() if path.is_file())
        _, differing, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
        stale = sorted({*differing, *missing, *(set(committed) - set(names))})
        if stale:
            print(
                f"src/ledger/v1 is not what proto/ generates: {', '.join(stale)}. Run: make proto",
                file=sys.stderr,
            )
            return 1
        return 0


if __name__ == "__main__":
    sys.exit(main())
