"""Files: errors a user can act on, atomic writing, what is missing of many files, list files, hashes.

Everything that is written goes to a temporary name in the same folder and is renamed, so a file that exists is whole.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import zlib
from pathlib import Path


class UserError(Exception):
    """What the user can mend: one line that says what is wrong, in which file, and what to do about it."""

    def __init__(self, message):
        # a DataLoader worker hands its exception over as a whole traceback, with ours at its end
        line = str(message).strip().rpartition("tool.io.files.UserError: ")[2]
        super().__init__(CONTROL.sub(lambda found: repr(found.group())[1:-1], line))  # a file's bytes may be quoted


CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: bytes of the command line that are not UTF-8


def print_warning(text):
    print(f"warning: {text}", file=sys.stderr)


def shorten(message, length):
    """One line of at most about `length` characters, beginning and end kept."""
    line = " ".join(str(message).split())
    return line if len(line) <= length else f"{line[: length // 2]} ... {line[-length // 2 :]}"


@contextlib.contextmanager
def atomic(path):
    """Give a temporary path beside `path`; renamed to `path` on success, removed on any failure.

    A pipe or a device (/dev/stdout) is written to as it is: renaming would put a file in its place.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path, data):
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text):
    write_bytes(path, text.encode())


def write_json(path, value):
    """JSON with a newline at the end; numpy numbers are accepted, NaN is not. Removes what a killed run left of it."""
    path = Path(path)
    remove_stale(path.parent, path.name)
    write_text(path, json.dumps(value, indent=1, default=lambda v: v.item(), allow_nan=False) + "\n")


def read_json(path, missing="no such file", broken="not a JSON file; remove it and run the stage again"):
    """The value of a JSON file; UserError, in these words, where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except (ValueError, RecursionError):  # the latter: thousands of brackets
        raise UserError(f"{path}: {broken}") from None


RUN_FILE = "run.json"  # in a folder of results or checkpoints: what made them (engine/record.py)


def read_record(folder):
    """run.json of a folder as a dict; None where there is none (files of another tool)."""
    path = Path(folder) / RUN_FILE
    record = read_json(path) if path.is_file() else None
    return record if isinstance(record, dict) and isinstance(record.get("settings"), dict) else None


def folder_settings(folder):
    """The settings that made a folder's results; None where it has no run.json."""
    record = read_record(folder)
    return record and record["settings"]


def remove_stale(folder, name="*"):
    """Remove temporary files that a killed run left in `folder`: of files called `name`, or of all, subfolders too."""
    paths = Path(folder).rglob(".*.tmp") if name == "*" else Path(folder).glob(f".{name}.*.tmp")
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def portable(path):
    """Where a file or folder lies whose name may have colons: with `-` for `:`, which Windows and exFAT do not take.

    Older versions wrote colons; where the name is there in that spelling, or in the one that is given, that is it.
    """
    path = Path(path)
    if path.exists():
        return path
    name = path.name.replace(":", "-")
    now = path.with_name(name)
    return now if now.exists() else next((p for p in path.parent.glob("*:*") if p.name.replace(":", "-") == name), now)


# ---------------------------------------------------------------- what is missing of many files


def missing_files(paths):
    """Keys of {ID: path} whose path is no file, in order."""
    return [key for key, path in paths.items() if not os.path.isfile(path)]


def require_files(paths, what, hint):
    """UserError where files of {ID: path} are missing: the first one, their number, the hint. what: image or mask."""
    missing = missing_files(paths)
    if missing:
        text = f"{paths[missing[0]]}: no such {what} ({len(missing)} of {len(paths)} listed {what}s are missing)"
        raise UserError(f"{text}; {hint}{after_id(missing[0])}")


# ---------------------------------------------------------------- list files

# What ends the names of photographs, in any case of letters; which of them are read here: tool/io/images.py, SUFFIXES.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".avif")
IMAGE_SUFFIXES += (".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm")
BYTE_ORDER_MARK = "\ufeff"
SUFFIX = f"(?i:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})"
PART = rf"(?!\.\.?(?:/|\Z))[^/\\\0-\x1f\x7f-\x9f\ud800-\udfff{BYTE_ORDER_MARK}]+"  # of an ID; neither . nor ..
ID_PATTERN = re.compile(f"{PART}(?:/{PART})*")
KIT_LINE = re.compile(rf"/?JPEGImages/(.+?){SUFFIX}(?:\s+/?[^/\s]+/.+)?")
LONGEST_NAME = 255 - len(".npy")  # bytes: file systems take no more


def read_list(path):
    """IDs of a list file, in order: one image a line, `ID` or `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`.

    An ID is the name of a photograph below JPEGImages without its suffix: spaces, brackets and any letters are fine,
    and slashes where it lies in a folder there. A suffix that is there all the same is taken off, so a list of file
    names will do. Blank lines are skipped, and so are byte-order marks, which joined lists have in the middle; a
    repeated ID is kept once, with a warning. UserError: missing, empty or unreadable file, a line that names no image.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such list; a list has one image ID a line (voc12/make_lists.py: VOC)") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a list file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; a list has one image ID a line") from None
    lines = [line.lstrip(BYTE_ORDER_MARK).strip() for line in text.splitlines()]
    ids = [parse_list_line(path, n, line) for n, line in enumerate(lines, 1) if line]
    if not ids:
        raise UserError(f"{path}: the list is empty; it needs one image ID a line")
    unique = list(dict.fromkeys(ids))
    if len(unique) < len(ids):
        print_warning(f"{path}: {len(ids) - len(unique)} repeated lines, each image is used once")
    return unique


def after_id(image_id):
    """What to say of an ID that has no files, or is none, where its line may go on after the ID; "" of a single word.

    Lists of VOC's ImageSets/Main have -1, 0 or 1 there, others the classes.
    """
    first = re.split(r"[\s,;]", image_id, maxsplit=1)[0]
    if first == image_id:
        return ""
    name = without_suffix(first)
    return f"; if {name[:100]!r} is the ID, the line {image_id[:100]!r} goes on after the ID, and a list has IDs alone"


def without_suffix(name):
    """A file name without the suffixes of images at its end: no ID has one."""
    while name[-5:].lower().endswith(IMAGE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def parse_list_line(path, number, line):
    """ID of one line of a list, see read_list; UserError where it is none."""
    found = KIT_LINE.fullmatch(line)
    image_id = without_suffix(found[1] if found else line)
    if ID_PATTERN.fullmatch(image_id) is None or image_id != image_id.strip():
        what = "neither an ID nor /JPEGImages/ID.jpg" if line.startswith("/") else "not an image ID"
        raise UserError(f"{path}: line {number}: {line[:100]!r} is {what}{after_id(line)}")
    if len(image_id) > LONGEST_NAME // 4 and max(len(part.encode()) for part in image_id.split("/")) > LONGEST_NAME:
        raise UserError(f"{path}: line {number}: {line[:100]!r} is not an image ID: name too long")
    return image_id


# ---------------------------------------------------------------- what stands for a content


def fingerprint(*values):
    """16 hex digits that stand for plain values and bytes, in their order; the keys of dicts have none."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def file_hash(path):
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_checksum(path):
    """CRC-32 of a file, 8 hex digits, which is quick enough for every photograph; "-" where it cannot be read."""
    try:
        return f"{zlib.crc32(Path(path).read_bytes()):08x}"
    except OSError:
        return "-"
