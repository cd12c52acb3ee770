"""make_dataset.py: photographs of any folders and formats with a CSV, or by folder, become a data set in VOC layout."""

import csv
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
from conftest import ROOT, prints, refused, run_here
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tool.io import lock
from tool.io.files import read_list
from tool.io.images import PALETTE, open_image, open_mask
from voc12 import layout
from voc12.classes import load_classes
from voc12.labels import load_labels
from voc12.make_dataset import choose_part
from voc12.paths import check_images, image_path

SCRIPT = "voc12/make_dataset.py"
# photograph -> labels; names with blanks, suffixes in capitals, every format that is read
PHOTOS = {
    "b/1.PNG": "zebra",
    "b/deep/2.jpg": "lion;zebra",
    "my photo.JPEG": "lion",
    "c/3.bmp": "okapi",
    "c/4.tif": " okapi ; zebra",
    "c/5.gif": "lion",
    "c/6.webp": "okapi",
    "c/7.ppm": "zebra",
}
IDS = ["b__1", "b__deep__2", "c__3", "c__4", "c__5", "c__6", "c__7", "my_photo"]


def write_photo(path, size=(12, 8), shade=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 40, 200 - shade)).save(path)


def write_csv(path, rows, header=("image", "labels"), encoding="utf-8", **options):
    with open(path, "w", newline="", encoding=encoding) as stream:
        writer = csv.writer(stream, **options)
        writer.writerows([header, *rows])
    return path


@pytest.fixture
def here(tmp_path):
    """A folder with photos/, eight photographs, and labels.csv, to work in."""
    for k, name in enumerate(PHOTOS):
        write_photo(tmp_path / "photos" / name, shade=10 * k)
    write_csv(tmp_path / "labels.csv", PHOTOS.items())
    return tmp_path


def flags(here, **changes):
    values = {"images": here / "photos", "labels": here / "labels.csv", "out": here / "mine"} | changes
    return [text for name, value in values.items() if value is not None for text in (f"--{name}", value)]


def make(here, *more, **changes):
    """Run the script, which must succeed; returns what it printed."""
    return prints(SCRIPT, *flags(here, **changes), *more)


def contents(out):
    """{ID: names of its classes} as a stage reads them."""
    classes = load_classes(out / "classes.txt")
    ids = read_list(out / "ImageSets" / "Segmentation" / "train.txt")
    labels = load_labels(ids, out, classes, out / "cls_labels.npy")
    return {i: {classes[k] for k in np.flatnonzero(vector)} for i, vector in labels.items()}


EXPECTED = {i: {n.strip() for n in PHOTOS[p].split(";")} for i, p in zip(IDS, sorted(PHOTOS), strict=True)}


def assert_nothing_made(here):
    assert not (here / "mine").exists() and not list(here.glob(".mine*"))


# ---------------------------------------------------------------- labels and photographs


def test_nested_photographs_of_every_format_with_a_list_of_labels(here):
    printed = make(here)
    assert (here / "mine" / "classes.txt").read_text() == "lion\nokapi\nzebra\n"
    assert contents(here / "mine") == EXPECTED
    assert not (here / "mine" / "ImageSets" / "Segmentation" / "val.txt").exists()
    files = sorted(os.listdir(here / "mine" / "JPEGImages"))
    assert files == [
        "b__1.PNG", "b__deep__2.jpg", "c__3.bmp", "c__4.tif", "c__5.gif", "c__6.webp", "c__7.ppm", "my_photo.JPEG"
    ]  # fmt: skip
    for image_id, name in zip(files, sorted(PHOTOS), strict=True):
        path = here / "mine" / "JPEGImages" / image_id
        assert path.is_symlink() and path.samefile(here / "photos" / name)
    assert re.search(r"^lion +3 +3$", printed, re.M) and re.search(r"^zebra +4 +4$", printed, re.M)
    assert "8 images, 2 of them with several classes" in printed
    assert "smallest 12 x 8, median 12 x 8, largest 12 x 8" in printed
    assert (
        f"next: python train.py --name mine --voc12_root {here / 'mine'} --trunk timm:tf_efficientnet_lite0\n"
        in printed
    )


