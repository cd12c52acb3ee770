"""Photographs and masks as they come: turned by EXIF, of many formats, deep or huge, and larger than a network sees."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from conftest import infer_flags, prints, refused, run_here
from PIL import Image, ImageOps, PngImagePlugin
from stage_runs import predict_flags

from tool.cam import inner_size, labelled_cam, multi_scale_cam
from tool.crf import crf_of_large, crf_with_alphas, fit
from tool.io import images
from tool.io.files import UserError, read_list
from tool.io.images import fit_mask, header_size, image_size, is_turned, label_image, open_image, open_mask
from tool.io.scores import read_scores, write_scores
from tool.results import score
from tool.segmentation import label_map
from voc12.data import MaskedSet, SegSet, WalkSet
from voc12.layout import find_photographs
from voc12.paths import check_images
from voc12.transforms import AffinityView, InferenceViews, SegView

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)  # 20 wide, 12 high as it is stored
MAKE = "voc12/make_dataset.py"


def exif(orientation):
    found = Image.Exif()
    found[274] = orientation
    return found


def turned(path, orientation, pixels=PIXELS, **options):
    """Save a photograph losslessly, as PNG whatever its name, with an orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"format": "PNG", "exif": exif(orientation)} | options))
    return path


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_seen_as_pillow_shows_it(tmp_path, form, orientation):
    path = turned(tmp_path / "x", orientation, format=form)
    with Image.open(path) as stored:
        shown = ImageOps.exif_transpose(stored).convert("RGB")
    assert np.array_equal(np.asarray(open_image(path)), np.asarray(shown))
    assert header_size(path) == image_size(path) == shown.size == ((12, 20) if orientation > 4 else (20, 12))
    assert is_turned(path) == (orientation > 1)


def test_a_png_that_says_so_behind_its_pixels(tmp_path):
    """Where some tools put EXIF; Pillow reads it after the pixels."""
    data = turned(tmp_path / "x.png", 1, exif=b"").read_bytes()
    body = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "x.png").write_bytes(data[:-12] + late + data[-12:])
    assert header_size(tmp_path / "x.png") == (12, 20)
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.png")), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("orientation, by_hand", [(5, lambda m: m.T), (6, lambda m: np.rot90(m, -1)), (8, np.rot90)])
def test_a_mask_of_the_stored_size_is_turned_like_its_photograph(tmp_path, orientation, by_hand):
    path = turned(tmp_path / "x.png", orientation)
    stored = np.arange(240, dtype=np.uint8).reshape(12, 20) % 9
    assert np.array_equal(fit_mask(stored, (20, 12), path), by_hand(stored))
    shown = by_hand(stored)
    assert fit_mask(shown, (20, 12), path) is shown


def test_masks_that_are_not_turned(tmp_path):
    """Of photographs that are stored as they are shown, of a third size, and where either size is the same."""
    mask = np.zeros((12, 20), np.uint8)
    assert fit_mask(mask, (20, 12), turned(tmp_path / "upright.png", 1)) is mask
    assert fit_mask(mask, (20, 12), turned(tmp_path / "x.png", 6)).shape == (20, 12)
    odd = np.zeros((12, 19), np.uint8)
    assert fit_mask(odd, (20, 12), tmp_path / "x.png") is odd
    assert fit_mask(mask, (12, 20), turned(tmp_path / "upside_down.png", 3)) is mask
    assert fit_mask(mask, (20, 12), tmp_path / "missing.png") is mask
    # results of another method, in the stored size: the truth, in the size that is shown, stays as it is
    assert fit_mask(mask.T, (12, 20), tmp_path / "x.png").shape == (20, 12)


def test_a_mask_with_an_orientation_of_its_own_is_turned_by_it(tmp_path):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(ids).save(tmp_path / "m.png", exif=exif(8))
    assert np.array_equal(open_mask(tmp_path / "m.png", 21), np.rot90(ids))


@pytest.fixture
def sideways(tmp_path):
    """A data set of two turned photographs: the mask of a is of the stored size, that of b of the shown one."""
    stored = np.zeros((12, 20), np.uint8)
    stored[:6] = 1
    for image_id, mask in {"a": stored, "b": np.rot90(stored, -1)}.items():
        turned(tmp_path / f"set/JPEGImages/{image_id}.png", 6)
        (tmp_path / "set/SegmentationClass").mkdir(exist_ok=True)
        label_image(mask).save(tmp_path / f"set/SegmentationClass/{image_id}.png")
    (tmp_path / "set/list.txt").write_text("a\nb\n")
    return tmp_path / "set"


