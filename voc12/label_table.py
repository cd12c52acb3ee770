"""Image labels of a CSV, read row by row, in either form: `image,labels` or `image,<class>,<class>,...`.

Spreadsheets write ; in place of the commas where numbers have those, or tabs; the first line says which.
"""

import csv
import functools
import re
from pathlib import Path, PurePosixPath

from tool.io.files import UserError, shorten, without_suffix
from voc12.classes import plain_name

SEPARATOR = re.compile(r'\s*"?image"?\s*([;\t])')
FORMS = "the first line must be `image,labels` (labels separated by ;) or `image,<class>,<class>,...` (0 or 1)"
AMBIGUOUS = ("label", "labels", "class", "classes", "category", "categories")  # no names that one class would have


def read_table(path, locate, images="."):
    """Labels of a CSV -> (class names in the order of the header, or None in the form `image,labels`; {key: names}).

    path: UTF-8 with or without a byte-order mark. locate: called with an image's relative path as the table has it,
    slashes made plain; returns the key to gather it under. images: the folder that absolute paths may lie in. names: a
    frozenset, empty of an image that shows none of the classes. An image may have several rows when they say the same.
    UserError, with the line: no header, another encoding, a broken row, a path out of the folder, contradicting rows.
    """
    labels, begin = {}, 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            found = SEPARATOR.match(stream.readline())
            stream.seek(0)
            separator = found[1] if found else ","
            rows = csv.reader(stream, strict=True, delimiter=separator, skipinitialspace=True)
            header = [plain_name(cell) for cell in without_padding(next(rows, []), 0)]
            read_names = row_reader(path, header)
            begin = rows.line_num + 1
            for row in rows:
                if any(map(str.strip, row)):
                    where, row = f"{path}: line {begin}", without_padding(row, len(header))
                    if separator == ";" and header == ["image", "labels"] and len(row) > 2:
                        row[1:] = [";".join(row[1:])]  # several labels without quotes
                    if len(row) != len(header):
                        raise UserError(f"{where}: {len(row)} fields where the header has {len(header)}")
                    try:
                        names = read_names(*row[1:])
                    except ValueError as error:
                        raise UserError(f"{where}: {error}") from None
                    key = locate(image_name(where, below(images, row[0])))
                    if labels.setdefault(key, names) != names:
                        raise UserError(f"{where}: {row[0]!r} has other labels in an earlier row; mend one of them")
                begin = rows.line_num + 1
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --labels takes a CSV, {FORMS}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save it again as CSV in UTF-8") from None
    except csv.Error as error:
        reason = "a quote that never ends" if "unexpected end" in str(error) or "limit" in str(error) else error
        raise UserError(f"{path}: line {begin}: {reason}; mend that row") from None
    return (None if header[1:] == ["labels"] else header[1:]), labels


def without_padding(cells, least):
    """Cells without the empty ones at their end, which spreadsheets fill lines up with; `least` stay."""
    while len(cells) > least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def row_reader(path, header):
    """The function of a row's other cells -> frozenset of class names, for tables with this header; UserError where it
    is none. It keeps what it read before: a table of a million rows has some thousand combinations."""
    if header[:1] != ["image"] or len(header) < 2:
        raise UserError(f"{path}: no header; {FORMS}, and is {shorten(','.join(header), 60)!r}")
    if header[1] == "labels" and len(header) > 2:
        text = f"other columns beside image and labels ({shorten(', '.join(header[2:]), 60)})"
        raise UserError(f"{path}: {text}; remove them, or call `labels` by the name of a class and write 0 or 1")
    if len(header) == 2 and header[1] != "labels" and header[1].lower() in AMBIGUOUS:
        raise UserError(
            f"{path}: does `image,{header[1]}` list the names of classes, or mark one class by 0 and 1? For names call "
            "the column `labels`; for one class call it by the class's own name"
        )

    def listed(cell):
        return frozenset(plain_name(name) for name in cell.split(";") if name.strip())

    def marked(*cells):
        for name, cell in zip(header[1:], cells, strict=True):
            if cell.strip() not in ("0", "1", "0.0", "1.0"):
                raise ValueError(f"{cell[:100]!r} in column {name[:100]!r} is neither 0 nor 1; {FORMS}")
        return frozenset(n for n, c in zip(header[1:], cells, strict=True) if c.strip() in ("1", "1.0"))

    return functools.cache(listed if header[1:] == ["labels"] else marked)


def below(images, text):
    """A path without the folder of the images, where it begins with that folder's absolute path."""
    path = Path(text.strip())
    for folder in (Path(images).absolute(), Path(images).resolve()) if path.is_absolute() else ():
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return text


DRIVE = re.compile("[A-Za-z]:/")


def image_name(where, text):
    """An image's path with plain slashes; UserError where it is empty or leads out of the folder of the images."""
    path = PurePosixPath(text.strip().replace("\\", "/"))
    if path.anchor or ".." in path.parts or DRIVE.match(str(path)):
        raise UserError(f"{where}: {text[:200]!r} leads out of the folder of the images")
    if not path.parts:
        raise UserError(f"{where}: no image is named")
    return path.as_posix()


def finder(images, photos):
    """The function: name in a table -> photograph, of `photos` (relative paths) or another file; None where there is
    none. A name may lack the suffix; UserError where several photographs could be meant."""
    stems, doubled, composed = {}, set(), {plain_name(photo): photo for photo in photos}
    for photo in photos:
        stem = plain_name(without_suffix(photo))
        doubled.update({stem} & stems.keys())
        stems[stem] = photo

    def find(name):
        if name in photos or (images / name).is_file():
            return name
        name = plain_name(name)
        if name in composed:
            return composed[name]
        if name in doubled:
            raise UserError(f"{images / name}: several photographs are called so; give their suffixes in the table")
        return stems.get(name)

    return find