def test_a_data_set_among_the_photographs_is_passed_over(here):
    for _ in range(3):
        code, said = run_here(SCRIPT, *flags(here, out=here / "photos" / "mine"), "--overwrite")
        assert code == 0
        assert contents(here / "photos" / "mine") == EXPECTED
    assert "mine.old: is passed over, a data set made of photographs" in said


def test_masks_that_cannot_be_there(here):
    for changes, says in (
        ({"masks": here / "photos"}, "is --images itself; put the masks in a folder of their own"),
        ({"masks": here / "gone"}, "gone: no such folder"),
        ({"labelmap": here / "x.txt"}, "says the colours of masks; give their folder as --masks"),
    ):
        refused(SCRIPT, *flags(here, **changes), says=[says])
        assert_nothing_made(here)


def test_masks_with_a_suffix_in_capitals(here):
    for name in ("my photo", "b/1"):
        path = here / "masks" / f"{name}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 8), 1).save(path)
    make(here, "--val", 0, masks=here / "masks")
    assert read_list(here / "mine" / "ImageSets" / "Segmentation" / "masks.txt") == ["b__1", "my_photo"]


def test_columns_of_zeros_and_ones_keep_the_order_of_the_header(here):
    names = ["zebra", "lion", "okapi"]
    rows = [[p, *(int(n in EXPECTED[i]) for n in names)] for i, p in zip(IDS, sorted(PHOTOS), strict=True)]
    write_csv(here / "labels.csv", rows, ["image", *names])
    make(here)
    assert (here / "mine" / "classes.txt").read_text().split() == names
    assert contents(here / "mine") == EXPECTED


def test_what_spreadsheets_do_to_a_table(here):
    rows = [["b\\1.PNG", "zebra"], ["./b/deep/2.jpg", " zebra;lion;"], [" my photo", "lion"], ["b/1.PNG", "zebra"]]
    write_csv(
        here / "labels.csv", [*rows, ["", ""]], encoding="utf-8-sig", lineterminator="\r\n", quoting=csv.QUOTE_ALL
    )
    printed = make(here)
    assert contents(here / "mine") == {i: EXPECTED[i] for i in ("b__1", "b__deep__2", "my_photo")}
    assert "left out: 5 photographs without a row (c/3.bmp, c/4.tif, c/5.gif, ...)" in printed


def test_ids_are_found_again_by_the_stages(here):
    write_photo(here / "photos" / "x.jpg.png")  # a list takes suffixes off
    write_photo(here / "photos" / "d.1" / "y 2.GIF")
    write_csv(here / "labels.csv", [*PHOTOS.items(), ("x.jpg.png", "lion"), ("d.1/y 2.GIF", "lion")])
    make(here)
    ids = read_list(here / "mine" / "ImageSets" / "Segmentation" / "train.txt")
    assert ids == sorted([*IDS, "x", "d.1__y_2"])
    check_images(ids, here / "mine")
    assert image_path(here / "mine", "d.1__y_2").samefile(here / "photos" / "d.1" / "y 2.GIF")


def test_a_class_a_folder(here):
    write_photo(here / "photos" / ".hidden" / "8.png")
    printed = make(here, "--by_folder", labels=None)
    assert contents(here / "mine") == {i: {i[0]} for i in IDS[:-1]}
    assert "left out: 1 photographs without a label (my photo.JPEG)" in printed


def test_a_photograph_in_two_class_folders_has_both_classes(here):
    write_photo(here / "photos" / "c" / "again.png")
    shutil.copyfile(here / "photos" / "b" / "1.PNG", here / "photos" / "c" / "again.png")
    (here / "masks" / "c").mkdir(parents=True)
    Image.fromarray(np.full((8, 12), 2, np.uint8)).save(here / "masks" / "c" / "again.png")
    printed = make(here, "--by_folder", labels=None, masks=here / "masks")
    assert contents(here / "mine") == {i: {i[0]} for i in IDS[:-1]} | {"b__1": {"b", "c"}}
    assert "left out: 1 copies of photographs, which have the classes of all (c/again.png)" in printed
    assert (open_mask(here / "mine" / "SegmentationClass" / "b__1.png", 3) == 2).all()


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("Zebra", "'Zebra' (1 photographs) and 'zebra' (3 photographs) look like one class; give both one name, or"),
        ("zerba", "'zerba' (1 photographs) and 'zebra' (3 photographs) look like one class"),
        ("lion, zebra", "b/1.PNG has the label 'lion, zebra'; if that is more than one class, write 'lion; zebra'"),
    ],
)
def test_names_that_may_be_mistakes_are_asked_about_unless_they_are_listed(here, label, says):
    write_csv(here / "labels.csv", (PHOTOS | {"b/1.PNG": label}).items())
    refused(SCRIPT, *flags(here), says=["labels.csv", says, "--classes"])
    assert_nothing_made(here)
    (here / "names.txt").write_text("\n".join(["lion", "okapi", "zebra", label]))
    make(here, classes=here / "names.txt")
    assert contents(here / "mine")["b__1"] == {label}


