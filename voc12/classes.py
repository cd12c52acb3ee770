"""Class names: the one place that knows them. VOC's 20 by default; another data set brings a file of its own."""

import os
import re
import unicodedata
from itertools import combinations
from pathlib import Path

from tool.io.files import CONTROL, UserError, read_json

BACKGROUND_NAME = "background"
CLASS_NAMES = "class_names"  # where the settings.json of an experiment has them
IGNORED_NAME = "ignored"  # what 255 is called in formats that know classes alone
VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable")
VOC_CLASSES += ("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


def load_classes(path=None):
    """Names of the object classes, in the order of their indices; VOC's 20 where `path` is None.

    path: text file with one name a line, without background, or an experiment's settings.json. At most 254, since masks
    are 8-bit and 255 is "ignore".
    """
    if path is None:
        return VOC_CLASSES
    if Path(path).name == "settings.json":
        stored = read_json(path)
        return check_class_names(stored.get(CLASS_NAMES) if isinstance(stored, dict) else None, path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --classes takes a text file with one class name a line") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path}: not a text file; --classes takes one class name a line") from None
    return check_class_names([plain_name(line) for line in lines if line.strip()], path)


def plain_name(text):
    """A name without blanks around it, in Unicode's composed form: macOS decomposes accents in the names of files."""
    return unicodedata.normalize("NFC", text.strip())


def check_class_names(names, origin):
    """The names as a tuple; UserError, which begins with `origin`, where they cannot be those of 8-bit masks."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        names = ()
    if not names or len(names) > 254 or len(set(names)) < len(names) or BACKGROUND_NAME in names:
        raise UserError(f"{origin}: needs 1 to 254 different class names, one a line, without {BACKGROUND_NAME!r}")
    for name in names:
        if "/" in name or CONTROL.search(name) or name.splitlines() != [name] or len(name) > 100:
            hint = "names of files are made of it, so it is one line of at most 100 letters, without a slash"
            raise UserError(f"{origin}: {name[:100]!r} is no class name: {hint}")
    return tuple(names)


# ---------------------------------------------------------------- names that may be a mistake


def ask_about_names(counts, origin):
    """UserError, which begins with `origin`, where two names look like one class. counts: {name: photographs}."""
    for one, other in combinations(sorted(counts, key=counts.get), 2):
        if alike(one, other):
            pair = " and ".join(f"{name!r} ({counts[name]} photographs)" for name in (one, other))
            hint = "give both one name, or, where two are meant, list all class names in a file for --classes"
            raise UserError(f"{origin}: {pair} look like one class; {hint}")


def alike(one, other):
    """Whether two names differ in capitals, blanks, hyphens and underscores alone, or in one word by a slip."""
    words = [re.split(r"[\s_-]+", name.casefold()) for name in (one, other)]
    if "".join(words[0]) == "".join(words[1]):
        return True
    different = [pair for pair in zip(*words) if pair[0] != pair[1]]
    return len(words[0]) == len(words[1]) and len(different) == 1 and is_slip(*different[0])


def is_slip(one, other):
    """Whether two words of four letters or more differ as if mistyped: two neighbours exchanged, a plural's s, or, of
    five or more, one letter inside too many or another. Other first or last letters are other words (boat, goat; typea,
    typeb), and so are other digits, and words of scripts without capitals, whose letters say more.
    """
    short, long = sorted((one, other), key=len)
    if len(short) < 4 or not long.isalpha() or not short.isalpha() or long.upper() == long:
        return False
    k = len(os.path.commonprefix([short, long]))
    a, b = short[k:], long[k:]
    if a[:2] == b[1::-1] and a[2:] == b[2:]:
        return True
    if not a:
        return b == "s"
    inside = 0 < k and len(long) > 4 and len(b) > 1
    return inside and b[1:] in (a, a[1:])
