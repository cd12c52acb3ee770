"""merge_masks.py on drawn labels and masks, in both layouts of Segment Anything's generator."""

import json

import numpy as np
import pytest
from conftest import load_script, prints, refused, run_here
from PIL import Image
from pycocotools import mask as coco

from tool.io.images import IGNORE, label_image, open_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
SCRIPT = "merge_masks.py"
merge = load_script(SCRIPT).merge


def rows(text):
    """Digits and dots, a row a word -> H x W uint8; # is 255."""
    return np.array([[IGNORE if c == "#" else int(c.replace(".", "0")) for c in row] for row in text.split()], np.uint8)


@pytest.mark.parametrize(
    ("labels", "masks", "thresholds", "expected"),
    [
        ("1100 2200", ["1111 ...."], (0.5, 0.6), "1111 2200"),  # half of it is class 1
        ("1100 2200", ["1111 ...."], (0.6, 0.6), "1100 2200"),  # neither reaches its threshold
        ("1000 2200", ["1111 ...."], (0.25, 0.6), "1111 2200"),  # a class comes before background
        ("1000 2200", ["1111 ...."], (0.5, 0.75), "0000 2200"),  # three of four are background
        ("1000 2200", ["1111 ...."], (0.5, 0.8), "1000 2200"),
        ("1#22 2222", ["11.. ...."], (0.9, 0.9), "1122 2222"),  # ignored pixels do not count, and are covered
        ("##22 2222", ["11.. ...."], (0.0, 0.0), "##22 2222"),
        ("1222 1111", ["1111 1111", ".111 ...."], (0.6, 0.6), "1222 1111"),  # the small one lies on the large one
        ("1222 1111", ["1111 1111"], (0.6, 0.6), "1111 1111"),
        ("1222 1111", ["...."] * 0, (0.5, 0.5), "1222 1111"),
        ("1222 1111", [".... ...."], (0.5, 0.5), "1222 1111"),  # an empty mask
    ],
)
def test_a_mask_takes_the_label_that_covers_it(labels, masks, thresholds, expected):
    assert np.array_equal(merge(rows(labels), [rows(m) > 0 for m in masks], *thresholds), rows(expected))


LABELS = rows("110000 110000 000022")
MASKS = [rows("111100 111100 ......") > 0, rows("...... ...... ....11") > 0, rows("...... ...... 111111") > 0]
MERGED = rows("111100 111100 000022")


def as_folder(folder, masks):
    folder.mkdir(parents=True)
    for k, mask in enumerate(masks):
        Image.fromarray(255 * mask.astype(np.uint8)).save(folder / f"{k}.png")
    (folder / "metadata.csv").write_text("id,area\n" + "".join(f"{k},{m.sum()}\n" for k, m in enumerate(masks)))


def as_codes(path, masks):
    codes = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([{"segmentation": c | {"counts": c["counts"].decode()}, "area": 1} for c in codes]))


@pytest.fixture
def here(tmp_path):
    """labels/ of a, b and c; masks of the first two, in one layout each."""
    for name in "abc":
        (tmp_path / "labels").mkdir(exist_ok=True)
        label_image(LABELS).save(tmp_path / "labels" / f"{name}.png")
    as_folder(tmp_path / "masks" / "a", MASKS)
    as_codes(tmp_path / "masks" / "b.json", MASKS)
    return tmp_path


def flags(here):
    return ["--labels", here / "labels", "--masks", here / "masks", "--out", here / "out"]


def test_names_with_blanks_and_files_of_sa_1b(here):
    """Masks are called as the photographs are; SA-1B's files have them in a list of their own."""
    entries = json.loads((here / "masks" / "b.json").read_text())
    (here / "masks" / "b.json").unlink()
    (here / "masks" / "my b.json").write_text(json.dumps({"image": {"file_name": "b.jpg"}, "annotations": entries}))
    as_folder(here / "masks" / "c.v2 x", MASKS)
    (here / "labels" / "b.png").rename(here / "labels" / "my_b.png")
    (here / "labels" / "c.png").rename(here / "labels" / "c.v2_x.png")
    prints(SCRIPT, *flags(here))
    for name in ("a", "my_b", "c.v2_x"):
        assert np.array_equal(open_mask(here / "out" / f"{name}.png", 3), MERGED)


def test_both_layouts_and_labels_without_masks(here):
    code, errors = run_here(SCRIPT, *flags(here))
    assert code == 0 and "no masks for 1 of 3 labels, which stay as they are (c)" in errors
    for name, expected in (("a", MERGED), ("b", MERGED), ("c", LABELS)):
        assert np.array_equal(open_mask(here / "out" / f"{name}.png", 3), expected)
    refused(SCRIPT, *flags(here), says="--overwrite")
    out = prints(SCRIPT, *flags(here), "--cover", 0.6, "--cover_background", 0.5, "--overwrite")
    assert "wrote 3 labels" in out and ": 14.8 % of their pixels changed" in out  # twice 4 of 54: class 1 is background


BAD = {
    "none": (lambda masks: (masks / "b.json").unlink() or (masks / "a").rename(masks / "x"), "masks: no masks of any"),
    "size": (lambda masks: as_codes(masks / "b.json", [MASKS[0].T]), "b.json: no run-length code of 6 x 3 pixels"),
    "size of a PNG": (
        lambda masks: Image.new("L", (9, 9)).save(masks / "a" / "1.png"),
        "a/1.png: 9 x 9 pixels, but its label has 6 x 3",
    ),
    "no JSON": (lambda masks: (masks / "b.json").write_text("["), "b.json: not a JSON file"),
    "other JSON": (lambda masks: (masks / "b.json").write_text('{"images": []}'), "b.json: no list of masks"),
    "cut off": (lambda masks: (masks / "a" / "2.png").unlink(), "a: 2 masks, but metadata.csv has 3"),
    "no PNG": (lambda masks: (masks / "a" / "2.png").write_bytes(b"x"), "2.png: unreadable mask"),
}


@pytest.mark.parametrize("name", BAD)
def test_masks_that_are_none(here, name):
    damage, says = BAD[name]
    damage(here / "masks")
    refused(SCRIPT, *flags(here), says=says)
    assert not (here / "out").exists() and not list(here.glob(".out*"))
