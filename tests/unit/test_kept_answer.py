"""The text of a resumable answer, by offsets in code points."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.api.kept_answer import BLOCK_CHARS, Text

LENGTHS = st.lists(st.one_of(st.integers(0, 9), st.integers(BLOCK_CHARS - 2, 2 * BLOCK_CHARS + 2)), max_size=8)


@given(lengths=LENGTHS, data=st.data())
def test_the_pieces_from_any_offset_are_the_rest_of_the_text(lengths: list[int], data: st.DataObject) -> None:
    whole = "".join(chr(0x1F600 + number % 80) for number in range(sum(lengths)))
    text, start = Text(), 0
    for length in lengths:
        text.append(whole[start : start + length])
        start += length
    assert len(text) == len(whole)
    begin = offset = data.draw(st.integers(0, len(whole)))
    pieces = []
    while piece := text.piece(offset):
        assert len(piece) <= BLOCK_CHARS
        pieces.append(piece)
        offset += len(piece)
    assert "".join(pieces) == whole[begin:]
