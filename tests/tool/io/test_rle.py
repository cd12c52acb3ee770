"""Run-length codes against pycocotools and label-studio-converter, and broken ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio import decode_brush
from pycocotools import mask as coco

from tool.io.rle import read_brush, read_coco, write_brush

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
masks = arrays(bool, st.tuples(st.integers(1, 13), st.integers(1, 13)))
LONG = np.zeros((300, 260), bool)
LONG[100:], LONG[7, 3:9] = True, True  # runs of more than 65,536 bytes


@settings(max_examples=50)
@given(masks)
def test_cocos_code_is_that_of_pycocotools(mask):
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    assert np.array_equal(read_coco({"size": code["size"], "counts": code["counts"].decode()}, mask.shape), mask)


def test_cocos_counts_go_down_the_columns():
    assert read_coco({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3)).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert read_coco({"size": [2, 3], "counts": [0, 6]}, (2, 3)).all()
    with_long = coco.encode(np.asfortranarray(LONG, np.uint8))
    assert np.array_equal(read_coco({"size": [300, 260], "counts": with_long["counts"].decode()}, (300, 260)), LONG)


@settings(max_examples=50)
@given(masks)
def test_a_brush_and_back(mask):
    assert np.array_equal(read_brush(write_brush(mask), mask.shape), mask)


def test_a_brush_is_label_studios():
    mask = LONG.copy()
    mask[20, ::2] = True
    theirs = np.reshape(decode_brush(write_brush(mask)), (*mask.shape, 4))
    assert np.array_equal(theirs[..., 3], 255 * mask.astype(np.uint8))


def test_a_brush_that_label_studios_converter_wrote():
    """By version 0.0.59 of label-studio-converter."""
    code = [0, 0, 0, 140, 57, 27, 252, 127, 248, 124, 2, 255, 253, 176, 11, 255, 246, 192, 47, 255, 225, 240, 0]
    mask = np.zeros((5, 7), bool)
    mask[0, 0] = mask[1:4, 2:6] = True
    assert np.array_equal(read_brush(code, mask.shape), mask)
    assert np.array_equal(np.reshape(decode_brush(code), (5, 7, 4))[..., 3] > 0, mask)


def test_brushes_with_values_one_by_one_and_soft_edges():
    """Written by hand: 8 bytes, lengths of 1, 2, 3 and 4 bits; four values one by one, then one value four times."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (1, 2, 3, 4))
    bits += "0" + "01" + "11" + "".join(f"{v:08b}" for v in (9, 9, 9, 127))
    bits += "1" + "10" + "011" + f"{128:08b}"
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]
    assert read_brush(code, (1, 2)).tolist() == [[False, True]]
    assert np.array_equal(decode_brush(code)[3::4], [127, 128])
    for broken in (code[:-2], [], None, [300], ["a"]):
        with pytest.raises(ValueError, match="a broken brush"):
            read_brush(broken, (1, 2))
    with pytest.raises(ValueError, match="no brush of 2 x 2 pixels"):
        read_brush(code, (2, 2))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ({"size": [3, 2], "counts": [6]}, "no run-length code of 3 x 2"),
        ([[0, 0, 1, 1]], "no run-length code"),
        ({"size": [2, 3], "counts": [5]}, "cut off"),
        ({"size": [2, 3], "counts": [7, -1]}, "broken"),
        ({"size": [2, 3], "counts": ["6"]}, "broken"),
        ({"size": [2, 3], "counts": "\x01"}, "broken"),
        ({"size": [2, 3], "counts": "o" * 99}, "broken"),
        ({"size": [2, 3]}, "broken"),
    ],
)
def test_a_code_that_is_none(code, says):
    with pytest.raises(ValueError, match=says):
        read_coco(code, (2, 3))
