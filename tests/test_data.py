"""Views, batches and drawings: by hand, and the promise that seed, epoch and image decide everything."""

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import succeeds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tool.io.files import UserError, missing_files, read_list, remove_stale, write_bytes
from tool.io.images import contact_sheet, heat_overlay, label_image, open_image, open_mask, save_image, voc_palette
from voc12.classes import VOC_CLASSES, load_classes
from voc12.data import (
    Broken,
    EpochBatches,
    InferenceSet,
    TrainSet,
    check_images,
    image_path,
    inference_loader,
    train_loader,
)
from voc12.labels import load_labels
from voc12.transforms import (
    MEAN,
    STD,
    InferenceViews,
    TrainView,
    colour_jitter,
    crop_window,
    cut,
    normalise,
    resize_long_side,
)


def photo(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_normalise_by_hand():
    x = normalise(Image.new("RGB", (4, 3), (255, 0, 128)))
    assert x.shape == (3, 3, 4) and x.is_contiguous() and x.dtype == torch.float32
    for channel, value in enumerate((1.0, 0.0, 128 / 255)):
        expected = (value - MEAN[channel]) / STD[channel]
        assert x[channel].unique().tolist() == [pytest.approx(expected, rel=1e-5)]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 50), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_crop_window_covers_what_it_can(height, width, crop, seed):
    canvas, source = crop_window(np.random.default_rng(seed), height, width, crop)
    for side, c, s in zip((height, width), canvas, source):
        assert c.stop - c.start == s.stop - s.start == min(side, crop)
        assert 0 <= c.start and c.stop <= crop and 0 <= s.start and s.stop <= side
    image = torch.arange(1.0, height * width + 1).reshape(1, height, width)
    out = cut(image, (canvas, source), crop)
    assert out.shape == (1, crop, crop)
    assert torch.equal(out[(slice(None), *canvas)], image[(slice(None), *source)])
    assert (out == 0).sum() == crop * crop - min(height, crop) * min(width, crop)


def test_crop_offsets_reach_both_ends():
    rng = np.random.default_rng(0)
    larger = {crop_window(rng, 5, 3, 3)[1][0].start for _ in range(50)}
    smaller = {crop_window(rng, 2, 3, 4)[0][0].start for _ in range(50)}
    assert larger == {0, 1, 2} and smaller == {0, 1, 2}


def test_long_side_is_resized_within_its_range():
    assert resize_long_side(photo(100, 50), 64).size == (64, 32)
    assert resize_long_side(photo(50, 100), 30).size == (15, 30)
    assert resize_long_side(photo(1, 500), 64).size == (1, 64)  # never below one pixel


def test_jitter_of_strength_zero_is_the_image_and_hue_is_bounded():
    image = photo(9, 7)
    assert colour_jitter(image, (0, 0, 0, 0), np.random.default_rng(0)) is image
    grey = Image.new("RGB", (4, 4), (90, 90, 90))
    bright = {colour_jitter(grey, (0.4, 0, 0, 0), np.random.default_rng(k)).getpixel((0, 0))[0] for k in range(60)}
    assert min(bright) >= 53 and max(bright) <= 126 and len(bright) > 20  # 90 * (0.6 ... 1.4)


def test_inference_views_are_scaled_pairs_with_a_mirror():
    views = InferenceViews((0.5, 1.0, 1.5))(photo(31, 20))
    assert [tuple(v.shape) for v in views] == [(2, 3, 10, 16), (2, 3, 20, 31), (2, 3, 30, 46)]
    for view in views:
        assert torch.equal(view[1], view[0].flip(-1))
    assert [len(v) for v in InferenceViews((1.0,), mirror=False)(photo(8, 8))] == [1]


@pytest.fixture
def toy_set(toy):
    ids = read_list(toy / "train.txt")
    labels = load_labels(ids, toy, VOC_CLASSES, cls_labels=None)
    return TrainSet(toy, ids, labels, TrainView((48, 72), 40), seed=3)


