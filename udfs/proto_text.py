"""The text of a `.proto` file to descriptors, by protoc itself as grpcio-tools carries it.

protoc reads files: it gets a scratch folder for the moment, which changes no result.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor

MAIN_FILE = "millrace_schema.proto"


class ProtoTextError(ValueError):
    """The text is no `.proto` file, or imports one that is not there; says what protoc says."""


def compile_proto(text: str, imported: Sequence[tuple[str, str]] = ()) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors of a file and of all that it imports.

    Args:
        text: The file.
        imported: (name as in its import, text) of each file that it or another of these imports; Google's well-known
            types need not be given.

    Raises:
        ProtoTextError: protoc refuses it.
    """
    # only who reads Protobuf waits for this import
    import grpc_tools
    from grpc_tools import _protoc_compiler, protoc

    well_known = str(Path(grpc_tools.__file__).parent / "_proto")
    with tempfile.TemporaryDirectory(prefix="millrace-proto-") as scratch:
        folder = Path(scratch)
        for name, other in (*imported, (MAIN_FILE, text)):
            _place(folder, name).write_text(other, "utf-8")
        found = folder / "descriptors"
        try:
            # protoc's own errors go to the process's standard error: this says the same as an exception
            _protoc_compiler.get_protos(MAIN_FILE.encode(), [scratch.encode(), well_known.encode()])
        except Exception as error:  # it has several kinds
            raise ProtoTextError(_message(error)) from error
        arguments = ["protoc", f"-I{scratch}", f"-I{well_known}", f"--descriptor_set_out={found}", "--include_imports"]
        if protoc.main([*arguments, MAIN_FILE]) != 0:
            raise ProtoTextError("protoc refuses it")
        return descriptor_pb2.FileDescriptorSet.FromString(found.read_bytes())


def _place(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ProtoTextError(f"an import is called {name!r}")
    place = folder.joinpath(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _message(error: Exception) -> str:
    first = error.args[0] if error.args else error
    parts = first if isinstance(first, (list, tuple)) else [first]
    said = []
    for part in parts:
        text = getattr(part, "message", None)
        line = getattr(part, "line", None)
        said.append(str(part) if text is None else f"line {int(line or 0) + 1}: {_text(text)}")
    return "; ".join(said)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def messages_of(descriptors: descriptor_pb2.FileDescriptorSet) -> list[Descriptor]:
    """The messages of the file itself, in its order."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    main = pool.FindFileByName(MAIN_FILE)
    return [main.message_types_by_name[one.name] for one in descriptors.file[-1].message_type]
