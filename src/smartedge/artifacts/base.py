"""The base of all JSON files of smartedge: how they are written, read, checked and refused."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from typing_extensions import Self

from smartedge.errors import RunError, SmartEdgeError
from smartedge.files import open_regular, read_small, write_json_atomically

__all__ = ["Artifact", "CheckedArtifact", "Part", "checksum_without_check", "json_checksum"]

Fields = dict[str, JsonValue]


def json_checksum(value: object) -> int:
    """The CRC-32 of a value as JSON with sorted keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


class Part(BaseModel):
    """A part of a file. Its fields cannot be changed, and no other fields are accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="constants")


class Artifact(Part):
    """A JSON file. A subclass declares ``schema_version: Literal[N] = N``, the only version that it writes and knows.

    The version grows with every change of the keys or of their meaning.

    Attributes:
        error: what :meth:`read` raises.
        missing: what the user should do where the file is not there.
        remedy: what the user should do where the file is damaged, or of an older version.
        page: the page of the documentation that describes the file.
    """

    error: ClassVar[type[SmartEdgeError]] = RunError
    missing: ClassVar[str]
    remedy: ClassVar[str]
    page: ClassVar[str]

    schema_version: int

    @classmethod
    def known_version(cls) -> int:
        """The version that this program writes and knows."""
        return int(cls.model_fields["schema_version"].default)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a file.

        Raises:
            SmartEdgeError: of the class ``error``: the file is not there, is damaged, is of another version, or lacks
                a key. The message names the file and says what to do.
        """
        try:
            with open_regular(path) as file:
                text = read_small(file)
        except FileNotFoundError as error:
            raise cls.error(f"{path}: is not there; {cls.missing}") from error
        except OSError as error:
            raise cls.error(f"{path}: cannot be read ({error.strerror}); {cls.missing}") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: bytes, place: Path | str) -> Self:
        """Check the content of a file.

        Args:
            text: the content.
            place: where it was read; errors name it.

        Raises:
            SmartEdgeError: as :meth:`read`.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise cls.error(f"{place}: is damaged: it is not JSON ({error}); {cls.remedy}") from error
        return cls._checked(fields, place)

    @classmethod
    def read_if_there(cls, path: Path) -> Self | None:
        """As :meth:`read`; None where the file is not there."""
        return cls.read(path) if path.exists() else None

    def write(self, path: Path) -> None:
        """Put the file in place, whole or not at all (:func:`smartedge.files.write_json_atomically`).

        Raises:
            OSError: the disk does not take it.
            ValueError: a number is NaN or infinite.
        """
        write_json_atomically(path, self.as_json())

    def as_json(self) -> Fields:
        """The content of the file, as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def upgraded(cls, fields: Fields) -> Fields:
        """Turn fields of an older version into those of the known one. Classes that read older files override it."""
        return fields

    @classmethod
    def _keys(cls) -> set[str]:
        """Those that every file of this kind has, as they stand in it."""
        return {field.alias or name for name, field in cls.model_fields.items() if field.is_required()}

    @classmethod
    def _checked(cls, fields: object, place: Path | str) -> Self:
        if not isinstance(fields, dict):
            raise cls.error(f"{place}: is damaged: it does not hold a JSON object; {cls.remedy}")
        fields = cls.upgraded(fields)
        version, known = fields.get("schema_version"), cls.known_version()
        if version != known:
            if 2 * len(cls._keys() & fields.keys()) < len(cls._keys()):
                raise cls.error(f"{place}: is a file of another kind; {cls.page} says what belongs there; {cls.remedy}")
            newer = isinstance(version, int) and version > known
            advice = "read it with the smartedge version that wrote it, or a later one" if newer else cls.remedy
            raise cls.error(f"{place}: is of version {version}, and this program knows {known}; {advice}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise cls.error(f"{place}: {_in_words(error)}; {cls.page} says what belongs there; {cls.remedy}") from error


class CheckedArtifact(Artifact):
    """A file that holds its own checksum: a value that was damaged, and could be another one, is an error.

    For files whose content nothing else checks. The field is filled when the file is written.
    """

    check: int = Field(0, description="CRC-32 of all other keys, as JSON with sorted keys")

    def as_json(self) -> Fields:
        """The content of the file with its checksum, as JSON values."""
        fields = super().as_json()
        return {**fields, "check": checksum_without_check(fields)}

    @classmethod
    def _checked(cls, fields: object, place: Path | str) -> Self:
        if (
            isinstance(fields, dict)
            and fields.get("schema_version") == cls.known_version()
            and fields.get("check") != checksum_without_check(fields)
        ):
            raise cls.error(f"{place}: is damaged: it does not match the checksum in it; {cls.remedy}")
        return super()._checked(fields, place)


def checksum_without_check(fields: Fields) -> int:
    """The CRC-32 of all keys but ``check``, which holds it."""
    return json_checksum({key: value for key, value in fields.items() if key != "check"})


def _in_words(error: ValidationError) -> str:
    """All keys that are missing; else the first error."""
    found = error.errors(include_url=False)
    if missing := [_place(each["loc"]) for each in found if each["type"] == "missing"]:
        return f"lacks {', '.join(missing)}"
    return f"{_place(found[0]['loc']) or 'the file'}: {found[0]['msg']}"


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))
