"""Pictures in and out: what imageio reads is what Pillow reads, and drawings by hand."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tool.io.files import UserError
from tool.io.images import (
    COLOURS,
    PALETTE,
    add_legend,
    check_size,
    header_size,
    heat_overlay,
    image_size,
    label_image,
    label_overlay,
    open_image,
    open_mask,
    save_image,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (31, 23, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
OTHER = Image.fromarray(PIXELS[::-1, ::-1])
TURNED = Image.Exif()
TURNED[274] = 6  # to be shown turned by 90 degrees

FILES = {  # name -> (picture, options of Image.save)
    "JPEG": (PHOTO, {"format": "JPEG"}),
    "grey JPEG": (PHOTO.convert("L"), {"format": "JPEG"}),
    "CMYK JPEG": (PHOTO.convert("CMYK"), {"format": "JPEG"}),
    "turned JPEG": (PHOTO, {"format": "JPEG", "exif": TURNED}),
    "JPEG of broken EXIF": (PHOTO, {"format": "JPEG", "exif": b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"}),
    "turned PNG": (PHOTO, {"format": "PNG", "exif": TURNED}),
    "PNG with a gamma": (PHOTO, {"format": "PNG", "gamma": 0.5}),
    "grey PNG": (PHOTO.convert("L"), {"format": "PNG"}),
    "grey PNG with alpha": (PHOTO.convert("LA"), {"format": "PNG"}),
    "RGBA PNG": (PHOTO.convert("RGBA"), {"format": "PNG"}),
    "palette PNG": (PHOTO.quantize(40), {"format": "PNG"}),
    "palette PNG with transparency": (PHOTO.quantize(40), {"format": "PNG", "transparency": 3}),
    "black and white PNG": (PHOTO.convert("1"), {"format": "PNG"}),
    "animated PNG": (PHOTO, {"format": "PNG", "save_all": True, "append_images": [OTHER]}),
    "TIFF of two pages": (PHOTO, {"format": "TIFF", "save_all": True, "append_images": [OTHER]}),
    "float TIFF": (PHOTO.convert("F"), {"format": "TIFF"}),
    "BMP": (PHOTO, {"format": "BMP"}),
    "GIF": (PHOTO.quantize(99), {"format": "GIF"}),
    "animated GIF": (PHOTO, {"format": "GIF", "save_all": True, "append_images": [OTHER]}),
    "PPM": (PHOTO, {"format": "PPM"}),
    "WebP": (PHOTO, {"format": "WEBP"}),
    "turned WebP": (PHOTO, {"format": "WEBP", "exif": TURNED}),
    "turned TIFF": (PHOTO, {"format": "TIFF", "exif": TURNED}),
    "turned AVIF": (PHOTO, {"format": "AVIF", "exif": TURNED}),
    "JPEG 2000": (PHOTO, {"format": "JPEG2000"}),
    "animated WebP": (PHOTO, {"format": "WEBP", "save_all": True, "append_images": [OTHER]}),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", FILES)
def test_photographs_read_as_pillow_reads_them(tmp_path, name):
    """Every pixel; the first picture where there are several; turned as EXIF says."""
    picture, options = FILES[name]
    path = tmp_path / "no zip.zip" / "http:"  # told by content, and not by what the name looks like
    path.parent.mkdir()
    picture.save(path, **options)
    with Image.open(path) as expected:
        expected = ImageOps.exif_transpose(expected).convert("RGB")
    assert np.array_equal(np.asarray(open_image(path)), np.asarray(expected))
    assert image_size(path) == header_size(path) == expected.size == ((31, 23) if "turned" in name else (23, 31))


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_divided_by_257(tmp_path, mode):
    values = np.array([[0, 255, 256], [40_000, 65_280, 65_535]], np.uint16)
    Image.frombytes(mode, (3, 2), values.astype("<u2" if mode == "I;16" else ">u2").tobytes()).save(
        tmp_path / "x.tif", format="TIFF"
    )
    read = np.asarray(open_image(tmp_path / "x.tif"))
    assert read.tolist() == [[[v] * 3 for v in row] for row in [[0, 1, 1], [156, 254, 255]]]


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_whose_white_is_zero_is_turned(tmp_path, bits):
    """Pillow turns it in 8 bits alone, and writes none."""
    values = np.array([[0, 255, 100]], np.uint16) * (257 if bits == 16 else 1)
    pixels = values.astype(f"<u{bits // 8}").tobytes()
    tags = [(256, 3), (257, 1), (258, bits), (259, 1), (262, 0), (273, 122), (277, 1), (278, 1), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", 0)
    (tmp_path / "x.tif").write_bytes(header + pixels)
    assert len(header) == 122 and np.asarray(open_image(tmp_path / "x.tif"))[0, :, 0].tolist() == [255, 0, 155]


@pytest.mark.parametrize("options", [{}, {"transparency": 2}])
def test_masks_are_ids_and_not_colours(tmp_path, options):
    ids = np.array([[0, 1, 2], [20, 255, 7]], np.uint8)
    label_image(ids).save(tmp_path / "m", format="PNG", **options)
    assert np.array_equal(open_mask(tmp_path / "m", 21), ids)
    Image.fromarray(ids).save(tmp_path / "g", format="PNG")
    assert np.array_equal(open_mask(tmp_path / "g", 21), ids)


def test_a_black_and_white_mask_is_of_the_first_class(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "m", format="PNG")
    assert open_mask(tmp_path / "m", 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("reader", [open_image, image_size, lambda path: open_mask(path, 21)])
def test_formats_that_could_run_programs_are_no_images(tmp_path, reader):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"x\.jpg: unreadable (image|mask) \(not an image\)"):
        reader(tmp_path / "x.jpg")


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def test_pictures_are_written_as_pillow_writes_them(tmp_path):
    save_image(tmp_path / "a.jpg", PHOTO, quality=92)
    assert (tmp_path / "a.jpg").read_bytes() == encoded(PHOTO, format="JPEG", quality=92)
    for name, picture in {"rgb": PHOTO, "grey": PHOTO.convert("L"), "palette": label_image(PIXELS[..., 0])}.items():
        save_image(tmp_path / f"{name}.png", picture)
        with Image.open(tmp_path / f"{name}.png") as read:
            assert read.mode == picture.mode and np.array_equal(np.asarray(read), np.asarray(picture))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "grey.png", "palette.png", "rgb.png"]


# ---------------------------------------------------------------- drawings


def test_heat_goes_from_blue_over_green_and_yellow_to_red():
    black = Image.new("RGB", (5, 1))
    colours = np.asarray(heat_overlay(black, np.array([[0.1, 0.3, 0.57, 0.75, 1]])))[0].astype(int)
    assert [tuple(np.flatnonzero(c > 40)) for c in colours] == [(2,), (1, 2), (0, 1, 2), (0, 1), (0,)]
    assert colours[4].tolist() == pytest.approx([128, 0, 0], abs=2)  # half of pure red
    outside = heat_overlay(black, np.array([[-1.0, 2, 0, 1, 1]]))
    assert outside.getpixel((0, 0)) == outside.getpixel((2, 0)) and outside.getpixel((1, 0)) == outside.getpixel((3, 0))


def test_where_a_map_is_0_the_photograph_is_as_it_was():
    score = np.eye(*PIXELS.shape[:2])
    changed = (np.asarray(heat_overlay(PHOTO, score)) != PIXELS).any(-1)
    assert np.array_equal(changed, score > 0)


def test_colours_are_seen_on_black_and_differ():
    """WCAG 2 asks for a contrast of 3 of what is drawn; over black an overlay has 0.6 of its colour."""
    values = COLOURS[1:] * 0.6 / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    assert ((linear @ (0.2126, 0.7152, 0.0722) + 0.05) / 0.05).min() >= 3
    lab = cv2.cvtColor(COLOURS[None, 1:21].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert distances[~np.eye(20, dtype=bool)].min() > 10  # of 20 classes; 2 is a just noticeable difference


def test_the_photograph_shows_through():
    white, black = (heat_overlay(Image.new("RGB", (2, 2), c), np.full((2, 2), 0.4)) for c in ("white", "black"))
    difference = np.asarray(white).astype(int) - np.asarray(black)
    assert difference.min() >= 127 and difference.max() <= 128


def test_objects_are_filled_and_outlined():
    labels = np.zeros((9, 12), np.uint8)
    labels[1:6, 1:6] = 3  # 5 x 5 of one class
    labels[1:6, 6:10] = 2  # beside it 5 x 4 of another
    labels[8, 8] = 255
    photo = Image.new("RGB", (12, 9), (100, 100, 100))
    drawn = np.asarray(label_overlay(photo, labels)).astype(int)
    assert drawn.shape == (9, 12, 3)
    expected = np.full((9, 12, 3), 100)
    expected[1:6, 1:10] = 255  # the outlines
    for k, inside in {3: np.s_[2:5, 2:5], 2: np.s_[2:5, 7:9]}.items():
        expected[inside] = np.rint(0.4 * 100 + 0.6 * COLOURS[k])
    assert np.abs(drawn - expected).max() <= 1


def test_an_overlay_of_background_is_the_photograph():
    labels = np.zeros((31, 23), np.uint8)
    labels[3:9] = 255
    assert np.array_equal(np.asarray(label_overlay(PHOTO, labels, ("cat",))), PIXELS)


def test_the_legend_names_the_classes_that_are_there():
    labels = np.zeros((40, 120), np.uint8)
    labels[:5, :5], labels[20:30, 20:30] = 1, 3
    names = ("Käse", "nowhere", "Brot")
    drawn = label_overlay(Image.new("RGB", (120, 40)), labels, names)
    plain = label_overlay(Image.new("RGB", (120, 40)), labels)
    assert drawn.width == 120 and drawn.height > 40
    assert np.array_equal(np.asarray(drawn)[:40], np.asarray(plain))
    legend = {tuple(c) for c in np.asarray(drawn)[40:].reshape(-1, 3).tolist()}
    assert {tuple(COLOURS[1].tolist()), tuple(COLOURS[3].tolist()), (255, 255, 255)} <= legend
    assert tuple(COLOURS[2].tolist()) not in legend


def test_a_legend_takes_as_many_lines_as_it_needs():
    image = Image.new("RGB", (90, 10))
    names = ["aeroplane", "pottedplant", "cow", "cat", "a name that is wider than the picture by itself"]
    heights = [add_legend(image, dict.fromkeys(names[:k], PALETTE[7]), line=14).height for k in range(6)]
    assert heights == [10, 24, 38, 52, 52, 66]


def test_sizes_must_agree():
    with pytest.raises(UserError, match=r"x\.npy: 3 x 2 pixels, but its mask has 2 x 3"):
        check_size(np.zeros((3, 2)), (2, 3), "x.npy")