def epoch_of(dataset, workers, epoch, skip=0, batch=4):
    batches = EpochBatches(len(dataset), seed=5)
    loader = train_loader(dataset, batches, workers, pin_memory=False)
    batches.start(epoch, batch, skip)
    return [(tuple(ids), image, label) for ids, image, label in loader]


def same(one, other):
    return len(one) == len(other) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(one, other)
    )


def test_batches_do_not_depend_on_the_number_of_workers(toy_set):
    alone = epoch_of(toy_set, 0, 1)
    assert len(alone) == 3 and alone[0][1].shape == (4, 3, 40, 40) and alone[0][1].is_contiguous()
    assert same(alone, epoch_of(toy_set, 2, 1))
    assert not same(alone, epoch_of(toy_set, 0, 2))


def test_an_epoch_taken_up_in_the_middle_gives_the_rest(toy_set):
    assert same(epoch_of(toy_set, 0, 1)[2:], epoch_of(toy_set, 0, 1, skip=2))


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_no_image_twice(length, batch, epoch):
    batches = EpochBatches(length, seed=1)
    batches.start(epoch, batch)
    keys = [key for keys in batches for key in keys]
    assert len(keys) == len(set(keys)) == length // batch * batch == len(batches) * batch
    assert {e for e, _ in keys} <= {epoch}


def test_inference_set_keeps_order_and_original_pixels(toy):
    ids = read_list(toy / "train.txt")[:3]
    labels = load_labels(ids, toy, VOC_CLASSES, cls_labels=None)
    loader = inference_loader(InferenceSet(partial(image_path, toy), ids, labels, InferenceViews((1.0,))), 2)
    for expected, (image_id, image, views, label) in zip(ids, loader, strict=True):
        stored = np.asarray(open_image(toy / "JPEGImages" / f"{expected}.jpg"))
        assert image_id == expected and np.array_equal(np.asarray(image), stored)
        assert views[0].shape == (2, 3, *stored.shape[:2]) and torch.equal(label, torch.from_numpy(labels[expected]))


def test_missing_images_are_counted(toy):
    with pytest.raises(UserError, match=r"nowhere.jpg: no such image \(1 of 2"):
        check_images(["toy_00000", "nowhere"], toy)


# ---------------------------------------------------------------- where photographs are

ODD_NAMES = {  # ID -> its file below JPEGImages
    "plain": "plain.jpg",
    "capitals": "capitals.JPG",
    "long suffix": "long suffix.JPEG",
    "picture": "picture.png",
    "scan (1)": "scan (1).TIFF",
    "Grüße": "Grüße.webp",
    "a/b": "a/b.bmp",
    "a/c/b": "a/c/b.jpg",
    "x.1": "x.1.gif",
}


