"""Images in and out: photographs, label masks with the VOC palette, overlays, contact sheets."""

import contextlib
import mmap
import os
import re
import warnings
from functools import partial
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngInfo

from tool.io.files import IMAGE_SUFFIXES, UserError, atomic, print_warning
from tool.io.scores import ORIGIN_MARK

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of 90 megapixels: large, and no attack
cv2.setNumThreads(1)  # its threads do not survive the forks of loaders and CRF workers, and what is drawn is small

BACKGROUND = 0  # mask value of what is no object
IGNORE = 255  # mask value of pixels that count for nothing
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's photographs, RGB, of values in [0, 1]
STD = (0.229, 0.224, 0.225)

# Told by content, whatever the name ends in. Not all that Pillow knows: to read an EPS it runs Ghostscript on it.
OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # what Pillow may be built without
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM")
FORMATS += tuple(name for name, feature in OPTIONAL.items() if feature in features.get_supported())
SUFFIXES = tuple(s for s in IMAGE_SUFFIXES if Image.registered_extensions().get(s) in FORMATS)  # that are read here
COLOURED = ("RGB", "RGBA")  # modes of masks in colour
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # what masks are not stored as
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands of such files, from byte 8 on

ORIENTATION = 274  # EXIF's tag: how the stored pixels are to be turned
TURNED, SIDEWAYS = range(2, 9), range(5, 9)  # its values: of all that are to be turned, of width for height
LARGEST_EXIF = 2**17  # bytes, twice what EXIF takes: some tools put it behind the pixels of a PNG, or as text
PNG_TEXT = re.compile(b"eXIf|[izt][TE]Xt")


@contextlib.contextmanager
def _opened(path, what):
    """The file at `path` and its picture as Pillow knows it from the header; UserError where reading goes wrong."""
    try:
        with open(path, "rb") as stream:
            header = Image.open(stream, formats=FORMATS)
            yield stream, header
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; the list names it") from None
    except Image.DecompressionBombError:
        limit = round(2 * Image.MAX_IMAGE_PIXELS / 10**6)
        raise UserError(f"{path}: {what} of more than {limit} megapixels; cut it into tiles") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = _unknown(path) if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise UserError(f"{path}: unreadable {what} ({reason}); fetch it again or take it off the list") from None


def _unknown(path):
    """Why no reader takes a file, in words."""
    with open(path, "rb") as stream:
        begin = stream.read(12)
    if begin[4:8] == b"ftyp" and begin[8:] in HEIC:
        return "HEIC, which is not read here: convert it to JPEG"
    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix not in SUFFIXES:
        return f"this Pillow reads no {suffix}: convert it to JPEG"
    return "not an image"


def _pixels(stream, mode):
    """Pixels of the first picture of a file as an array, in a mode of Pillow's, as they are stored but for TIFF."""
    stream.seek(0)
    return iio.imread(stream, plugin="pillow", index=0, mode=mode, writeable_output=False)


# ---------------------------------------------------------------- orientation


def _orientation(stream, header):
    """How a picture is to be turned before it is shown, one of TURNED; None where not at all."""
    try:
        if header.format == "PNG" and "exif" not in header.info:
            place = stream.tell()
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LARGEST_EXIF))
            behind = PNG_TEXT.search(stream.read())
            stream.seek(place)
            if behind:
                header.load()  # Pillow reads what stands behind the pixels after them
        how = Image.Image.getexif(header).get(ORIENTATION)  # not PNG's own, which always reads the pixels
        return how if how in TURNED else None
    except Exception:  # a broken EXIF raises nearly anything, and every viewer shows such a photograph as it is stored
        return None


def _turn(pixels, how):
    """H x W (x 3) turned as one of TURNED says; None: as it is."""
    if how is None:
        return pixels
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = how
    return np.array(ImageOps.exif_transpose(image))


def _shown_size(stream, header):
    """(width, height) of a photograph as it is shown. Pillow turns a TIFF by itself, and says so in its size."""
    turned = header.format != "TIFF" and _orientation(stream, header) in SIDEWAYS
    return header.size[::-1] if turned else header.size


def is_turned(path):
    """Whether viewers show a photograph otherwise than its pixels are stored; False where it cannot be read."""
    try:
        with _opened(path, "image") as opened:
            return _orientation(*opened) is not None
    except UserError:  # said where it is used
        return False