def test_class_folders_that_may_be_one_class_are_asked_about(here):
    write_photo(here / "photos" / "C" / "9.png")
    says = ["'C' (1 photographs) and 'c' (5 photographs)", "--classes"]
    refused(SCRIPT, *flags(here, labels=None), "--by_folder", says=says)


def test_names_decide_classes_and_their_order(here):
    (here / "names.txt").write_text("zebra\ngnu\nokapi\nlion\n")
    printed = make(here, classes=here / "names.txt")
    assert (here / "mine" / "classes.txt").read_text() == "zebra\ngnu\nokapi\nlion\n"
    assert contents(here / "mine") == EXPECTED
    assert "no image shows 1 of the 4 classes (gnu)" in printed


def test_what_is_left_out_is_counted(here):
    write_csv(here / "labels.csv", [*PHOTOS.items(), ("gone.png", "lion"), ("c/8.png", "")])
    write_photo(here / "photos" / "c" / "8.png")
    write_photo(here / "photos" / "c" / "9.png")
    printed = make(here)
    assert contents(here / "mine") == EXPECTED | {"c__8": set()}  # an empty label is one, no row is none
    for line in (
        "left out: 1 rows without a photograph (gone.png)",
        "left out: 1 photographs without a row (c/9.png)",
        "1 of them show none of the classes (c__8)",
    ):
        assert line in printed


def test_links_hold_where_everything_moves(here):
    make(here)
    (here / "elsewhere").mkdir()
    for name in ("photos", "mine"):
        (here / name).rename(here / "elsewhere" / name)
    assert open_image(here / "elsewhere" / "mine" / "JPEGImages" / "b__1.PNG").size == (12, 8)


@pytest.mark.parametrize("links", [True, False])
def test_copies_where_asked_for_and_where_no_links_can_be_made(here, links, monkeypatch, capsys):
    if not links:

        def symlink(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "symlink", symlink)
    make(here, *["--copy"] * links)
    for path in (here / "mine" / "JPEGImages").iterdir():
        assert path.is_file() and not path.is_symlink()
    copied = (here / "mine" / "JPEGImages" / "b__1.PNG").read_bytes()
    assert copied == (here / "photos" / "b" / "1.PNG").read_bytes()
    assert capsys.readouterr().err.count("warning") == (0 if links else 1)


def test_an_output_below_the_photographs_and_a_loop_of_links(here):
    (here / "photos" / "again").symlink_to(here / "photos")
    for _ in range(2):
        make(here, "--overwrite", out=here / "photos" / "mine", labels=here / "labels.csv")
        assert contents(here / "photos" / "mine") == EXPECTED
        shutil.rmtree(here / "photos" / "mine.old", ignore_errors=True)


def test_pixels_are_not_read(here):
    photo = here / "photos" / "b" / "1.PNG"
    write_photo(photo, (400, 300))
    photo.write_bytes(photo.read_bytes()[:60])
    assert "largest 400 x 300" in make(here)


# ---------------------------------------------------------------- masks and the validation part


