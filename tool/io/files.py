"""Files: errors a user can act on, atomic writing, list files, score files (.npy dicts), run records.

Everything that is written goes to a temporary name in the same folder and is renamed, so a file that exists is whole.
"""

import contextlib
import json
import os
import re
import sys
from pathlib import Path


class UserError(Exception):
    """What the user can mend: one line that says what is wrong, in which file, and what to do about it."""

    def __init__(self, message):
        # a DataLoader worker hands its exception over as a whole traceback; the last line is ours
        line = str(message).strip().splitlines()[-1].removeprefix("tool.io.files.UserError: ")
        super().__init__(CONTROL.sub(lambda found: repr(found.group())[1:-1], line))  # a file's bytes may be quoted


CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: bytes of the command line that are not UTF-8


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


def read_json(path):
    """The value of a JSON file; UserError where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError):  # the latter: thousands of brackets
        raise UserError(f"{path}: not a JSON file; remove it and run the stage again") from None


def remove_stale(folder, name="*"):
    """Remove temporary files that a killed run left in `folder`, of all files or of those that match `name`."""
    for path in Path(folder).glob(f".{name}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


# ---------------------------------------------------------------- list files

BYTE_ORDER_MARK = "\ufeff"
ID_PATTERN = re.compile(rf"[^/\\\0{BYTE_ORDER_MARK}]+")


def read_list(path):
    """IDs of a list file, in order: one image a line, `ID` or `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`.

    Blank lines are skipped, and so are byte-order marks, which joined lists have in the middle; a repeated ID is kept
    once, with a warning. UserError: missing, empty or unreadable file, a line that names no image.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such list; make the VOC lists with voc12/make_lists.py") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a list file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; a list has one image ID a line") from None
    lines = [line.lstrip(BYTE_ORDER_MARK) for line in text.splitlines()]
    ids = [parse_list_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not ids:
        raise UserError(f"{path}: the list is empty; it needs one image ID a line")
    unique = list(dict.fromkeys(ids))
    if len(unique) < len(ids):
        print(f"warning: {path}: {len(ids) - len(unique)} repeated lines, each image is used once", file=sys.stderr)
    return unique


def parse_list_line(path, number, line):
    """ID of one line of a list."""
    first = line.split()[0]
    if "/" in first:
        parts = first.strip("/").split("/")
        if len(parts) != 2 or ".." in parts or not re.search(r"\.(jpg|jpeg|png)$", first, re.IGNORECASE):
            raise UserError(f"{path}: line {number}: {first[:100]!r} is neither an ID nor /JPEGImages/ID.jpg")
        first = parts[-1].rsplit(".", 1)[0]
    if not ID_PATTERN.fullmatch(first) or first in (".", "..") or CONTROL.search(first) or "\0" in line:
        raise UserError(f"{path}: line {number}: {first[:100]!r} is not an image ID")
    return first
