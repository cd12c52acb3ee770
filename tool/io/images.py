"""Images in and out: photographs, label masks with the VOC palette, overlays, contact sheets."""

import contextlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from tool.io.files import UserError, atomic
from tool.io.scores import ORIGIN_MARK

BACKGROUND = 0  # mask value of what is no object
IGNORE = 255  # mask value of pixels that count for nothing
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's photographs, RGB, of values in [0, 1]
STD = (0.229, 0.224, 0.225)

# Told by content, whatever the name ends in. Not all that PIL knows: to read an EPS it runs Ghostscript on it.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP")


def _open(path, what, coarse=False, header_only=False):
    try:
        image = Image.open(path, formats=FORMATS)
        if coarse:
            image.draft("RGB", (1, 1))
        if not header_only:
            image.load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; the list names it") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise UserError(f"{path}: unreadable {what} ({reason}); fetch it again or take it off the list") from None
    return image


def open_image(path):
    """A photograph as an RGB PIL image, pixels as stored (EXIF rotation is not applied: masks do not follow it).

    UserError with the path where the file is missing, truncated or no image.
    """
    image = _open(path, "image")
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def image_size(path):
    """(width, height) of a photograph that can be read to its end; UserError as `open_image`.

    A JPEG is decoded to an eighth of its sides, three times as fast as whole.
    """
    with contextlib.suppress(Exception):  # said by _open, in words
        with Image.open(path, formats=FORMATS) as image:
            size = image.size
    _open(path, "image", coarse=True)
    return size


def header_size(path):
    """(width, height) as a photograph's header says, its pixels unread; UserError as `open_image`."""
    with _open(path, "image", header_only=True) as image:
        return image.size


def open_mask(path, num_labels):
    """A label mask as H x W uint8: 0 background, 1..num_labels-1 classes, 255 ignored.

    UserError where it is missing, broken, coloured (RGB) or has other ids.
    """
    image = _open(path, "mask")
    if image.mode not in ("P", "L", "1"):
        raise UserError(f"{path}: a mask of mode {image.mode}; masks are 8-bit palette or grey PNGs of class ids")
    mask = np.array(image, dtype=np.uint8)
    wrong = mask[(mask >= num_labels) & (mask != IGNORE)]
    if wrong.size:
        raise UserError(f"{path}: holds id {wrong.max()}; ids go from 0 to {num_labels - 1}, and 255 is ignored")
    return mask


def voc_palette():
    """The 256 RGB colours of VOC masks as a flat list of 768 values: bits of the id spread over the channels."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8).ravel().tolist()


def label_image(labels):
    """H x W ids -> palette PIL image with the VOC colours."""
    image = Image.fromarray(np.asarray(labels, dtype=np.uint8), mode="P")
    image.putpalette(voc_palette())
    return image


def save_image(path, image, origin="", **options):
    """Write a PIL image atomically; the format follows the suffix of `path`. origin: for `file_origin`, PNG only."""
    image_format = {".jpg": "JPEG", ".png": "PNG"}[Path(path).suffix]
    if origin:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text(ORIGIN_MARK[:-1].decode(), origin)
    with atomic(path) as temporary:
        with open(temporary, "wb") as stream:
            image.save(stream, format=image_format, **options)


def heat_overlay(photo, score):
    """Photo (PIL RGB) with a class map over it: H x W in [0, 1], from transparent blue over yellow to red."""
    v = np.clip(np.asarray(score, dtype=np.float32), 0, 1)[..., None]
    red, green = np.clip(2 * v, 0, 1), 0.9 * np.clip(2 - 2 * np.abs(2 * v - 1), 0, 1)
    ramp = np.concatenate([red, green, 1 - red], axis=2)
    weight = 0.25 + 0.45 * v
    return Image.fromarray((np.asarray(photo) * (1 - weight) + 255 * ramp * weight).astype(np.uint8))


def label_overlay(photo, labels):
    """Photo (PIL RGB) with labels (H x W ids) in the VOC colours over it; background and 255 stay clear."""
    colours = np.asarray(voc_palette(), dtype=np.uint8).reshape(256, 3)[labels]
    clear = ((labels == 0) | (labels == IGNORE))[..., None]
    photo = np.asarray(photo)
    mixed = np.where(clear, photo, 0.4 * photo + 0.6 * colours)
    return Image.fromarray(mixed.astype(np.uint8))


def contact_sheet(rows, titles, cell=(180, 140), gap=6):
    """Rows of PIL images, a title over each column -> one PIL image; every cell is fitted into `cell` (w, h) pixels."""
    width = gap + len(titles) * (cell[0] + gap)
    sheet = Image.new("RGB", (width, 22 + gap + len(rows) * (cell[1] + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell[0] + gap) + cell[0] / 2, 12), title, fill="black", anchor="mm", font_size=13)
        for row, images in enumerate(rows):
            image = images[column].convert("RGB")
            scale = min(cell[0] / image.width, cell[1] / image.height)
            image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            sheet.paste(
                image,
                (
                    gap + column * (cell[0] + gap) + (cell[0] - image.width) // 2,
                    22 + gap + row * (cell[1] + gap) + (cell[1] - image.height) // 2,
                ),
            )
    return sheet
