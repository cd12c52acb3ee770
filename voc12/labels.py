"""Image labels: which classes an image shows, from its XML or from the table that make_cls_labels.py writes."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tool.io.files import UserError, after_id, print_warning, write_bytes
from tool.io.pickles import pickle_dict, unpickle_dict

_unknown_names = set()  # those already warned about, so that 10,000 files give one line a name


def annotation_path(voc12_root, image_id):
    return Path(voc12_root) / "Annotations" / f"{image_id}.xml"


def read_xml_label(path, classes):
    """float32[len(classes)] of a VOC annotation: 1 where any of its objects has that class, 0 elsewhere.

    Objects marked difficult or truncated count like any other. A name that is not in `classes` is left out, with one
    warning a name on stderr (both as released). UserError with the path: no such file, no VOC annotation.
    """
    index = {name: k for k, name in enumerate(classes)}
    label = np.zeros(len(classes), dtype=np.float32)
    for item in _parse_annotation(path).iter("object"):  # not every <name>: parts of persons (head, hand) have one too
        name = (item.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{path}: an object without a name; mend the file or take the image off the list")
        if name in index:
            label[index[name]] = 1
        elif name not in _unknown_names:
            _unknown_names.add(name)
            print_warning(f"{path}: {name!r} is none of the {len(classes)} classes and is left out")
    return label


def _parse_annotation(path):
    """Root element of an annotation; UserError where it is missing, broken or anything else."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such annotation; check --voc12_root and the list") from None
    # Entities can blow a small file up to gigabytes, and annotations have none. Zero bytes: UTF-16 spells it with them.
    plain = data.replace(b"\0", b"")
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise UserError(f"{path}: declares a DOCTYPE or an ENTITY, which VOC annotations never do; remove that part")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: its encoding is unusable
        raise UserError(f"{path}: not an XML file ({error}); fetch it again or take the image off the list") from None
    if root.tag != "annotation":
        raise UserError(f"{path}: an XML file with <{root.tag}>, not a VOC <annotation>; check --voc12_root")
    return root


# ---------------------------------------------------------------- tables of labels

FORM = "--cls_labels takes {ID: vector of 0 and 1, a value a class}, as voc12/make_cls_labels.py writes it"


class LabelTable(Mapping):
    """{ID: float32[C] of 0 and 1} of many images, a byte a value, in one array that forked processes share."""

    def __init__(self, ids, matrix):
        """ids: of the rows of `matrix`, N x C uint8, in order."""
        self.rows = {image_id: k for k, image_id in enumerate(ids)}
        self.matrix = matrix

    def __getitem__(self, image_id):
        return self.matrix[self.rows[image_id]].astype(np.float32)

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)

    def without_class(self):
        """IDs of the images that show none of the classes."""
        return [image_id for image_id, shown in zip(self, self.matrix.any(axis=1)) if not shown]


def write_cls_labels(path, labels):
    """Write {ID: vector of 0 and 1} as `np.save` of {ID: float32[C]}, which other tools of the field read too."""
    table = {str(k): np.ascontiguousarray(v, dtype=np.float32) for k, v in labels.items()}
    write_bytes(path, pickle_dict(table))


def read_cls_labels(path):
    """{ID: vector} of the table at `path`, without trusting it; UserError where it is no such table.

    IRN's tables have whole numbers in place of VOC's IDs: 2007000032 is 2007_000032.
    """
    try:
        table = name_keys(unpickle_dict(Path(path).read_bytes()))
        if not table:
            raise ValueError("it is empty")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {FORM}; without it the labels come from Annotations") from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything; none of it may escape as a traceback
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a label table ({reason}); {FORM}") from None
    return table


def name_keys(table):
    """The table with an ID, a text, for each key; ValueError where a key is none, or two are of one ID."""
    named = {}
    for key, vector in table.items():
        if isinstance(key, int) and 10**9 <= key < 10**10:
            key = f"{key // 10**6}_{key % 10**6:06d}"
        if not isinstance(key, str):
            raise ValueError(f"its keys are not image IDs: {str(key)[:50]}")
        named[key] = vector
    if len(named) < len(table):
        raise ValueError("an ID occurs twice")
    return named


# ---------------------------------------------------------------- labels of a list


def find_label(image_id, voc12_root, classes, table, cls_labels):
    """Vector of an image out of `table`, read from cls_labels, or out of its XML; None where neither has it."""
    if image_id not in table:
        path = annotation_path(voc12_root, image_id)
        return read_xml_label(path, classes) if path.is_file() else None
    vector = table[image_id]
    if isinstance(vector, list | tuple) and all(isinstance(value, int | float) for value in vector):
        vector = np.array(vector)
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind not in "bfiu":
        raise UserError(f"{cls_labels}: {image_id}: not a vector of numbers; {FORM}")
    if len(vector) != len(classes):
        text = f"{cls_labels}: {image_id} has {len(vector)} values for {len(classes)} classes: made with other classes"
        raise UserError(f"{text}; check --classes and --cls_labels")
    if not ((vector == 0) | (vector == 1)).all():
        raise UserError(f"{cls_labels}: {image_id} has values other than 0 and 1; {FORM}")
    return vector


def load_labels(ids, voc12_root, classes, cls_labels=None, failed=None):
    """Labels of the listed images: LabelTable of {ID: float32[len(classes)] of 0 and 1}; one that shows none has zeros.

    ids: IDs in any order. cls_labels: path of a table; for an ID that it lacks the XML under voc12_root/Annotations is
    read, and for all of them where it is None. failed: called with (ID, UserError) of each image that has no usable
    label, which is left out; without it the first one raises that error. UserError: an image without label, a broken or
    missing file, a table made with other classes.
    """
    table = {} if cls_labels is None else read_cls_labels(cls_labels)
    matrix = np.zeros((len(ids), len(classes)), dtype=np.uint8)
    found, missing = [], []
    for image_id in ids:
        try:
            vector = find_label(image_id, voc12_root, classes, table, cls_labels)
        except UserError as error:
            if failed is None:
                raise
            failed(image_id, error)
            continue
        if vector is None:
            missing.append(image_id)
        else:
            matrix[len(found)] = vector
            found.append(image_id)
    if missing:
        where = f"not in {cls_labels}, and " if table else ""
        where = f"{where}no {Path(voc12_root) / 'Annotations'}/ID.xml"
        hint = f"({where}); check --voc12_root or take them off the list"
        if failed is None:
            text = f"{len(missing)} of {len(ids)} images have no label, the first is {missing[0]} {hint}"
            raise UserError(text + after_id(missing[0]))
        for image_id in missing:
            failed(image_id, UserError(f"{image_id}: one of the images that have no label {hint}"))
    return LabelTable(found, matrix[: len(found)])


def load_training_labels(ids, source, *options):
    """`load_labels` of a set to learn from; UserError where no image at all shows any class. source: what lists it."""
    labels = load_labels(ids, *options)
    if not labels.matrix.any():
        raise UserError(f"{source}: none of {len(ids)} images shows any of the classes; check --classes")
    return labels


def describe_negatives(labels):
    """How many images of a LabelTable show no class, to follow other counts; "" where none does, or for None."""
    count = len(labels.without_class()) if labels is not None else 0
    return f", {count} show none of the classes" if count else ""


def any_negative(labels):
    """Whether any image with a class shares none with some other. labels: N x C of 0 and 1."""
    rows = np.unique(labels, axis=0).astype(np.float32)
    if rows.all(axis=0).any():  # a class that all of them have
        return False
    order = np.argsort(rows.sum(axis=1))  # few classes find one soonest
    return any((rows @ row == 0).any() for row in rows[order] if row.any())
