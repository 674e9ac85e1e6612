"""Values in the protocol's messages."""

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct


def value_of(message):
    """Return a message's properties; its numbers have no kind, so whole ones become integers."""
    return _whole(MessageToDict(message))


def message_of(value):
    return ParseDict(value, Struct())


def _whole(value):
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
