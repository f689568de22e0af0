from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec.bits import pack_bits, packed_size, unpack_bits


def slowly(values: list[int], width: int) -> bytes:
    """The numbers as one long binary number, the first one lowest."""
    whole = sum(value << (width * place) for place, value in enumerate(values))
    return whole.to_bytes((len(values) * width + 7) // 8, "little")


@pytest.mark.parametrize("width", range(1, 9))
@given(data=st.data())
def test_numbers_lie_side_by_side(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=40))
    packed = pack_bits(np.array(values, np.uint8), width)
    assert packed == slowly(values, width)
    assert len(packed) == packed_size(len(values), width)
    assert unpack_bits(packed, width, len(values)).tolist() == values