def write_masks(here, size=(12, 8), value=None):
    classes = ["lion", "okapi", "zebra"]
    for name, labels in PHOTOS.items():
        mask = np.zeros(size[::-1], np.uint8)
        mask[:2] = 255
        for k, label in enumerate(labels.split(";")):
            mask[2 + k] = 1 + classes.index(label.strip()) if value is None else value
        path = (here / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


def test_masks_are_linked_and_part_of_them_is_for_validation(here):
    write_masks(here)
    (here / "masks" / "c" / "5.png").unlink()
    printed = make(here, "--val", 0.5, masks=here / "masks")
    train, val = (read_list(here / "mine" / "ImageSets" / "Segmentation" / f"{name}.txt") for name in ("train", "val"))
    assert sorted(train + val) == IDS and "c__5" in train
    scored = read_list(here / "mine" / "ImageSets" / "Segmentation" / "masks.txt")
    assert scored == [i for i in train if i != "c__5"]
    # zebra 4, lion 2 and okapi 3 have masks: half of each
    assert {n: sum(n in EXPECTED[i] for i in val) for n in ("zebra", "lion", "okapi")} == {
        "zebra": 2, "lion": 1, "okapi": 2
    }  # fmt: skip
    assert sorted(p.stem for p in (here / "mine" / "SegmentationClass").iterdir()) == [i for i in IDS if i != "c__5"]
    mask = open_mask(here / "mine" / "SegmentationClass" / "b__deep__2.png", 4)
    assert mask[:, 0].tolist() == [255, 255, 1, 3, 0, 0, 0, 0]
    assert re.search(r"^zebra +4 +2 +2 +2$", printed, re.M)
    make(here, "--val", 0.5, masks=here / "masks", out=here / "twice")
    assert read_list(here / "twice" / "ImageSets" / "Segmentation" / "val.txt") == val


def test_masks_whose_ids_are_in_another_order_are_noticed(here, capsys):
    write_masks(here)
    (here / "names.txt").write_text("zebra\nlion\nokapi\n")
    make(here, masks=here / "masks", classes=here / "names.txt")
    assert "8 of 8 masks hold classes that the labels lack" in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, False])
def test_masks_with_a_palette_that_numbers_colours_as_they_come_are_refused(here, given):
    """Ids count under other colours, greys, or no palette; under the labels' own in another order nobody knows."""
    write_masks(here)
    colours = COLOURS if given else {k: tuple(PALETTE[k].tolist()) for k in range(256)}
    for path in (here / "masks").rglob("*.png"):
        ids = np.asarray(Image.open(path))
        for palette in ([(0, 0, 0)] * 256, [(k, k, k) for k in range(256)], [(9, k, 255 - k) for k in range(256)]):
            mask = Image.fromarray(ids).convert("P")
            mask.putpalette([value for colour in palette for value in colour])
            mask.save(path)
            assert np.array_equal(open_mask(path, 4, {colour: k for k, colour in colours.items()}), ids)
    if given:
        (here / "labelmap.txt").write_text(CVAT + "void:1,1,1::\n")
    order = [2, 0, 1, 3]
    mask = Image.fromarray(np.array([order.index(k) if k < 4 else 255 for k in range(256)], np.uint8)[ids]).convert("P")
    mask.putpalette([value for k in range(256) for value in colours[order[k] if k < 4 else 255]])
    mask.save(path)
    refused(SCRIPT, *flags(here, masks=here / "masks"), says=[path.name, "which of the two is meant?"])


CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nzebra:10,20,30::\nlion:9,8,7::\nokapi:250,250,55::\n"
COLOURS = {0: (0, 0, 0), 1: (9, 8, 7), 2: (250, 250, 55), 3: (10, 20, 30), 255: (1, 1, 1)}


@pytest.mark.parametrize("given", ["VOC", "beside", "flag"])
def test_masks_in_colour_become_ids(here, given):
    write_masks(here)
    make(here, "--copy", masks=here / "masks", out=here / "ids")
    colours = {k: tuple(PALETTE[k]) for k in COLOURS} if given == "VOC" else COLOURS
    path = here / ("labelmap.txt" if given == "beside" else "colours.txt")
    path.write_text(CVAT + "void:1,1,1::\n")
    for mask in (here / "masks").rglob("*.png"):
        ids = np.asarray(Image.open(mask))
        Image.fromarray(np.array([colours.get(k, (0, 0, 0)) for k in range(256)], np.uint8)[ids]).save(mask)
    make(here, *["--labelmap", path] * (given == "flag"), masks=here / "masks")
    for mask in (here / "ids" / "SegmentationClass").iterdir():
        assert (open_mask(mask, 4) == open_mask(here / "mine" / "SegmentationClass" / mask.name, 4)).all()


