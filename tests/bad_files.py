"""Broken, hostile and odd files for tests: lists, annotations, photographs, score files, checkpoints."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import torch
from PIL import Image

from tool.io.images import label_image
from tool.io.scores import write_scores

IDS = ("one", "two", "three", "four")
SIZE = (32, 24)  # width, height
CLASSES = {"one": "cat", "two": "dog", "three": "cat", "four": "dog"}
INDEX = {"cat": 7, "dog": 11}  # among VOC's 20


class Runs:
    """Unpickled without care, this makes the file `marker`."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


# ---------------------------------------------------------------- a data set of four images


def picture(width, height):
    """Smooth colours, so that a JPEG of them stays close: H x W x 3 uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 120 * x / width, 200 - 150 * y / height, 90 + 0 * x], -1).astype(np.uint8)


def annotation(*names):
    return f"<annotation>{''.join(f'<object><name>{n}</name></object>' for n in names)}</annotation>".encode()


def make_set(root):
    """JPEGImages, Annotations, SegmentationClass and list.txt of four images; returns `root`."""
    for name in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    for k, image_id in enumerate(IDS):
        photo = Image.fromarray(np.roll(picture(*SIZE), 7 * k, axis=1))
        photo.save(root / "JPEGImages" / f"{image_id}.jpg", quality=95)
        (root / "Annotations" / f"{image_id}.xml").write_bytes(annotation(CLASSES[image_id]))
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[6:18, 8:20] = 1 + INDEX[CLASSES[image_id]]
        label_image(mask).save(root / "SegmentationClass" / f"{image_id}.png")
    (root / "list.txt").write_text("".join(f"{i}\n" for i in IDS))
    return root


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


# ---------------------------------------------------------------- lists

BAD_LISTS = {  # name -> (bytes, words of the message)
    "empty": (b"", "the list is empty"),
    "blank lines only": (b"\n \n\t\r\n", "the list is empty"),
    "byte order mark only": (b"\xef\xbb\xbf", "the list is empty"),
    "unknown ID": (b"one\ntwo\nthree\nfour\nfive\n", "five"),
    "absolute path": (b"one\n/etc/passwd\n", "line 2: '/etc/passwd'"),
    "path to a folder above": (b"../one\n", "line 1: '../one'"),
    "path around a corner": (b"/JPEGImages/../one.jpg x\n", "neither an ID nor"),
    "path too deep": (b"/data/JPEGImages/one.jpg\n", "neither an ID nor"),
    "a folder above": (b"one\n..\n", "line 2: '..'"),
    "this folder": (b".\n", "line 1: '.'"),
    "backslashes": (b"JPEGImages\\one.jpg\n", "not an image ID"),
    "zero byte": (b"one\ntwo\0\n", "line 2"),
    "escape codes": (b"one\n\x1b[31mtwo\n", "line 2: '\\x1b[31mtwo'"),
    "UTF-16": ("one\ntwo\n".encode("utf-16"), "not a text file"),
    "a photograph": (encoded(Image.fromarray(picture(*SIZE)), format="JPEG"), "not a text file"),
    "a line without end": (b"x" * 100_000, "name too long"),
    "a path without end": (b"/" + b"x" * 100_000, "neither an ID nor"),
}
LONGER_LISTS = {  # whose lines go on after the ID -> what is said of the first
    b"one 45 49 50\ntwo 14\nthree 1 2\nfour 3\n": "if 'one' is the ID, the line 'one 45 49 50' goes on after the ID",
    b"one -1\ntwo  1\nthree  0\nfour -1\n": "if 'one' is the ID, the line 'one -1' goes on after the ID",
    b"one.jpg\tcat\ntwo.jpg\tdog\n": "if 'one' is the ID, the line 'one.jpg\\tcat' goes on after the ID",
    b"one.jpg,cat\ntwo.jpg,dog\n": "if 'one' is the ID, the line 'one.jpg,cat' goes on after the ID",
}
ODD_LISTS = {  # what stays the list of four
    "CRLF": b"one\r\ntwo\r\nthree\r\nfour\r\n",
    "byte order mark": b"\xef\xbb\xbfone\ntwo\nthree\nfour\n",
    "blank lines": b"\n\none\n   \ntwo\n\nthree\nfour\n\n",
    "spaces and tabs": b"  one\t\ntwo  \n\tthree\nfour ",
    "no newline at the end": b"one\ntwo\nthree\nfour",
    "duplicates": b"one\ntwo\none\nthree\nfour\nfour\n",
    "two columns": b"".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n".encode() for i in IDS),
}
EVERYTHING = b"\xef\xbb\xbf\r\none\r\n/JPEGImages/two.jpg /SegmentationClass/two.png\r\n one \r\nthree\r\n\r\nfour"

BAD_CLASSES = {
    "empty": (b"\n\n", "1 to 254 different class names"),
    "duplicates": (b"cat\ndog\ncat\n", "1 to 254 different class names"),
    "background": (b"background\ncat\ndog\n", "1 to 254 different class names"),
    "255 names": (b"".join(b"c%d\n" % k for k in range(255)), "1 to 254 different class names"),
    "path": (b"cat\n../dog\n", "'../dog' is no class name"),
    "escape codes": (b"cat\n\x1b[2Jdog\n", "is no class name"),
    "binary": (b"\xff\xfe\x00cat", "not a text file"),
}

# ---------------------------------------------------------------- annotations

BOMB = b"<!DOCTYPE annotation [<!ENTITY a0 'cat'>%s]><annotation><object><name>&a30;</name></object></annotation>" % (
    b"".join(b"<!ENTITY a%d '&a%d;&a%d;'>" % (k + 1, k, k) for k in range(30))
)
EXTERNAL = (
    b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation><object><name>&x;</name></object></annotation>"
)
BAD_XMLS = {
    "zero bytes": (b"", "not an XML file"),
    "text": (b"cat\n", "not an XML file"),
    "truncated": (annotation("cat")[:-9], "not an XML file"),
    "a photograph": (b"\xff\xd8\xff\xe0\0\x10JFIF", "not an XML file"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "not an XML file"),
    "billion laughs": (BOMB, "DOCTYPE"),
    "billion laughs in UTF-16": (BOMB.decode().encode("utf-16"), "DOCTYPE"),
    "external entity": (EXTERNAL, "DOCTYPE"),
    "external DTD": (b'<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>', "DOCTYPE"),
    "undeclared entity": (b"<annotation><object><name>&x;</name></object></annotation>", "not an XML file"),
    "another root": (b"<html><object><name>cat</name></object></html>", "not a VOC <annotation>"),
    "an object without a name": (b"<annotation><object/></annotation>", "object without a name"),
    "a name of a part": (b"<annotation><object><part><name>cat</name></part></object></annotation>", "without a name"),
}
EMPTY_XMLS = {  # whole, but of no class
    "no objects": b"<annotation/>",
    "a hundred thousand nested tags": b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</annotation>",
    "unknown class": annotation("unicorn"),
}

# ---------------------------------------------------------------- photographs


def bad_photos():
    """name -> (bytes, words of the message)."""
    whole = encoded(Image.fromarray(picture(*SIZE)), format="JPEG", quality=95)
    scan = whole.index(b"\xff\xda")
    png = encoded(Image.fromarray(picture(*SIZE)), format="PNG")
    huge = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(9)))
    )
    return {
        "zero bytes": (b"", "not an image"),
        "one byte": (whole[:1], "not an image"),
        "truncated in the header": (whole[:30], "unreadable image"),
        "truncated before the pixels": (whole[:scan], "unreadable image"),
        "truncated in the pixels": (whole[: (scan + len(whole)) // 2], "truncated"),
        "truncated near the end": (whole[:-20], "truncated"),
        "truncated PNG": (png[: len(png) // 2], "unreadable image"),
        "PNG with a wrong checksum": (png[:45] + bytes([png[45] ^ 255]) + png[46:], "unreadable image"),
        "PNG of 3.6 billion pixels": (huge, "cut it into tiles"),
        "zeros": (bytes(5000), "not an image"),
        "text": (b"this is no picture\n", "not an image"),
        "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\nshowpage\n", "not an image"),
    }


def chunk(kind, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def odd_photos():
    """name -> (bytes, H x W x 3 uint8 that it should read as, largest mean difference)."""
    rgb = picture(*SIZE)
    photo = Image.fromarray(rgb)
    grey = np.asarray(photo.convert("L"))
    turned = Image.Exif()
    turned[274] = 6  # "rotate by 90 degrees"
    odd = {
        "CMYK": (encoded(photo.convert("CMYK"), format="JPEG", quality=95), rgb, 5),
        "greyscale": (encoded(photo.convert("L"), format="JPEG", quality=95), np.stack([grey] * 3, -1), 3),
        "progressive": (encoded(photo, format="JPEG", quality=95, progressive=True), rgb, 4),
        "EXIF-rotated": (encoded(photo, format="JPEG", quality=95, exif=turned), np.rot90(rgb, -1), 4),
        "PNG named .jpg": (encoded(photo, format="PNG"), rgb, 0),
        "16-bit PNG": (
            encoded(Image.fromarray(grey.astype(np.uint16) * 257), format="PNG"),
            np.stack([grey] * 3, -1),
            0,
        ),
        "RGBA PNG": (encoded(photo.convert("RGBA"), format="PNG"), rgb, 0),
        "palette PNG": (encoded(photo.quantize(256), format="PNG"), rgb, 6),
        "1-bit PNG": (
            encoded(Image.fromarray(grey > 120), format="PNG"),
            np.stack([(grey > 120) * np.uint8(255)] * 3, -1),
            0,
        ),
    }
    for width, height in ((1, 1), (1, 5000), (5000, 1), (3, 2)):
        small = picture(width, height)
        odd[f"{width} x {height}"] = encoded(Image.fromarray(small), format="JPEG", quality=95, subsampling=0), small, 4
    return odd


def bad_masks():
    """name -> (bytes, words of the message)."""
    ids = np.zeros(SIZE[::-1], np.uint8)
    ids[3, 3] = 21
    other = np.zeros((SIZE[1] + 1, SIZE[0]), np.uint8)
    return {
        "id 21": (encoded(label_image(ids), format="PNG"), "holds id 21"),
        "id 254": (encoded(label_image(ids * 12 + (ids > 0) * 2), format="PNG"), "holds id 254"),
        "another size": (encoded(label_image(other), format="PNG"), "its mask has 32 x 25"),
        "turned": (encoded(label_image(np.zeros(SIZE, np.uint8)), format="PNG"), "its mask has 24 x 32"),
        "RGB": (encoded(Image.fromarray(picture(*SIZE)), format="PNG"), "a mask of mode RGB"),
        "JPEG": (encoded(Image.fromarray(np.zeros_like(ids)), format="JPEG"), "a mask stored as JPEG"),
        "16-bit": (encoded(Image.fromarray(ids.astype(np.uint16)), format="PNG"), "a mask of mode I;16"),
        "grey with alpha": (encoded(Image.fromarray(ids).convert("LA"), format="PNG"), "a mask of mode LA"),
        "truncated": (encoded(label_image(ids), format="PNG")[:-40], "unreadable mask"),
        "zero bytes": (b"", "unreadable mask"),
        "text": (b"0 0 0 1\n", "unreadable mask"),
    }


# ---------------------------------------------------------------- score files: np.save of a dict


def saved(value):
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


def npy(body):
    """An .npy of one object whose pickle is `body`."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + b"\x80\x04" + body + b"."


