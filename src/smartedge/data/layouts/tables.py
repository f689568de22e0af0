"""Tables of labels beside image files: CSV, TSV and JSON lines."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from smartedge.data.layouts.cells import trimmed, typed
from smartedge.data.raw import refuse_lfs_pointer, refuse_no_file, split_of
from smartedge.errors import DataError, list_some
from smartedge.images.decode import is_hidden, looks_like_base64
from smartedge.types import SplitName

__all__ = ["FILE_COLUMN", "find_table", "leads_out", "read_table", "resolve", "tables_of_splits", "unused_tables"]

FILE_COLUMN = "file_name"  # of what `read_table` returns
_NAMES = ("metadata", "labels", "annotations")  # of a table, in this order
_KINDS = (".csv", ".tsv", ".jsonl")
# Names of the column that holds the file, without what is no letter and in small letters.
_FILE_COLUMNS = (
    *("filename", "file", "filepath", "image", "imagefile", "imagename", "imagepath", "imageid", "imageindex"),
    *("img", "imgname", "imgpath", "path", "id"),
)
_SEPARATOR = re.compile(r"sep=(.)\r?\n")  # with which Excel begins a file
_SWALLOWED = r"(?i)\n[^\n]*\.(png|jpe?g|gif|bmp|tiff?|webp)\b"  # the name of an image in a later line of a cell
_DELIMITERS = (",", ";", "\t", "|")
_MARKED = (  # byte order marks of wide encodings; that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def find_table(folder: Path) -> Path | None:
    """The table of labels in a folder: ``metadata``, ``labels`` or ``annotations``; or None.

    A table of another name counts where one of its columns names images, and it is called ``train`` or is the only one.

    Raises:
        DataError: two files have one of these names.
    """
    files = _tables(folder)
    for name in _NAMES:
        found = [file for file in files if file.stem.lower() == name]
        if len(found) > 1:
            raise DataError(f"{' and '.join(map(str, found))} are both there; leave one of them")
        if found:
            return found[0]
    naming = [file for file in files if _names_images(file)]
    of_training = [file for file in naming if split_of(file.stem) == "train"]
    if len(of_training) == 1:
        return of_training[0]
    return files[0] if len(files) == 1 and naming else None


def unused_tables(folder: Path, used: Path) -> list[str]:
    """Notes on the other tables in a folder that name images."""
    others = [file for file in _tables(folder) if file != used and (file.stem.lower() in _NAMES or _names_images(file))]
    return [f"{list_some(file.name for file in others)} in {folder} is not used: labels are those of {used.name}"][
        : len(others)
    ]


def tables_of_splits(folder: Path) -> dict[SplitName, Path]:
    """The tables in a folder that name images and whose own names are those of splits: ``train.csv``, ``test.csv``.

    Raises:
        DataError: two of them are of the same split.
    """
    found: dict[SplitName, Path] = {}
    for file in _tables(folder):
        if (split := split_of(file.stem)) and _names_images(file):
            if split in found:
                raise DataError(f"{found[split]} and {file} are both the {split} split; leave one of them")
            found[split] = file
    return found


def _tables(folder: Path) -> list[Path]:
    named = (file for file in folder.iterdir() if file.suffix.lower() in _KINDS and not is_hidden(file.name))
    return sorted(refuse_no_file(file) for file in named if not file.is_dir())


def _names_images(file: Path) -> bool:
    """Whether the first line of a table has the name of a column of images."""
    if file.suffix.lower() == ".jsonl":
        return False
    with file.open(encoding="latin-1") as opened:
        lines = (opened.readline(1 << 16) for _ in range(2))
        first = next((line for line in lines if not _SEPARATOR.match(line)), "")
        return _named_file_column(re.split("[,;\t|]", first)) is not None


def read_table(file: Path) -> tuple[pa.Table, list[str]]:
    """A table whose column ``FILE_COLUMN`` names the image of each row ("" where a row names none), and notes.

    The encoding is UTF-8, or what a byte order mark says, or else Windows-1252. Columns are divided by commas,
    semicolons, tabs or upright bars, whichever the first line has most of. Spaces around a cell do not count.

    Raises:
        DataError: the file cannot be read, has two columns of one name, or no column that names the images.
    """
    notes: list[str] = []
    try:
        data = file.read_bytes()
        _refuse_no_text(file, data)
        text = _decode(file, data, notes)
        json_lines = file.suffix.lower() == ".jsonl"
        table = pa.json.read_json(io.BytesIO(text.encode())) if json_lines else _read_csv(file, text, notes)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} cannot be read: {error}. Every line needs the same columns as the first one, which names them"
        ) from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file} has more than one column {', '.join(map(repr, twice))}; rename one")
    column = _file_column(file, names)
    if column != FILE_COLUMN:
        notes.append(f"{file}: column {column!r} is taken for the images' files")
    files = pc.fill_null(table[column].cast(pa.string()), "")
    return table.drop_columns([column]).append_column(FILE_COLUMN, files), notes


def _read_csv(file: Path, text: str, notes: list[str]) -> pa.Table:
    text = text.lstrip("\r\n")
    if said := _SEPARATOR.match(text):
        text = text[said.end() :]
    first = text.splitlines()[:1]
    delimiter = said[1] if said else max(_DELIMITERS, key=first[0].count) if first else ","
    data = text.rstrip("\r\n\x1a").encode() + b"\n"  # Ctrl-Z ended files of DOS
    parsing = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    names = pa.csv.open_csv(io.BytesIO(data), parse_options=parsing).schema.names
    as_texts = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
    table = pa.csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=as_texts)
    names = [name.strip() for name in names]
    naming = _named_file_column(names)
    columns: list[pa.ChunkedArray] = []
    for name, column in zip(names, table.columns, strict=True):
        texts, words = trimmed(column)
        if pc.any(pc.match_substring_regex(texts, _SWALLOWED)).as_py():
            cell = pc.filter(texts, pc.match_substring_regex(texts, _SWALLOWED))[0].as_py().splitlines()[0]
            raise DataError(
                f"{file}: the cell that begins with {cell[:40]!r} holds the rows below it, since a quotation mark is "
                "not closed; close or remove it"
            )
        if words:
            notes.append(f"{file}: cells {', '.join(words)} of column {name!r} are taken for lacking values")
        columns.append(texts if name == naming else typed(texts, decimal_comma=delimiter == ";"))
    filled = reduce(pc.or_, (column.is_valid() for column in columns))
    return pa.Table.from_arrays(columns, names).filter(filled)  # spreadsheets write rows of commas alone


def _refuse_no_text(file: Path, data: bytes) -> None:
    refuse_lfs_pointer(file)
    if data.startswith(b"PK\x03\x04") or (b"\0" in data[:4096] and not _marked(data)):
        raise DataError(f"{file} is no text, though its name says so; save it as CSV in UTF-8")


def _decode(file: Path, data: bytes, notes: list[str]) -> str:
    if wide := _marked(data):
        try:
            return data.decode(wide)
        except UnicodeDecodeError as error:
            raise DataError(f"{file} begins as {wide}, but byte {error.start} is not; save it as UTF-8") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file} is neither UTF-8 nor Windows-1252 (byte {error.start}); save it as UTF-8"
            ) from error
        _refuse_mixed(file, data)
        example = next(word for word in re.findall(r"\w*[^\x00-\x7f][^\s,;|\"]*", text))[:30]
        notes.append(
            f"{file} is not UTF-8; it was read as Windows-1252, so that one word in it is {example!r}. If this is "
            "not the right word, save the file as UTF-8"
        )
        return text


def _marked(data: bytes) -> str:
    """The wide encoding that a byte order mark names; empty where there is none."""
    return next((encoding for mark, encoding in _MARKED if data.startswith(mark)), "")


def _refuse_mixed(file: Path, data: bytes) -> None:
    """Refuse a file of which some lines are UTF-8 and others are not: one name would be read in two ways."""
    first: dict[bool, int] = {}  # whether a line is UTF-8 → its number, of lines that show it
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.isascii():
            first.setdefault(_is_utf8(line), number)
    if len(first) > 1:
        raise DataError(
            f"{file} is written in two encodings: line {first[True]} is UTF-8, and line {first[False]} is not; save it "
            "as UTF-8"
        )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _named_file_column(names: Sequence[str]) -> str | None:
    simple = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(names)}
    return next((simple[known] for known in _FILE_COLUMNS if known in simple), None)


def _file_column(file: Path, names: Sequence[str]) -> str:
    if (column := _named_file_column(names)) is not None:
        return column
    raise DataError(
        f"{file} has no column {FILE_COLUMN!r}, the image of each row. Its columns, which the first line names, are: "
        f"{', '.join(names)}; rename the one that names the images, or add such a first line"
    )


def resolve(folder: Path, names: Sequence[str], files: Iterable[Path]) -> list[Path]:
    """The file of each name: the one at that place in ``folder``, else the only one in ``files`` of that name or stem.

    Names may differ in case, where no file has the very name.

    Raises:
        DataError: a name leads out of the folder, or the column holds the images themselves as texts in base64.
    """
    if encoded := next((name for name in names if looks_like_base64(name)), None):
        raise DataError(
            f"{folder}: the table holds images as texts in base64 ({encoded[:12]}...), which are not read; decode "
            "them, write a file for each, and name the files"
        )
    names = [_within(folder, name) for name in names]
    places = [folder / name for name in names]
    if outside := [name for name in names if leads_out(name)]:
        raise DataError(
            f"{folder}: the table names files outside the folder: {list_some(outside, 3)}; write the names of files "
            f"as they are below {folder}"
        )
    if all(place.is_file() for place in places if place != folder):
        return places
    known: dict[str, list[Path]] = {}
    for file in files:
        for key in {file.name, file.stem, _folded(file.name)}:
            known.setdefault(key, []).append(file)
    return [
        place if place.is_file() else _only(known, Path(name).name) or place
        for place, name in zip(places, names, strict=True)
    ]


def _only(known: Mapping[str, Sequence[Path]], name: str) -> Path | None:
    """The only file of a name, or else the only one whose name differs as other systems write it."""
    found = known.get(name) or known.get(_folded(name), ())
    return found[0] if len(found) == 1 else None


def _folded(name: str) -> str:
    """The name without case, as Windows compares names, and with whole letters: macOS writes é as e and an accent."""
    return unicodedata.normalize("NFC", name).casefold()


def _within(folder: Path, name: str) -> str:
    """A name relative to the folder where it is a whole path into it, and with slashes where it came from Windows."""
    if "\\" in name and not (folder / name).is_file():
        name = name.replace("\\", "/")
    if name.startswith("/") and Path(name).is_relative_to(folder.absolute()):
        return str(Path(name).relative_to(folder.absolute()))
    return name


def leads_out(name: str) -> bool:
    """Whether the name of a file may lead out of the folder in which it is looked for."""
    return name.startswith("/") or re.match("[A-Za-z]:/", name) is not None or ".." in Path(name).parts