@pytest.mark.parametrize(
    ("labelmap", "says"),
    [
        (CVAT.replace("zebra", "gnu"), "b/1.png: the colour 10,20,30 is that of gnu, which is no class"),
        (CVAT + "gnu:9,8,7::", "line 6: 'gnu:9,8,7::': needs name:r,g,b:: with a colour of its own"),
        (CVAT + "gnu:::", "line 6: 'gnu:::': needs name:r,g,b::"),
        (CVAT + "gnu:1,2,256::", "line 6: "),
        (None, "no such text file; --labelmap takes one with lines name:r,g,b::"),
    ],
)
def test_colours_that_stand_for_no_class_are_refused(here, labelmap, says):
    path = here / "masks" / "b" / "1.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (12, 8), COLOURS[3]).save(path)
    if labelmap:
        (here / "map.txt").write_text(labelmap)
    refused(SCRIPT, *flags(here, masks=here / "masks", labelmap=here / "map.txt"), says=says)
    assert_nothing_made(here)


LABELS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.sets(st.integers(0, 4), min_size=1, max_size=3).map(sorted).map(tuple),
    min_size=1,
    max_size=40,
)


@given(LABELS, st.floats(0, 1), st.integers(0, 9))
def test_every_class_keeps_images_outside_the_chosen_part(labels, part, seed):
    chosen = choose_part(labels, part, seed)
    assert chosen == choose_part(dict(reversed(labels.items())), part, seed)
    assert set(chosen) <= set(labels) and len(set(chosen)) == len(chosen)
    outside = set().union(*(labels[i] for i in labels if i not in chosen))
    assert outside == set().union(*labels.values())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 0.9), st.integers(0, 9))
def test_single_labels_are_divided_exactly(sizes, part, seed):
    labels = {f"{k}_{n}": (k,) for k, size in enumerate(sizes) for n in range(size)}
    chosen = choose_part(labels, part, seed)
    for k, size in enumerate(sizes):
        assert sum(labels[i] == (k,) for i in chosen) == min(round(part * size), size - 1)


# ---------------------------------------------------------------- what is refused