def word(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def pickled_dtype(code, order="<"):
    return (
        word("numpy")
        + word("dtype")
        + b"\x93"
        + word(code)
        + b"\x89\x88\x87R(K\x03"
        + word(order)
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )


def pickled_array(shape, code, data):
    """Opcodes of an array. shape, data: opcodes."""
    return (
        word("numpy._core.multiarray")
        + word("_reconstruct")
        + b"\x93"
        + word("numpy")
        + word("ndarray")
        + b"\x93K\x00\x85C\x01b\x87R(K\x01"
        + shape
        + pickled_dtype(code)
        + b"\x89"
        + data
        + b"tb"
    )


TWICE = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times over: 2^60 to hash or to print
SHARED_LIST = b"](" + b"N" * 100_000 + b"e\x94"
SCORE_BOMBS = {  # each under 300 kB; each took gigabytes or for ever where its parts are numpy's own
    "an array by its constructor": npy(
        b"}K\x00"
        + word("numpy")
        + word("ndarray")
        + b"\x93J"
        + struct.pack("<i", 2**17)
        + b"J"
        + struct.pack("<i", 2**17)
        + b"\x86"
        + word("f4")
        + b"\x86Rs"
    ),
    "a type name that is never printed": npy(b"}K\x00" + word("numpy") + word("dtype") + b"\x93" + TWICE + b"\x85Rs"),
    "one list in a thousand arrays": npy(
        b"}K\x00"
        + SHARED_LIST
        + b"s"
        + b"".join(
            b"M"
            + struct.pack("<H", k)
            + pickled_array(b"J" + struct.pack("<i", 100_000) + b"\x85", "O8", b"h\x00")
            + b"s"
            for k in range(1, 1000)
        )
    ),
    "a nest of lists put into an array": npy(
        b"}K\x00"
        + pickled_array(b"K\x01\x85", "f4", b"C\x04\0\0\0\0")
        + b"K\x00"
        + SHARED_LIST
        + (b"0](" + b"h\x00" * 2000 + b"e")
        + b"ss"
    ),
}


def bad_scores(marker, shape, key):
    """name -> (bytes, words of the message). shape: of a good map (h, w); key: a good key."""
    good = {key: np.full(shape, 0.5, np.float32)}
    whole = saved(good)
    nan, inf = good[key].copy(), good[key].copy()
    nan[0, 0], inf[-1, -1] = np.nan, -np.inf
    ours = "not a score file of ours"
    return {
        "code": (saved({key: Runs(marker)}), f"it wants to load {open.__module__}.open"),
        "code beside a good map": (saved(good | {key + 1: Runs(marker)}), f"it wants to load {open.__module__}.open"),
        "code in a bare pickle": (pickle.dumps(Runs(marker)), ours),
        "text keys": (saved({"cat": good[key]}), "'cat' is not a class index"),
        "negative key": (saved({-1: good[key]}), "-1 is not a class index"),
        "no keys": (saved({}), ours),
        "NaN": (saved({key: nan}), "not finite"),
        "infinity": (saved({key: inf}), "not finite"),
        "whole numbers": (saved({key: np.ones(shape, np.int64)}), "not a map of floats"),
        "three dimensions": (saved({key: np.ones((*shape, 1), np.float32)}), "not a map of floats"),
        "two sizes": (saved(good | {key + 1: np.ones((shape[0], shape[1] + 1), np.float32)}), "different sizes"),
        "other byte order": (saved({key: good[key].astype(">f4")}), "byte order"),
        "truncated in the header": (whole[:40], ours),
        "truncated in the pickle": (whole[:300], ours),
        "truncated in the values": (whole[:-100], ours),
        "zero bytes": (b"", ours),
        "a plain array": (saved(good[key]), ours),
        "text": (b"0.5 0.5\n", ours),
    } | {name: (data, ours) for name, data in SCORE_BOMBS.items()}


def misfit_scores(shape, key):
    """Whole score files that are not of this image or not of these classes: name -> (bytes, words)."""
    good = np.full(shape, 0.5, np.float32)
    height, width = shape
    return {
        "another size": (saved({key: np.full((height, width + 3), 0.5, np.float32)}), f"{width + 3} x {height}"),
        "turned": (saved({key: good.T.copy()}), f"{height} x {width}"),
        "a class too many": (saved({key: good, 77: good}), "77"),
    }


# ---------------------------------------------------------------- checkpoints


def bad_checkpoints(path, other, wide, marker):
    """name -> (suffix, bytes, words of the message).

    path: a good checkpoint; other: one of the other network; wide: a state of twice the width.
    """
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    first = next(name for name in state if name.endswith("weight"))
    missing = {name: value for name, value in state.items() if name != first}
    broken = state | {first: torch.full_like(state[first], float("nan"))}
    legacy = torch_bytes(state, legacy=True)
    code, runs = state | {first: Runs(marker)}, "io.open, which can run code"
    return {
        "zero bytes": (".pth", b"", "is empty"),
        "text": (".pth", b"epoch 3\n", "not a whole torch checkpoint"),
        "truncated at the start": (".pth", whole[:100], "not a whole torch checkpoint"),
        "truncated in the middle": (".pth", whole[: len(whole) // 2], "not a whole torch checkpoint"),
        "truncated at the end": (".pth", whole[:-10], "not a whole torch checkpoint"),
        "legacy, truncated": (".pth", legacy[: len(legacy) // 2], "not a whole torch checkpoint"),
        "code": (".pth", torch_bytes(code), runs),
        "code, legacy": (".pth", torch_bytes(code, legacy=True), runs),
        "code, a bare pickle": (".pth", pickle.dumps(Runs(marker), 2), "which can run code"),
        "packed": (".pth", packed({"a": torch.zeros(3_000_000)}), "would unpack to 12,000"),
        "of the other network": (".pth", other.read_bytes(), "does not fit the network"),
        "of another width": (".pth", torch_bytes(wide), "--width"),
        "an entry missing": (".pth", torch_bytes(missing), f"{first} is missing"),
        "NaN": (".pth", torch_bytes(broken), f"{first} has values that are not finite"),
        "a list": (".pth", torch_bytes([1, 2, 3]), "holds a list"),
        "empty state": (".pth", torch_bytes({}), "an empty state"),
        "numbers": (".pth", torch_bytes({"epoch": 3}), "is a int"),
        "safetensors, text": (".safetensors", b"hello", "not a whole .safetensors file"),
        "safetensors, truncated": (".safetensors", struct.pack("<Q", 50) + b'{"a":', "not a whole .safetensors file"),
        "params, truncated": (".params", struct.pack("<QQQ", 0x112, 0, 5), "at byte"),
        "params, text": (".params", b"not weights, not at all\n", "at byte 0"),
        "of no known kind": (".jpg", b"\xff\xd8\xff\xe0 JFIF", "is it the right file?"),
    }


def torch_bytes(value, legacy=False):
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def packed(value):
    """A checkpoint whose zip file is compressed, as no torch writes it: zeros shrink to a thousandth."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_bytes(value))) as source, zipfile.ZipFile(stream, "w", 8) as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item))
    return stream.getvalue()


def random_maps(folder, ids, keys, size=SIZE[::-1], seed=0):
    """Score files of random maps, keys(id) -> keys; the values of a pixel sum to 1."""
    rng = np.random.default_rng(seed)
    for image_id in ids:
        maps = rng.random((len(keys(image_id)), *size), dtype=np.float32)
        write_scores(folder / f"{image_id}.npy", dict(zip(keys(image_id), maps / maps.sum(0).clip(1))))