@pytest.fixture
def odd_names(tmp_path):
    """Photographs under odd names, and files beside them that are none."""
    for name in (*ODD_NAMES.values(), "plain.txt", "a/b.xml", "plain", "unlisted.png"):
        (tmp_path / "JPEGImages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "JPEGImages" / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("image_id", ODD_NAMES)
def test_a_photograph_is_found_by_its_id(odd_names, image_id):
    assert image_path(odd_names, image_id) == odd_names / "JPEGImages" / ODD_NAMES[image_id]


def test_photographs_that_come_and_go_are_seen(odd_names):
    check_images(list(ODD_NAMES), odd_names)
    folder = odd_names / "JPEGImages"
    (folder / "picture.png").unlink()
    os.utime(folder, (1, 1))  # clocks of some file systems do not tell two changes in a row apart
    assert image_path(odd_names, "picture") == folder / "picture.jpg"
    with pytest.raises(UserError, match=r"picture\.jpg: no such image \(1 of 9"):
        check_images(list(ODD_NAMES), odd_names)
    (folder / "picture.jpeg").write_bytes(b"")
    assert image_path(odd_names, "picture") == folder / "picture.jpeg"


@pytest.mark.parametrize(
    ("image_id", "second"),
    [("plain", "plain.png"), ("picture", "picture.PNG"), ("picture", "picture.jpg"), ("a/b", "a/b.tif")],
)
def test_two_photographs_of_one_id_are_refused(odd_names, image_id, second):
    (odd_names / "JPEGImages" / second).write_bytes(b"")
    for use in (image_path, lambda root, i: check_images(["capitals", i], root)):
        with pytest.raises(
            UserError, match=f"two images of the ID {image_id.rpartition('/')[2]}, with different suffixes"
        ):
            use(odd_names, image_id)
    check_images(["capitals"], odd_names)  # the others are as usable as before


@pytest.mark.parametrize("count", [5, 99, 100, 300])
def test_missing_files_by_looking_at_each(tmp_path, count):
    """Files, links to files and to nothing, folders, and what is not there; folders with few files and with many."""
    (tmp_path / "target").write_bytes(b"")
    makers = [Path.touch, Path.mkdir, lambda p: p.symlink_to(tmp_path / "target"), lambda p: p.symlink_to("none"), bool]
    paths = {k: tmp_path / ("d", "d/e", "f")[k * k % 7 // 3] / f"{k}.npy" for k in range(3 * count)}
    for k, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        makers[k % 5](path)
    paths["elsewhere"] = tmp_path / "nowhere" / "x.npy"
    assert missing_files(paths) == [key for key, path in paths.items() if not path.is_file()]


def test_nested_ids_go_through_files_of_their_own(tmp_path):
    write_bytes(tmp_path / "dict" / "a" / "b.npy", b"1")
    left = tmp_path / "dict" / "a" / ".c.npy.123.tmp"
    left.write_bytes(b"of a killed run")
    remove_stale(tmp_path / "dict")
    assert [p.name for p in (tmp_path / "dict").rglob("*") if p.is_file()] == ["b.npy"]


def test_a_broken_image_is_given_as_such(broken):
    ids = read_list(broken / "train.txt")[:3]
    path = broken / "JPEGImages" / f"{ids[1]}.jpg"
    path.write_bytes(path.read_bytes()[:400])
    labels = load_labels(ids, broken, VOC_CLASSES, None)
    first, second, third = inference_loader(
        InferenceSet(partial(image_path, broken), ids, labels, InferenceViews((1.0,))), 1
    )
    assert (first[0], third[0]) == (ids[0], ids[2])
    assert second.image_id == ids[1] and isinstance(second, Broken)
    assert second.reason.startswith(f"{path}: unreadable image")


# ---------------------------------------------------------------- images and masks


@pytest.mark.parametrize("keep", [0, 1, 100, 600])
def test_broken_jpegs_are_named(tmp_path, keep):
    save_image(tmp_path / "whole.jpg", photo(60, 40))
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:keep])
    with pytest.raises(UserError, match=r"cut\.jpg: unreadable image"):
        open_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "1"])
def test_every_colour_mode_opens_as_rgb(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((5, 6), 40_000, np.uint16))
    else:
        image = Image.new("L", (6, 5), 156).convert(mode)
    image.save(tmp_path / "x.jpg", format="TIFF")
    opened = open_image(tmp_path / "x.jpg")
    assert opened.mode == "RGB" and opened.size == (6, 5)
    if mode == "I;16":
        assert opened.getpixel((0, 0)) == (156, 156, 156)  # 40000 / 257


def test_masks_round_trip_with_the_voc_palette(tmp_path):
    mask = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    save_image(tmp_path / "m.png", label_image(mask))
    assert np.array_equal(open_mask(tmp_path / "m.png", 21), mask)
    colours = Image.open(tmp_path / "m.png").convert("RGB")
    assert colours.getpixel((1, 0)) == (128, 0, 0) and colours.getpixel((1, 1)) == (192, 128, 128)  # aeroplane, person
    assert colours.getpixel((0, 1)) == (224, 224, 192)  # the rim
    assert len(voc_palette()) == 768


def test_masks_with_other_ids_are_refused(tmp_path):
    save_image(tmp_path / "m.png", label_image(np.array([[0, 21]], np.uint8)))
    with pytest.raises(UserError, match=r"m\.png: holds id 21"):
        open_mask(tmp_path / "m.png", 21)
    photo(3, 3).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png: a mask of mode RGB"):
        open_mask(tmp_path / "rgb.png", 21)