def test_data_sets_give_photograph_and_mask_turned_alike(sideways):
    masks = SegSet(sideways, ["a", "b"], sideways / "SegmentationClass", 21, None, 0)
    right = np.rot90(np.repeat([1, 0], 6)[:, None].repeat(20, 1), -1)
    samples = MaskedSet(sideways, ["a", "b"], 21, SegView().look)
    for k, image_id in enumerate(["a", "b"]):
        assert np.array_equal(masks.label(image_id, (12, 20)), right)
        x, truth = samples[k]
        assert x.shape == (3, 20, 12) and np.array_equal(truth, right)


def test_scores_are_those_of_the_turned_masks(sideways, tmp_path):
    right = np.zeros((20, 12), np.float32)
    right[:, 6:] = 1  # what was above is on the right
    for image_id in ("a", "b"):
        write_scores(tmp_path / "dict" / f"{image_id}.npy", {0: right})
    flags = ["--pred_dir", tmp_path / "dict", "--task", "cam", "--threshold", 0.5, "--voc12_root", sideways]
    prints("evaluation.py", *flags, "--list", sideways / "list.txt", "--json", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["miou_present"] == 100


def test_reading_a_data_set_says_how_many_are_turned(sideways, capsys):
    turned(sideways / "JPEGImages/c.png", 1)
    check_images(["a", "b", "c"], sideways)
    assert "2 of 3 photographs are stored turned" in capsys.readouterr().out
    check_images(["c"], sideways)
    assert not capsys.readouterr().out


def test_making_a_data_set_says_how_many_are_turned(sideways, tmp_path, capsys):
    (tmp_path / "photos/dog").mkdir(parents=True)
    (sideways / "JPEGImages").rename(tmp_path / "photos/dog/own")
    (tmp_path / "masks/dog").mkdir(parents=True)
    (sideways / "SegmentationClass").rename(tmp_path / "masks/dog/own")
    flags = ["--images", tmp_path / "photos", "--by_folder", "--masks", tmp_path / "masks", "--val", 0]
    out = prints(MAKE, *flags, "--out", tmp_path / "made")
    assert "2 of 2 photographs are stored turned" in out and "smallest 12 x 20" in out
    assert "own/a.png: was drawn on the photograph unturned, and is turned like it\n" in capsys.readouterr().err


# ---------------------------------------------------------------- formats


def test_suffixes_are_those_that_pillow_reads_here(tmp_path):
    for suffix, form in {"jfif": "JPEG", "JPE": "JPEG", "jp2": "JPEG2000", "webp": "WEBP", "avif": "AVIF"}.items():
        Image.fromarray(PIXELS).save(tmp_path / f"{suffix}.{suffix}", format=form)
        (tmp_path / "list.txt").write_text(f"{suffix}.{suffix}\n")
        assert read_list(tmp_path / "list.txt") == [suffix]
    (tmp_path / "list.txt").unlink()
    assert {name.split(".")[0] for name in find_photographs(tmp_path)} == {"jfif", "JPE", "jp2", "webp", "avif"}
    for name in find_photographs(tmp_path):
        assert open_image(tmp_path / name).size == (20, 12)


def test_a_pillow_without_avif(tmp_path, monkeypatch):
    """Its files are passed over, and one that is named all the same is said to be what it is."""
    monkeypatch.setattr(images, "SUFFIXES", tuple(s for s in images.SUFFIXES if s != ".avif"))
    monkeypatch.setattr(images, "FORMATS", tuple(f for f in images.FORMATS if f != "AVIF"))
    Image.fromarray(PIXELS).save(tmp_path / "x.avif")
    with pytest.raises(UserError, match=r"x\.avif: unreadable image \(this Pillow reads no \.avif"):
        open_image(tmp_path / "x.avif")


def test_what_is_passed_over_is_counted_by_suffix(tmp_path, capsys):
    turned(tmp_path / "photos/cat/a.png", 1)
    (tmp_path / "photos/dog").mkdir()
    for name in ("dog/1.HEIC", "dog/2.heic", "cat/notes.txt", "cat/.hidden.heic", "LICENSE"):
        (tmp_path / "photos" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    prints(MAKE, "--images", tmp_path / "photos", "--by_folder", "--out", tmp_path / "made")
    errors = capsys.readouterr().err
    assert "4 files are passed over: 2 .heic, " in errors and "1 .txt" in errors and "1 without suffix" in errors
    assert "photos/dog: no photograph there, so it gives no class" in errors and "photos/cat: no" not in errors
    with pytest.raises(UserError, match=r"dog: no photographs there \(\.jpg.*\); passed over: 2 \.heic$"):
        find_photographs(tmp_path / "photos/dog")


def test_heic_named_jpg_is_said_to_be_heic(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(UserError, match=r"x\.jpg: unreadable image \(HEIC"):
        open_image(tmp_path / "x.jpg")


# ---------------------------------------------------------------- more than 8 bits, huge, masks as JPEG


def written(path, values, mode=None):
    Image.fromarray(np.array(values, dtype=mode)).save(path, format="TIFF")
    return path


@pytest.mark.parametrize(
    "values, kind, expected",
    [
        ([[0, 16, 4095]], np.uint16, [0, 1, 255]),  # 12 bits in 16
        ([[0, 257, 65535]], np.uint16, [0, 1, 255]),
        ([[0, 7, 255]], np.uint16, [0, 7, 255]),  # 8 bits in 16
        ([[0, 1600, 4095]], np.int32, [0, 100, 255]),
        ([[257, 5140, 65535]], np.int32, [1, 20, 255]),
        ([[0, 0.2, 1]], np.float32, [0, 51, 255]),
        ([[0, 3.0, 255]], np.float32, [0, 3, 255]),
    ],
)
def test_deep_greys_by_hand(tmp_path, values, kind, expected):
    read = np.asarray(open_image(written(tmp_path / "x.tif", values, kind)))
    assert read.tolist() == [[[v] * 3 for v in expected]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("top, divisor", [(4096, 16), (65536, 257)])
def test_deep_colours_by_hand(tmp_path, suffix, top, divisor):
    """Pillow drops the lower 8 bits of 16-bit colours: of 12 bits almost everything."""
    rgb = np.random.default_rng(0).integers(0, top, (5, 4, 3)).astype(np.uint16)
    rgb[0, 0] = top - 1
    (tmp_path / "x").write_bytes(cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes())
    with pytest.raises(UserError, match="unreadable"):
        (tmp_path / "cut").write_bytes((tmp_path / "x").read_bytes()[:-90])
        open_image(tmp_path / "cut")
    exact = rgb / divisor
    assert np.abs(np.asarray(open_image(tmp_path / "x")) - exact).max() < 1


@pytest.mark.parametrize(
    "values, kind", [([[0, 70_000]], np.int32), ([[-1, 5]], np.int32), ([[0, 256.5]], np.float32),
                     ([[-0.1, 1]], np.float32), ([[0, np.nan]], np.float32)]
)  # fmt: skip
@pytest.mark.parametrize("reader", [open_image, header_size, image_size])
def test_values_that_no_rule_fits_are_refused(tmp_path, values, kind, reader):
    with pytest.raises(UserError, match=r"x\.tif: values from .* save it with 8 bits"):
        reader(written(tmp_path / "x.tif", values, kind))


def test_deep_photographs_are_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(images, "_said", bytearray(4))
    for _ in range(3):
        open_image(written(tmp_path / "x.tif", [[0, 4095]], np.uint16))
    assert capsys.readouterr().err.count("x.tif: integers above 8 bits are read as") == 1


@pytest.mark.parametrize("reader", [open_image, header_size, image_size, lambda path: open_mask(path, 21)])
def test_huge_photographs_are_to_be_cut(tmp_path, reader):
    header = struct.pack(">IIBBBBB", 13_400, 13_400, 8, 0, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        )
    )  # fmt: skip
    with pytest.raises(UserError, match=r"x\.png: \w+ of more than 179 megapixels; cut it into tiles"):
        reader(tmp_path / "x.png")


@pytest.mark.parametrize("form, options", [("JPEG", {}), ("JPEG2000", {}), ("TIFF", {"compression": "jpeg"})])
def test_masks_of_formats_that_change_ids_are_refused(tmp_path, form, options):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png", format=form, **options)
    with pytest.raises(UserError, match=r"m\.png: a mask stored as JPEG(2000)?, which changes ids"):
        open_mask(tmp_path / "m.png", 21)


# ---------------------------------------------------------------- black-and-white masks


def blacken(folder, name="toy_00002.png"):
    mask = np.asarray(Image.open(folder / name))
    Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(folder / name)


def test_black_and_white_masks_are_said_before_training(broken, tmp_path):
    flags = ["--name", "n", "--experiment", tmp_path, "--voc12_root", broken, "--pretrained", "none", "--check"]
    flags += ["--num_workers", 0, "--device", "cpu", "--width", 0.0625, "--crop_size", 48, "--batch_size", 2]
    flags += ["--train_list", broken / "train.txt", "--val_list", broken / "train.txt"]
    blacken(broken / "SegmentationClass")
    wanted = "toy_00002.png: holds nothing but 0 and 255"
    code, errors = run_here("train.py", *flags, "--batch_size_triplet", 2, "--resize", 48, 72)
    assert code == 0 and errors.count(wanted) == 1
    code, errors = run_here("train_seg.py", *flags, "--labels", broken / "SegmentationClass")
    assert code == 0 and errors.count(wanted) == 2  # as labels, and as masks of --val_list


def test_black_and_white_masks_are_said_by_make_dataset(tmp_path, capsys):
    for name in ("dog/a.png", "dog/b.png"):
        turned(tmp_path / "photos" / name, 1)
        (tmp_path / "masks/dog").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(12, 20, dtype=np.uint8) * 255).save(tmp_path / "masks" / name)
    flags = ["--images", tmp_path / "photos", "--by_folder", "--masks", tmp_path / "masks", "--out", tmp_path / "made"]
    prints(MAKE, *flags)
    assert "dog/a.png: holds nothing but 0 and 255" in (errors := capsys.readouterr().err)
    assert "(and 1 more files)" in errors


# ---------------------------------------------------------------- --max_side


@pytest.mark.parametrize(
    "size, side, seen",
    [((3024, 4032), 1024, (768, 1024)), ((40, 30), 20, (20, 15)), ((1, 5000), 1024, (1, 1024)),
     ((1024, 7), 1024, (1024, 7)), ((3024, 4032), 0, (3024, 4032))]
)  # fmt: skip
def test_the_size_at_which_a_photograph_is_seen(size, side, seen):
    assert inner_size(size, side) == seen


def test_no_view_is_larger(tmp_path):
    photo = Image.fromarray(PIXELS).resize((400, 300))
    views = InferenceViews((0.5, 2.0), max_side=40)(photo)
    assert [tuple(view.shape[-2:]) for view in views] == [(15, 20), (60, 80)]
    x, s = AffinityView(crop=64, max_side=40, jitter=(0,) * 4)(photo, torch.ones(2, 300, 400), np.random.default_rng(0))
    assert s[0].sum() == 30 * 40  # the photograph as it lies in the crop
    label = np.ones((300, 400), np.uint8)
    x, y = SegView((1, 1), 64, (0,) * 4, max_side=40)(photo, label, np.random.default_rng(0))
    assert (y == 1).sum() == 30 * 40
    photo.save(tmp_path / "a.png")
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "JPEGImages/a.png")
    write_scores(tmp_path / "dict/a.npy", {3: np.zeros((300, 400), np.float32)})
    _, shown, view, maps = WalkSet(tmp_path, ["a"], tmp_path / "dict", 20, max_side=40)[0]
    assert shown.shape == (300, 400, 3) and view.shape == (3, 30, 40) and maps[3].shape == (300, 400)


class Ramp:
    """A network whose maps are the red of the picture, and its negative."""

    @staticmethod
    def class_maps(x):
        return torch.cat([x[:, :1], -x[:, :1]], 1)


def test_maps_of_a_large_photograph_are_those_of_its_small_version():
    photo = Image.fromarray(np.linspace(0, 255, 200).astype(np.uint8)[None].repeat(150, 0)).convert("RGB")
    views = InferenceViews((1.0,), max_side=40)(photo)
    maps = labelled_cam(Ramp, views, torch.tensor([1.0, 0.0]), (30, 40), (150, 200))
    assert list(maps) == [0] and maps[0].shape == (150, 200)
    small = multi_scale_cam(Ramp, views, torch.tensor([1.0, 0.0]), (30, 40))[0].numpy()
    np.testing.assert_allclose(maps[0], cv2.resize(small, (200, 150)), atol=1e-5)
    same = labelled_cam(Ramp, views, torch.tensor([1.0, 0.0]), (30, 40), (30, 40))
    assert np.array_equal(same[0], small)


def test_the_crf_of_a_large_photograph_is_that_of_its_small_version():
    image = cv2.resize(PIXELS, (120, 72), interpolation=cv2.INTER_NEAREST)
    maps = {2: cv2.resize(np.random.default_rng(1).random((12, 20)).astype(np.float32), (120, 72))}
    large = dict(crf_of_large(image, maps, [2, 9], max_side=60))
    small = crf_with_alphas(fit(image, (36, 60)), {2: fit(maps[2], (36, 60))}, [2, 9])
    assert large.keys() == small.keys() == {2, 9}
    for alpha, scores in large.items():
        assert scores[0].shape == (72, 120)
        np.testing.assert_allclose(scores[0] + scores[3], 1, atol=1e-5)
        np.testing.assert_allclose(scores[3], cv2.resize(small[alpha][3], (120, 72)), atol=1e-6)
    for alpha, scores in crf_of_large(image, maps, [2, 9], max_side=120):
        assert np.array_equal(scores[3], crf_with_alphas(image, maps, [2, 9])[alpha][3])


def test_labels_of_small_scores_at_the_photographs_size():
    scores = np.random.default_rng(0).random((4, 6, 5)).astype(np.float32)
    large = np.stack([cv2.resize(row, (50, 60)) for row in scores])
    assert np.array_equal(label_map(scores, (60, 50)), large.argmax(0))
    assert np.array_equal(label_map(torch.from_numpy(scores), (60, 50)), large.argmax(0))


def test_infer_says_when_it_bites_and_writes_the_photographs_size(trained, tmp_path, capsys):
    for name, size in {"large.png": (130, 90), "larger.png": (200, 150), "small.png": (64, 48)}.items():
        turned(tmp_path / "photos" / name, 1, np.asarray(Image.fromarray(PIXELS).resize(size)))
    flags = [*predict_flags(trained, tmp_path / "photos", tmp_path / "out"), "--alphas", 2, "--scales", 1]
    prints("infer.py", *flags, "--max_side", 100)
    errors = capsys.readouterr().err
    assert errors.count("seen at") == 1 and "large: 130 x 90 pixels, seen at 100 x 69 (--max_side 100" in errors
    assert "2 photographs were larger than --max_side 100" in errors
    for folder in ("dict", "crf/02"):
        shapes = {p.stem: next(iter(read_scores(p).values())).shape for p in (tmp_path / "out" / folder).glob("*.npy")}
        assert shapes == {"large": (90, 130), "larger": (150, 200), "small": (48, 64)}
    # not given, it is the MAX of train.py --resize
    refused("infer.py", *flags, says=["out/dict: holds results of other settings: max_side 100, not 72"])
    prints("infer.py", *flags, "--max_side", 0, "--overwrite")
    assert "seen at" not in capsys.readouterr().err


def test_maps_of_a_turned_photograph_and_its_mask(broken, trained, tmp_path):
    """The whole way: a photograph of the list is stored turned; its maps are those of the upright one."""
    (tmp_path / "n").mkdir()
    (tmp_path / "n/ckpt").symlink_to(trained / "n/ckpt")
    (broken / "one.txt").write_text("toy_00001\n")
    path = broken / "JPEGImages/toy_00001.jpg"
    flags = [*infer_flags(broken, tmp_path), "--infer_list", broken / "one.txt", "--dict", "--scales", 1]
    upright = open_image(path)
    maps = []
    for orientation, stored in ((1, upright), (8, upright.transpose(Image.Transpose.ROTATE_270))):
        stored.save(path, format="PNG", exif=exif(orientation))
        out = prints("infer.py", *flags)
        assert ("1 of 1 photographs are stored turned" in out) == (orientation == 8)
        maps.append(read_scores(tmp_path / "n/dict/toy_00001.npy"))
    for key in maps[0]:
        assert np.array_equal(maps[0][key], maps[1][key])


def test_scores_by_an_unturned_copy_of_the_truth(tmp_path):
    """`score` without photographs refuses what does not fit, as before."""
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / "m.png")
    write_scores(tmp_path / "i.npy", {0: np.zeros((5, 3), np.float32)})
    with pytest.raises(UserError, match="3 x 5 pixels, but its mask has 5 x 3"):
        score(["i"], tmp_path, lambda i: tmp_path / "m.png", "cam", (0.5,), ("background", "cat"))


def test_exif_that_is_nonsense_turns_nothing(tmp_path):
    for k, tag in enumerate((0, 9, 77)):
        assert open_image(turned(tmp_path / f"{k}.png", tag)).size == (20, 12)
    stream = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n  3\nzz")
    Image.fromarray(PIXELS).save(stream, "PNG", pnginfo=text)
    (tmp_path / "raw.png").write_bytes(stream.getvalue())
    assert header_size(tmp_path / "raw.png") == (20, 12)