def fit_mask(mask, size, path):
    """The mask of a photograph for `size` (h, w), that of the photograph as it is shown.

    mask: H x W; path: the photograph's. A mask of the size in which the photograph is stored, where that is another
    one, was drawn on it unturned, and is turned like it. Where both are one (a square, or upside down), masks count as
    drawn on what viewers show. What fits neither is given back as it is.
    """
    if mask.shape == tuple(size) or mask.shape != tuple(size)[::-1]:
        return mask
    try:
        with _opened(path, "image") as opened:
            how, shown = _orientation(*opened), _shown_size(*opened)[::-1]
    except UserError:
        return mask
    return _turn(mask, how) if how in SIDEWAYS and shown == tuple(size) else mask


# ---------------------------------------------------------------- more than 8 bits

_said = mmap.mmap(-1, 4)  # which warnings were given: a byte each, shared with the processes that are forked
DEEP = "integers above 8 bits are read as 12 bits, v / 16, where the largest is below 4096, else as 16 bits, v / 257"
FRACTIONS = "numbers with fractions are read as 255 v where the largest is at most 1, else as they are, 0 to 255"


def _eight_bits(values, path):
    """Pixels of integers or floats -> uint8, by the rules DEEP and FRACTIONS; UserError where they fit neither."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 255):
            raise UserError(f"{path}: values from {low:g} to {high:g}; {FRACTIONS}; save it with 8 bits")
        _say_once(0, f"{path}: {FRACTIONS}")
        return (np.rint(values * 255) if high <= 1 else values).astype(np.uint8)
    if low < 0 or high > 65535:
        raise UserError(f"{path}: values from {low} to {high}; {DEEP}; save it with 8 bits")
    if high < 256:
        return values.astype(np.uint8)
    _say_once(1, f"{path}: {DEEP}")
    values = values.astype(np.int64)
    return (values // 16 if high < 4096 else (values + 128) // 257).astype(np.uint8)


def _say_once(kind, text):
    if not _said[kind]:
        _said[kind] = 1
        print_warning(text)


def _is_deep_colour(header):
    """Whether a picture in colours, or with transparency, has 16 bits a value; Pillow would drop the lower 8."""
    args = header.tile[0][3] if header.tile else ""
    return header.mode in ("RGB", "RGBA", "RGBX", "LA") and ";16" in str(args[0] if isinstance(args, tuple) else args)


def _is_deep_grey(header):
    """Whether a grey picture has integers above 8 bits or floats; Pillow would clip them to white."""
    return header.mode in ("I", "F") or header.mode.startswith("I;16")


def _deep_colour(stream, header):
    """H x W x 3 uint16 of a picture in 16-bit colours."""
    header.load()  # OpenCV takes files that are cut off
    stream.seek(0)
    read = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if read is None or read.ndim != 3 or read.shape[2] < 3:
        raise OSError("16-bit colours that no reader takes; save it with 8 bits")
    return read[..., 2::-1]


# ---------------------------------------------------------------- photographs and masks


def open_image(path):
    """A photograph as an RGB PIL image with 8 bits, turned as viewers show it (EXIF's orientation).

    UserError with the path where the file is missing, truncated, no image, or has values that no rule brings to 8 bits.
    """
    with _opened(path, "image") as (stream, header):
        is_deep = _is_deep_colour(header)  # first: Pillow forgets it with the pixels
        how = None if header.format == "TIFF" else _orientation(stream, header)
        if is_deep:
            pixels = _eight_bits(_deep_colour(stream, header), path)
        elif _is_deep_grey(header):
            pixels = _eight_bits(_pixels(stream, header.mode), path)
            if header.format == "TIFF" and header.tag_v2.get(262) == 0:  # white is 0; Pillow heeds it in 8 bits
                pixels = 255 - pixels
        else:
            pixels = _pixels(stream, "RGB")
        return Image.fromarray(_turn(pixels, how)).convert("RGB")


def header_size(path, to_its_end=False):
    """(width, height) of a photograph, as it is shown, by its header; UserError as `open_image`.

    Pixels are read where they have more than 8 bits, since no rule may fit them. to_its_end: all are, but those of a
    JPEG to an eighth of its sides, three times as fast as whole.
    """
    with _opened(path, "image") as (stream, header):
        if _is_deep_colour(header) or _is_deep_grey(header):
            return open_image(path).size
        size = _shown_size(stream, header)
        if to_its_end:
            header.draft("RGB", (1, 1))
            header.load()
        return size


image_size = partial(header_size, to_its_end=True)


def is_coloured(path):
    """Whether a mask is stored in colours, not in ids."""
    with _opened(path, "mask") as (_, header):
        return header.mode in COLOURED


def open_mask(path, num_labels, colours=None):
    """A label mask as H x W uint8: 0 background, 1..num_labels-1 classes, 255 ignored; turned where its EXIF says so.

    colours: {(r, g, b): id, or the name of what has none} for masks in colour, which are refused without.
    UserError where it is missing, broken, stored as JPEG or the like, or has other ids or colours.
    """
    with _opened(path, "mask") as (stream, header):
        kind = "JPEG" if header.info.get("compression") == "jpeg" else header.format
        if kind in LOSSY:
            raise UserError(f"{path}: a mask stored as {kind}, which changes ids; make it anew as PNG")
        coloured = colours is not None and header.mode in COLOURED
        if header.mode not in ("P", "L", "1") and not coloured:
            raise UserError(f"{path}: a mask of mode {header.mode}; masks are 8-bit palette or grey PNGs of class ids")
        how = None if header.format == "TIFF" else _orientation(stream, header)
        if coloured:
            pixels = ids_of_colours(_pixels(stream, "RGB"), colours, path)
        else:
            # ids: in this mode no palette is applied; a PNG is read in half of imageio's time
            pixels = np.asarray(header) if kind == "PNG" else _pixels(stream, header.mode)
            pixels = pixels.astype(np.uint8)
            if colours is not None and header.mode == "P":
                _check_palette(header, pixels, colours, path)
        mask = _turn(pixels, how)
    wrong = mask[(mask >= num_labels) & (mask != IGNORE)]
    if wrong.size:
        raise UserError(f"{path}: holds id {wrong.max()}; ids go from 0 to {num_labels - 1}, and 255 is ignored")
    return mask


def _check_palette(header, pixels, colours, path):
    """UserError where the palette of a mask of ids shows each of them in the colour of a label, but not of its own.

    So are masks that a drawing program stored with a palette of its own, which numbers the colours as they come.
    """
    palette = np.array(header.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    present = [k for k in np.unique(pixels).tolist() if k < len(palette)]
    shown = [tuple(palette[k].tolist()) for k in present]
    meant = [colours.get(colour) for colour in shown]
    if len(np.unique(palette, axis=0)) < 2 or len(set(shown)) < len(shown):
        return  # no palette
    if not all(isinstance(label, int) for label in meant):
        return  # a palette of other colours
    if other := [(k, label) for k, label in zip(present, meant) if k != label]:
        text = "the colour of {1}; which of the two is meant? Save it in colours (RGB), or with the labels' own palette"
        raise UserError(f"{path}: has id {other[0][0]} in {text.format(*other[0])}")


def ids_of_colours(pixels, colours, path):
    """Colours H x W x 3 uint8 -> ids H x W uint8, by `colours` of `open_mask`; UserError where one stands for none."""
    codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    present, places = np.unique(codes, return_inverse=True)
    ids = []
    for colour in ((code >> 16, code >> 8 & 255, code & 255) for code in present.tolist()):
        ids.append(colours.get(colour))
        if not isinstance(ids[-1], int):
            text = (
                f"{path}: the colour {','.join(map(str, colour))} is that of {ids[-1] or 'no label'}, which is no class"
            )
            raise UserError(f"{text}; colours are those of labelmap.txt, or without one of VOC's palette")
    return np.array(ids, np.uint8)[places].reshape(codes.shape)


def mask_oddities(mask):
    """What is strange about a mask, in words: a list, mostly empty. mask: H x W uint8."""
    ignored = mask == IGNORE
    if ignored.any() and not ignored.all() and (ignored | (mask == BACKGROUND)).all():
        return ["holds nothing but 0 and 255; 255 is ignored, so a black-and-white mask needs the class id instead"]
    return []


def classes_in(labels):
    """Ids of the classes in H x W labels, without background and 255; of None, none."""
    return set() if labels is None else set(np.unique(labels).tolist()) - {BACKGROUND, IGNORE}


_BITS = np.arange(8)[:, None]
# The RGB colours of VOC masks, 256 x 3 uint8: the bits of an id spread over the channels.
PALETTE = ((np.arange(256)[:, None, None] >> (3 * _BITS + np.arange(3)) & 1) << (7 - _BITS)).sum(1).astype(np.uint8)


def label_image(labels):
    """H x W ids -> palette PIL image with the VOC colours."""
    image = Image.fromarray(np.asarray(labels, dtype=np.uint8), mode="P")
    image.putpalette(PALETTE.tobytes())
    return image


def save_image(path, image, origin="", **options):
    """Write a PIL image atomically; the format follows the suffix of `path`. origin: see `file_origin`, PNG only."""
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


def display_colours():
    """256 x 3 uint8: bright colours, seen on dark photographs too, where many of VOC's are not; for files, PALETTE.

    Hues of CIELAB, each a golden angle after the one before, of two lightnesses in turn.
    """
    ids = np.arange(256)
    angles = np.deg2rad(20 + 137.508 * ids)
    lab = np.stack([np.where(ids % 2, 84, 66), 55 * np.cos(angles), 55 * np.sin(angles)], -1).astype(np.float32)
    return np.rint(255 * np.clip(cv2.cvtColor(lab[None], cv2.COLOR_LAB2RGB)[0], 0, 1)).astype(np.uint8)


COLOURS = display_colours()


def heat_overlay(photo, score):
    """Photo (PIL RGB) with a class map over it: H x W in [0, 1], from blue over yellow to red; clear where it is 0."""
    score = np.clip(score, 0, 1).astype(np.float32)
    steps = np.rint(223 * score).astype(np.uint8)  # JET's pure red; what follows is darker
    heat = cv2.applyColorMap(steps, cv2.COLORMAP_JET)
    opacity = 0.5 * np.minimum(1, 4 * score)[..., None]
    mixed = np.asarray(photo) * (1 - opacity) + heat[..., ::-1] * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def label_overlay(photo, labels, names=None):
    """Photo (PIL RGB) with labels (H x W ids) in COLOURS over it, every object outlined in white.

    Background and 255 stay clear. names: the classes', from id 1 on; with them a legend of the classes that are there
    stands below the picture, which is higher by it.
    """
    photo = np.asarray(photo)
    mixed = cv2.addWeighted(photo, 0.4, COLOURS[labels], 0.6, 0)
    mixed[(labels == BACKGROUND) | (labels == IGNORE)] = photo[(labels == BACKGROUND) | (labels == IGNORE)]
    present = sorted(classes_in(labels))
    for k in present:
        contours, _ = cv2.findContours((labels == k).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(mixed, contours, -1, (255, 255, 255), 1 if min(labels.shape) < 300 else 2)
    return add_legend(Image.fromarray(mixed), {names[k - 1]: COLOURS[k] for k in present} if names else {})


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


def tagged(photo, text):
    """Photo (PIL RGB) with a line of text in a box at its lower left corner, a fourteenth of its width high."""
    picture, size = photo.copy(), max(9, photo.width // 14)
    draw, place = ImageDraw.Draw(picture), (size // 3, photo.height - size // 3)
    box = draw.textbbox(place, text, anchor="lb", font_size=size)
    draw.rectangle([side + by for side, by in zip(box, (-size // 3, -size // 4, size // 3, size // 3))], fill="white")
    draw.text(place, text, fill="black", anchor="lb", font_size=size)
    return picture


def contact_sheet(rows, titles, cell=(180, 140), note=""):
    """Rows of PIL images fitted into cells of (w, h) pixels, a title over each column, a note below -> a PIL image."""
    gap = 6
    width, height = gap + len(titles) * (cell[0] + gap), 22 + gap + len(rows) * (cell[1] + gap)
    sheet = Image.new("RGB", (width, height + 18 * bool(note)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, height + 6), note, fill="black", anchor="lm", font_size=12)
    for column, title in enumerate(titles):
        x = gap + column * (cell[0] + gap)
        draw.text((x + cell[0] / 2, 12), title, fill="black", anchor="mm", font_size=13)
        for row, images in enumerate(rows):
            cell_image = ImageOps.pad(images[column].convert("RGB"), cell, color="white")
            sheet.paste(cell_image, (x, 22 + gap + row * (cell[1] + gap)))
    return sheet


def check_size(truth, shape, name):
    if truth.shape != tuple(shape):
        raise UserError(f"{name}: {shape[1]} x {shape[0]} pixels, but its mask has {truth.shape[1]} x {truth.shape[0]}")
