"""Cells of a text table: which of them are empty, and whether a column holds numbers, yes/no values or texts."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["LACKING", "trimmed", "typed"]

# Words for a value that is not there.
LACKING = ("#N/A", "#NA", "N/A", "NA", "NULL", "NaN", "<NA>", "n/a", "nan", "null")
_WHOLE = r"^[+-]?\d+$"
_FRACTION = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_COMMA = r"^[+-]?\d+(,\d+)?$"
_ZERO_LED = r"^[+-]?0\d"
_FIRST = 100  # cells that are looked at before all are


def trimmed(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[str]]:
    """Texts without spaces around them, null where nothing is left; and the words in ``LACKING`` that became null."""
    column = pc.utf8_trim_whitespace(column)
    lacking = pc.is_in(column, value_set=pa.array(LACKING))
    words = pc.unique(column.filter(lacking)).to_pylist()
    return pc.if_else(pc.or_(lacking, pc.equal(column, "")), None, column), words


def typed(column: pa.ChunkedArray, *, decimal_comma: bool) -> pa.ChunkedArray:
    """Texts as int64, float64 or booleans where all of them are written so.

    Numbers that begin with a zero, such as 007, stay texts: they are codes. So do whole numbers beyond 64 bits.

    Args:
        column: texts and nulls, as :func:`trimmed` gives them.
        decimal_comma: whether 0,5 is a number.
    """
    known = pc.drop_null(column)
    if not len(known):
        return pa.chunked_array([pa.nulls(len(column))])
    if _all_match(known, r"(?i)^(true|false)$"):
        return column.cast(pa.bool_())
    if pc.any(pc.match_substring_regex(known, _ZERO_LED)).as_py():
        return column
    if _all_match(known, _WHOLE):
        try:
            return pc.utf8_ltrim(column, "+").cast(pa.int64())
        except pa.ArrowInvalid:
            return column
    if _all_match(known, _FRACTION):
        return pc.utf8_ltrim(column, "+").cast(pa.float64())
    if decimal_comma and _all_match(known, _COMMA):
        return pc.replace_substring(pc.utf8_ltrim(column, "+"), ",", ".").cast(pa.float64())
    return column


def _all_match(texts: pa.ChunkedArray, pattern: str) -> bool:
    return all(pc.all(pc.match_substring_regex(some, pattern)).as_py() for some in (texts[:_FIRST], texts))