def test_overlay_and_sheet_sizes():
    overlay = heat_overlay(photo(20, 10), np.ones((10, 20)))
    assert overlay.size == (20, 10) and overlay.getpixel((0, 0))[0] > 170  # full activation is red
    sheet = contact_sheet([[overlay, overlay]] * 3, ["a", "b"], cell=(40, 30), gap=5)
    assert sheet.size == (5 + 2 * 45, 22 + 5 + 3 * 35)


# ---------------------------------------------------------------- lists, classes, the toy set


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\n\r\n  b  \r\n", ["a", "b"]),
        ("\ufeff2007_000032\n", ["2007_000032"]),
        ("\ufeffa\n\ufeff\ufeffb\n\ufeff\nc", ["a", "b", "c"]),  # lists that `cat` joined
        ("/JPEGImages/x_1.jpg /SegmentationClassAug/x_1.png\n", ["x_1"]),
        ("a.b-c\nCOCO_train2014_000000000009\n", ["a.b-c", "COCO_train2014_000000000009"]),
        ("a\nb\na\n", ["a", "b"]),
        ("my cat (2)\nGrüße\nphoto.jpg - Copy\n", ["my cat (2)", "Grüße", "photo.jpg - Copy"]),
        ("a/b\na/b c/d\n", ["a/b", "a/b c/d"]),
        ("/JPEGImages/a b/c d.JPG /Masks/a b/c d.png\n/JPEGImages/e.jpeg\n", ["a b/c d", "e"]),
        ("JPEGImages/e.png SegmentationClass/e.png\n", ["e"]),
        ("2005_010008.jpg\nx.y.PNG\nz.jpg.jpg\n", ["2005_010008", "x.y", "z"]),  # a list of file names
    ],
)
def test_lists(tmp_path, text, ids):
    (tmp_path / "l.txt").write_bytes(text.encode())
    assert read_list(tmp_path / "l.txt") == ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        "../x\n",
        "/etc/passwd\n",
        "/a/../x.jpg\n",
        "..\n",
        "\0\n",
        "a\t1\n",
        "a/../b\n",
        "a/./b\n",
        "a//b\n",
        "a/\n",
        "a\\b\n",
        ".jpg\n",
        "a/.jpg\n",
        "/images/x.jpg\n",
        "/JPEGImages/../x.jpg\n",
        "x" * 252,
        "a/" + "ü" * 126,
    ],
)
def test_lists_that_are_refused(tmp_path, text):
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(UserError, match=r"l\.txt"):
        read_list(tmp_path / "l.txt")


def test_classes_come_from_a_file(tmp_path):
    assert len(load_classes()) == 20 and load_classes()[14] == "person"
    (tmp_path / "c.txt").write_text("tree\nrock\n")
    assert load_classes(tmp_path / "c.txt") == ("tree", "rock")
    for bad in ("", "tree\ntree\n", "background\n"):
        (tmp_path / "c.txt").write_text(bad)
        with pytest.raises(UserError, match="class names"):
            load_classes(tmp_path / "c.txt")


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_toy_drawings_are_the_same_bytes_for_the_same_seed(tmp_path):
    sizes = ["--images", 3, "--val_images", 1, "--size", 60, 44]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        succeeds("voc12/make_toy.py", "--out", tmp_path / name, "--seed", seed, *sizes)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_toy_masks_and_labels_agree(toy):
    ids = read_list(toy / "train.txt")
    labels = load_labels(ids, toy, VOC_CLASSES, cls_labels=None)
    for image_id in ids:
        mask = open_mask(toy / "SegmentationClass" / f"{image_id}.png", 21)
        assert set(np.unique(mask)) - {0, 255} == set(np.flatnonzero(labels[image_id]) + 1)
        assert (mask == 255).any()
        assert mask.shape == np.asarray(open_image(toy / f"JPEGImages/{image_id}.jpg")).shape[:2]