BAD_TABLES = {  # name -> (bytes, words of the message)
    "empty": (b"", "no header"),
    "without a header": (b"b/1.PNG,zebra\n", "no header; the first line must be `image,labels`"),
    "other separators": (b"image|labels\nb/1.PNG|zebra\n", "and is 'image|labels'"),
    "images alone": (b"image\nb/1.PNG\n", "no header"),
    "utf-16": ("image,labels\nb/1.PNG,zebra\n".encode("utf-16"), "not UTF-8 text; save it again as CSV in UTF-8"),
    "latin-1": ("image,labels\nb/1.PNG,zèbre\n".encode("latin-1"), "not UTF-8 text"),
    "a quote without end": (b'image,labels\nb/1.PNG,zebra\nc/3.bmp,"okapi\nc/4.tif,lion', "line 3: a quote that never"),
    "the same in a long file": (
        b'image,labels\nb/1.PNG,"zebra\n' + b"c/3.bmp,okapi\n" * 20000, "line 2: a quote that never ends"
    ),
    "text behind a quote": (b'image,labels\n"b/1.PNG"x,zebra\n', "line 2: "),
    "contradicting rows": (b"image,labels\nb/1.PNG,zebra\n./b/1.PNG,lion\n", "line 3: './b/1.PNG' has other labels"),
    "contradiction without suffix": (b"image,labels\nb/1,zebra\nb/1.PNG,lion\n", "line 3: 'b/1.PNG' has other labels"),
    "a path out of the folder": (b"image,labels\n../labels.csv,zebra\n", "line 2: '../labels.csv' leads out"),
    "out around a corner": (b"image,labels\nb/../../x.png,zebra\n", "leads out of the folder"),
    "an absolute path": (b"image,labels\n/etc/passwd,zebra\n", "'/etc/passwd' leads out"),
    "a drive": (b"image,labels\nC:\\1.png,zebra\n", "leads out of the folder"),
    "no image": (b"image,labels\n,zebra\n", "line 2: no image is named"),
    "too many fields": (b"image,labels\nb/1.PNG,zebra,lion\n", "line 2: 3 fields where the header has 2"),
    "another number": (b"image,zebra\nb/1.PNG,2\n", "line 2: '2' in column 'zebra' is neither 0 nor 1"),
    "a class twice": (b"image,zebra,zebra\nb/1.PNG,0,1\n", "1 to 254 different class names"),
    "background": (b"image,labels\nb/1.PNG,background\n", "'background' is no class but what none of them covers"),
    "a name that is a path": (b"image,labels\nb/1.PNG,../zebra\n", "'../zebra' is no class name"),
    "a name of two lines": ("image,labels\nb/1.PNG,zebra\u2028lion\n".encode(), "is no class name"),
    "no image there": (b"image,labels\nx.png,zebra\n", "; names are paths below --images, with capitals as"),
    "a header alone": (b"image,labels\n", "names no photograph; each row below"),
    "no labels": (b"image,labels\nb/1.PNG,\n", "no photograph has a label"),
    "no labels in columns": (b"image,zebra\nb/1.PNG,0\n", "no photograph has a label"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused(here, name):
    data, says = BAD_TABLES[name]
    (here / "labels.csv").write_bytes(data)
    assert "labels.csv" in refused(SCRIPT, *flags(here), says=says)
    assert_nothing_made(here)


def test_labels_that_are_not_among_the_classes_are_refused(here):
    (here / "names.txt").write_text("zebra\nlion\n")
    refused(SCRIPT, *flags(here, classes=here / "names.txt"), says="1 labels are not in --classes: okapi")
    assert_nothing_made(here)


@pytest.mark.parametrize(
    ("first", "second"), [("a/1.png", "a__1.png"), ("1.png", "1.jpg"), ("a 1.png", "a_1.png"), ("1.jpg.png", "1.png")]
)
def test_two_photographs_of_one_id_are_refused(here, first, second):
    for name in (first, second):
        write_photo(here / "photos" / name)
    write_csv(here / "labels.csv", [(first, "zebra"), (second, "zebra")])
    refused(SCRIPT, *flags(here), says=[first, second, "would both have the ID"])
    assert_nothing_made(here)


def test_a_name_that_may_be_two_photographs_is_refused(here):
    write_photo(here / "photos" / "b" / "1.jpg")
    write_csv(here / "labels.csv", [("b/1", "zebra")])
    refused(SCRIPT, *flags(here), says="b/1: several photographs are called so; give their suffixes")


def test_photographs_that_cannot_be_read_are_refused_or_left_out(here, capsys):
    (here / "photos" / "b" / "1.PNG").write_bytes(b"no image at all")
    write_photo(here / "photos" / "x.png")
    (here / "photos" / "x.png").rename(here / "photos" / "x.heic")
    write_csv(here / "labels.csv", [*PHOTOS.items(), ("x.heic", "lion")])
    refused(SCRIPT, *flags(here), says="1.PNG: unreadable image (not an image)")
    assert_nothing_made(here)
    make(here, "--on_error", "skip")
    assert list(contents(here / "mine")) == IDS[1:]
    warnings = capsys.readouterr().err
    assert "x.heic: not the suffix of an image that is read" in warnings
    assert f"2 images could not be used and are left out; see {here / 'mine' / 'failed.txt'}" in warnings
    noted = (here / "mine" / "failed.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in noted] == ["b__1", "x.heic"]
    for name in PHOTOS:
        (here / "photos" / name).write_bytes(b"")
    says = "photos: none of 9 photographs can be used"
    refused(SCRIPT, *flags(here, out=here / "other"), "--on_error", "skip", says=says)
    assert not list(here.glob("*other*"))


@pytest.mark.parametrize(
    ("size", "value", "says"),
    [
        ((12, 9), None, "12 x 9 pixels, the photograph 12 x 8"),
        ((12, 8), 4, "holds id 4; ids go from 0 to 3"),
        ((12, 8), "RGB", "1.png: the colour 90,40,110 is that of no label"),
    ],
)
def test_masks_of_another_size_or_with_unknown_ids_are_refused(here, size, value, says):
    write_masks(here, size, None if value == "RGB" else value)
    if value == "RGB":
        write_photo(here / "masks" / "b" / "1.png")
    refused(SCRIPT, *flags(here, masks=here / "masks"), says=says)
    assert_nothing_made(here)


def test_folders_without_photographs_or_masks_are_refused(here):
    (here / "none").mkdir()
    refused(SCRIPT, *flags(here, images=here / "none"), says="none: no photographs there")
    refused(SCRIPT, *flags(here, images=here / "gone"), says="gone: no such folder")
    refused(SCRIPT, *flags(here, labels=here / "gone.csv"), says="gone.csv: no such file; --labels takes a CSV")
    refused(SCRIPT, *flags(here, masks=here / "none"), says="none: no mask of any photograph there")
    refused(SCRIPT, *flags(here, out=here / "labels.csv"), says="labels.csv: is a file")
    refused(SCRIPT, *flags(here, out=here / "labels.csv/x"), says="x: cannot be made there (Not a directory)")
    assert_nothing_made(here)


def test_a_name_longer_than_a_file_system_takes_is_refused(here):
    write_photo(here / "photos" / ("a" * 70) / ("b" * 130 + ".png"))
    refused(SCRIPT, *flags(here, labels=None), "--by_folder", says="is longer than 200 bytes")
    assert_nothing_made(here)


# ---------------------------------------------------------------- what is there already


def test_files_of_others_are_never_touched(here):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("years of work")
    refused(SCRIPT, *flags(here), "--overwrite", says="holds files that none of these scripts made")
    assert [p.name for p in (here / "mine").iterdir()] == ["thesis.tex"]


def test_a_data_set_that_is_there_is_kept_beside_the_new_one(here):
    make(here)
    refused(SCRIPT, *flags(here), says="is a data set already; --overwrite makes it anew")
    (here / "mine" / "notes.txt").write_text("mine")
    for k, name in enumerate(["mine.old", "mine.old2"]):
        write_csv(here / "labels.csv", list(PHOTOS.items())[k + 1 :])
        assert f"{here / name}: the data set that was there" in make(here, "--overwrite")
        assert len(contents(here / "mine")) == 7 - k and len(contents(here / name)) == 8 - k
    assert (here / "mine.old" / "notes.txt").read_text() == "mine"


def test_an_output_that_is_a_link_to_another_disk(here):
    (here / "disk" / "set").mkdir(parents=True)
    (here / "mine").symlink_to(here / "disk" / "set")
    make(here)
    assert (here / "mine").is_symlink() and (here / "disk" / "set" / "JPEGImages" / "b__1.PNG").is_file()


def test_a_killed_run_leaves_no_data_set_and_can_be_repeated(here):
    code = (
        "import os, signal, sys; from voc12 import layout, make_dataset; from tool.cli import run_script\n"
        "layout.write_set = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run_script(make_dataset.main, make_dataset.get_args_parser(), sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, flags(here))], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert not (here / "mine").exists() and (here / ".mine.making" / "JPEGImages" / "b__1.PNG").is_symlink()
    write_csv(here / "labels.csv", list(PHOTOS.items())[1:])  # nothing of the killed run may come along
    make(here)
    assert len(os.listdir(here / "mine" / "JPEGImages")) == 7 and not list(here.glob(".mine*"))
    assert not list((here / "mine").glob(".*"))


def test_two_runs_at_once_do_not_disturb_each_other(here, monkeypatch):
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with lock.hold(here / ".mine.making"):
        refused(SCRIPT, *flags(here), says="is writing there; wait for it or stop it")
        assert (here / ".mine.making").is_dir()
    make(here)


def test_a_failure_while_linking_leaves_nothing(here, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(here / "mine"))

    monkeypatch.setattr(layout, "write_cls_labels", full)
    assert "No space left" in refused(SCRIPT, *flags(here))
    assert_nothing_made(here)


# ---------------------------------------------------------------- the page


def test_the_next_command_can_run_as_it_stands(here, monkeypatch):
    words = shlex.split(make(here).rpartition("next: python ")[2])
    monkeypatch.setattr("timm.create_model", partial(offline, timm.create_model))
    # beside the command: small crops and a look at one step, so that it takes seconds
    more = ["--experiment", here, "--num_workers", 0, "--crop_size", 32, "--T", 40, "--check"]
    assert "8 images" in prints(*words, *more)


def offline(make_model, *args, pretrained=False, **options):
    assert not pretrained, "timm asks its hub for weights"
    return make_model(*args, **options)


def test_the_commands_of_the_page_run_as_written(here, monkeypatch):
    write_masks(here)
    page = (ROOT / "data" / "README.md").read_text()
    commands = re.findall(r"^python (voc12/make_dataset.py .*?)(?:  #.*)?$", page, re.M)
    assert len(commands) >= 3
    monkeypatch.chdir(here)
    for command in commands:
        script, *arguments = shlex.split(command)
        assert run_here(script, *arguments) == (0, "")
        assert contents(Path(arguments[arguments.index("--out") + 1]))
