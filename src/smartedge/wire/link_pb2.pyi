from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

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

class Ask(_message.Message):
    __slots__ = ("run", "name", "offset", "settings", "begun")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    name: str
    offset: int
    settings: str
    begun: str
    def __init__(self, run: _Optional[str] = ..., name: _Optional[str] = ..., offset: _Optional[int] = ..., settings: _Optional[str] = ..., begun: _Optional[str] = ...) -> None: ...

class Told(_message.Message):
    __slots__ = ("edge", "files", "content")
    EDGE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    edge: str
    files: _containers.RepeatedCompositeFieldContainer[File]
    content: bytes
    def __init__(self, edge: _Optional[str] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., content: _Optional[bytes] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
