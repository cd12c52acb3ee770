"""Images in and out: photographs, label masks with the VOC palette, overlays, contact sheets."""

import contextlib
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from tool.io.files import UserError, atomic
from tool.io.scores import ORIGIN_MARK

cv2.setNumThreads(1)  # its threads do not survive the forks of loaders and CRF workers, and what is drawn is small

BACKGROUND = 0  # mask value of what is no object
IGNORE = 255  # mask value of pixels that count for nothing
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's photographs, RGB, of values in [0, 1]
STD = (0.229, 0.224, 0.225)

# Told by content, whatever the name ends in. Not all that PIL knows: to read an EPS it runs Ghostscript on it.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP")


@contextlib.contextmanager
def _opened(path, what):
    """The file at `path` and its picture as Pillow knows it from the header; UserError where reading goes wrong."""
    try:
        with open(path, "rb") as stream:
            header = Image.open(stream, formats=FORMATS)
            yield stream, header
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; the list names it") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise UserError(f"{path}: unreadable {what} ({reason}); fetch it again or take it off the list") from None


def _pixels(stream, mode):
    """Pixels of the first picture of a file as an array, in a mode of Pillow's; EXIF rotation is not applied."""
    stream.seek(0)
    return iio.imread(stream, plugin="pillow", index=0, mode=mode, writeable_output=False)


def open_image(path):
    """A photograph as an RGB PIL image, pixels as stored (EXIF rotation is not applied: masks do not follow it).

    UserError with the path where the file is missing, truncated or no image.
    """
    with _opened(path, "image") as (stream, header):
        if header.mode.startswith("I;16"):  # Pillow would clip 16 bits to white
            return Image.fromarray((_pixels(stream, header.mode) >> 8).astype(np.uint8)).convert("RGB")
        return Image.fromarray(_pixels(stream, "RGB"))


def image_size(path):
    """(width, height) of a photograph that can be read to its end; UserError as `open_image`.

    A JPEG is decoded to an eighth of its sides, three times as fast as whole.
    """
    with _opened(path, "image") as (_, image):
        size = image.size
        image.draft("RGB", (1, 1))
        image.load()
        return size


def header_size(path):
    """(width, height) as a photograph's header says, its pixels unread; UserError as `open_image`."""
    with _opened(path, "image") as (_, image):
        return image.size


def open_mask(path, num_labels):
    """A label mask as H x W uint8: 0 background, 1..num_labels-1 classes, 255 ignored.

    UserError where it is missing, broken, coloured (RGB) or has other ids.
    """
    with _opened(path, "mask") as (stream, header):
        if header.mode not in ("P", "L", "1"):
            raise UserError(f"{path}: a mask of mode {header.mode}; masks are 8-bit palette or grey PNGs of class ids")
        mask = _pixels(stream, header.mode).astype(np.uint8)  # ids: in this mode no palette is applied
    wrong = mask[(mask >= num_labels) & (mask != IGNORE)]
    if wrong.size:
        raise UserError(f"{path}: holds id {wrong.max()}; ids go from 0 to {num_labels - 1}, and 255 is ignored")
    return mask


def classes_in(labels):
    """Ids of the classes in H x W labels, without background and 255; of None, none."""
    return set() if labels is None else set(np.unique(labels).tolist()) - {BACKGROUND, IGNORE}


def voc_palette():
    """The 256 RGB colours of VOC masks as a flat list of 768 values: bits of the id spread over the channels."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8).ravel().tolist()


PALETTE = np.array(voc_palette(), dtype=np.uint8).reshape(256, 3)


def label_image(labels):
    """H x W ids -> palette PIL image with the VOC colours."""
    image = Image.fromarray(np.asarray(labels, dtype=np.uint8), mode="P")
    image.putpalette(voc_palette())
    return image


def save_image(path, image, origin="", **options):
    """Write a PIL image atomically; the format follows the suffix of `path`. origin: for `file_origin`, PNG only."""
    suffix = Path(path).suffix
    if origin:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text(ORIGIN_MARK[:-1].decode(), origin)
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        if image.mode == "P":  # imageio knows no palettes
            image.save(stream, format="PNG", **options)
        else:
            iio.imwrite(stream, np.asarray(image), plugin="pillow", extension=suffix, **options)


# ---------------------------------------------------------------- drawings


def heat_overlay(photo, score):
    """Photo (PIL RGB) with a class map over it: H x W in [0, 1], from blue over yellow to red."""
    score = np.rint(223 * np.clip(score, 0, 1)).astype(np.uint8)  # JET's pure red; what follows is darker
    heat = cv2.cvtColor(cv2.applyColorMap(score, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return Image.fromarray(cv2.addWeighted(np.asarray(photo), 0.5, heat, 0.5, 0))


def label_overlay(photo, labels, names=None):
    """Photo (PIL RGB) with labels (H x W ids) in the VOC colours over it, every object outlined in white.

    Background and 255 stay clear. names: of the classes from id 1 on; with them a legend of the classes that are there
    stands below the picture, which is higher by it.
    """
    photo = np.asarray(photo)
    mixed = cv2.addWeighted(photo, 0.4, PALETTE[labels], 0.6, 0)
    mixed[(labels == BACKGROUND) | (labels == IGNORE)] = photo[(labels == BACKGROUND) | (labels == IGNORE)]
    present = sorted(classes_in(labels))
    for k in present:
        contours, _ = cv2.findContours((labels == k).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(mixed, contours, -1, (255, 255, 255), 1 if min(labels.shape) < 300 else 2)
    return add_legend(Image.fromarray(mixed), {names[k - 1]: PALETTE[k] for k in present} if names else {})


def add_legend(image, colours, line=14):
    """PIL image with names beside squares of their colours below it. colours: {name: RGB}; line: height in pixels."""
    draw = ImageDraw.Draw(image)
    places, x, y = {}, 2, 0
    for name in colours:
        width = line + 10 + round(draw.textlength(name, font_size=line - 3))
        if places and x + width > image.width:
            x, y = 2, y + line
        places[name] = x, image.height + y
        x += width
    if not places:
        return image
    page = Image.new("RGB", (image.width, image.height + y + line), "white")
    page.paste(image)
    draw = ImageDraw.Draw(page)
    for name, (x, y) in places.items():
        draw.rectangle((x, y + 2, x + line - 5, y + line - 3), fill=tuple(colours[name].tolist()))
        draw.text((x + line, y + line / 2), name, fill="black", anchor="lm", font_size=line - 3)
    return page


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


def check_size(truth, shape, name):
    if truth.shape != tuple(shape):
        raise UserError(f"{name}: {shape[1]} x {shape[0]} pixels, but its mask has {truth.shape[1]} x {truth.shape[0]}")
