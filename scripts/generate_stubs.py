"""Generates `src/ledger/v1` from `proto/`.

With `--check` it only compares, and fails if what is committed is stale. With `--image FILE` it
writes the contract and everything it imports as one file, for buf.

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
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "src" / "ledger" / "v1"
SERVICE_CONFIG = "service_config.json"


def run_protoc(*outputs: str) -> None:
    """Runs protoc over the contract. Raises RuntimeError when it fails."""
    well_known_types = files("grpc_tools") / "_proto"
    # google.rpc and google.type ship their .proto files next to their modules.
    common_protos = Path(next(iter(google.rpc.__path__))).parent.parent
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("ledger/v1/*.proto"))
    if (
        protoc.main(
            [
                "protoc",
                f"-I{PROTO}",
                f"-I{well_known_types}",
                f"-I{common_protos}",
                *outputs,
                *sources,
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
        '"""The contract: messages, stubs and the service config, as `make proto` generates '
        'them."""\n'
    )
    shutil.copy(PROTO / "ledger" / "v1" / SERVICE_CONFIG, folder / SERVICE_CONFIG)
    return folder


def main() -> int:
    if sys.argv[1:2] == ["--image"]:
        run_protoc(
            "--include_imports", "--include_source_info", f"--descriptor_set_out={sys.argv[2]}"
        )
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        names = sorted(path.name for path in fresh.iterdir())
        if "--check" not in sys.argv[1:]:
            shutil.rmtree(STUBS, ignore_errors=True)
            shutil.copytree(fresh, STUBS)
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
