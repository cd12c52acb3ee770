"""Class names: the one place that knows them. VOC's 20 by default; another data set brings a file of its own."""

from pathlib import Path

from tool.io.files import CONTROL, UserError

BACKGROUND_NAME = "background"
IGNORED_NAME = "ignored"  # what 255 is called in formats that know classes alone
VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable")
VOC_CLASSES += ("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


def load_classes(path=None):
    """Names of the object classes, in the order of their indices; VOC's 20 where `path` is None.

    path: text file with one name a line, without background. At most 254, since masks are 8-bit and 255 is "ignore".
    """
    if path is None:
        return VOC_CLASSES
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --classes takes a text file with one class name a line") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(f"{path}: not a text file; --classes takes one class name a line") from None
    return check_class_names(names, path)


def check_class_names(names, origin):
    """The names as a tuple; UserError, which begins with `origin`, where they cannot be those of 8-bit masks."""
    if not names or len(names) > 254 or len(set(names)) < len(names) or BACKGROUND_NAME in names:
        raise UserError(f"{origin}: needs 1 to 254 different class names, one a line, without {BACKGROUND_NAME!r}")
    for name in names:
        if "/" in name or CONTROL.search(name) or name.splitlines() != [name] or len(name) > 100:
            raise UserError(f"{origin}: {name[:100]!r} is no class name: names of files are made of them")
    return tuple(names)
