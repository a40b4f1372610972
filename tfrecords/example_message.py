"""`tf.train.Example` as far as records need it: features of bytes. Without importing TensorFlow."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "tfrecords"


def _make() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="tfrecords/example.proto", package=_PACKAGE, syntax="proto3"
    )

    def field(owner: Any, name: str, number: int, kind: Any, repeated: bool = False) -> None:
        added = owner.field.add(
            name=name,
            number=number,
            label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
        )
        if isinstance(kind, str):
            added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
        else:
            added.type = kind

    # The numbers are those of feature.proto and example.proto.
    field(file.message_type.add(name="BytesList"), "value", 1, _FIELD.TYPE_BYTES, repeated=True)
    field(file.message_type.add(name="Feature"), "bytes_list", 1, "BytesList")
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, _FIELD.TYPE_STRING)
    field(entry, "value", 2, "Feature")
    field(features, "feature", 1, "Features.FeatureEntry", repeated=True)
    field(file.message_type.add(name="Example"), "features", 1, "Features")
    # A pool of its own: TensorFlow's messages are in the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


Example = _make()
