# SPDX-License-Identifier: Apache-2.0
"""Tables of messages in, classes of protobuf out: no generated code, and no compiler when bpfence is built.

Called by whoever speaks an interface of gRPC. A table has what is used of the interface, by its numbers; all else in a message is passed
over, or found by `unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bpfence.errors import KernelError

Fields = tuple[tuple[str, int, str], ...]
"""Name, number, type. A type is a scalar of protobuf, a message or an enumeration of the same table, one of KNOWN, or `map`, of text to
text. `*` before it: repeated; `?`: present or not, whatever its value (a member of a oneof is the same on the wire)."""
SCALARS: Final = ("string", "bytes", "bool", "int32", "int64", "uint32", "uint64")
KNOWN: Final = {
    "Timestamp": "timestamp", "Duration": "duration", "FieldMask": "field_mask",
    "BoolValue": "wrappers", "UInt32Value": "wrappers", "Int32Value": "wrappers",
}  # fmt: skip
"""Messages of google.protobuf, each with its file."""
NEEDED: Final = "needs grpcio and protobuf: pip install 'bpfence[grpc]'"


def classes(package: str, messages: Mapping[str, Fields], enums: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, Any]:
    """The classes of messages by their names. KernelError where protobuf is not installed.

    `enums`: enumerations, each with its numbers by name.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise KernelError(NEEDED, missing="protobuf") from None
    enums = enums or {}
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    pool = descriptor_pool.DescriptorPool()
    for part in sorted({KNOWN[_bare(kind)] for fields in messages.values() for _, _, kind in fields if _bare(kind) in KNOWN}):
        pool.Add(_known(part))
        file.dependency.append(f"google/protobuf/{part}.proto")
    for name, values in enums.items():
        made = file.enum_type.add(name=name)
        for value, number in sorted(values.items(), key=lambda item: item[1]):
            made.value.add(name=value, number=number)
    for name, fields in messages.items():
        _add(file.message_type.add(name=name), package, fields, enums)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


def _bare(kind: str) -> str:
    return kind.lstrip("*?")


def _known(part: str) -> Any:
    """The description of a file of google.protobuf."""
    from importlib import import_module

    from google.protobuf import descriptor_pb2

    made = descriptor_pb2.FileDescriptorProto()
    import_module(f"google.protobuf.{part}_pb2").DESCRIPTOR.CopyToProto(made)
    return made


def _add(message: Any, package: str, fields: Fields, enums: Mapping[str, Mapping[str, int]]) -> None:
    from google.protobuf import descriptor_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    for field, number, kind in fields:
        one = _bare(kind)
        repeated = kind.startswith("*") or one == "map"
        made = message.field.add(name=field, number=number, label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL)
        if kind.startswith("?"):
            made.proto3_optional, made.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field}")
        if one in SCALARS:
            made.type = getattr(kinds, f"TYPE_{one.upper()}")
        elif one in enums:
            made.type, made.type_name = kinds.TYPE_ENUM, f".{package}.{one}"
        elif one == "map":
            entry = message.nested_type.add(name="".join(part[:1].upper() + part[1:] for part in field.split("_")) + "Entry")
            entry.options.map_entry = True
            for number_of_part, part in ((1, "key"), (2, "value")):
                entry.field.add(name=part, number=number_of_part, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
            made.type, made.type_name = kinds.TYPE_MESSAGE, f".{package}.{message.name}.{entry.name}"
        else:
            made.type = kinds.TYPE_MESSAGE
            made.type_name = f".google.protobuf.{one}" if one in KNOWN else f".{package}.{one}"


def unknown(message: Any) -> int | None:
    """The number of a field that somebody has set and the table does not have, in a message or in those below it; None: there is none."""
    from google.protobuf import unknown_fields

    found = next((field.field_number for field in unknown_fields.UnknownFieldSet(message)), None)
    if found is not None:
        return int(found)
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in value if not hasattr(value, "ListFields") else (value,):
            if (below := unknown(one)) is not None:
                return below
    return None
