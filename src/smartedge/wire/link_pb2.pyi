from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Up(_message.Message):
    __slots__ = ("header", "frame")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    frame: Frame
    def __init__(self, header: _Optional[bytes] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("head", "payload", "more")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    payload: bytes
    more: bool
    def __init__(self, head: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., more: bool = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("confirmed", "answer")
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    confirmed: int
    answer: Frame
    def __init__(self, confirmed: _Optional[int] = ..., answer: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...
