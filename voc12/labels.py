"""Image labels: which classes an image shows, from its XML or from the table that make_cls_labels.py writes."""

import io
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from tool.io.files import UserError, write_bytes
from tool.io.pickles import unpickle_dict

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
            print(f"warning: {path}: {name!r} is none of the {len(classes)} classes and is left out", file=sys.stderr)
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


def write_cls_labels(path, labels):
    """`np.save` of {ID: float32[C]}, the table that other tools of the field read too."""
    buffer = io.BytesIO()
    np.save(buffer, {str(k): np.ascontiguousarray(v, dtype=np.float32) for k, v in labels.items()}, allow_pickle=True)
    write_bytes(path, buffer.getvalue())


def read_cls_labels(path):
    """{ID: vector} of the table at `path`, unpickled without trusting it; UserError where it is no such table."""
    try:
        table = unpickle_dict(Path(path).read_bytes())
        if not all(isinstance(key, str) for key in table):
            raise ValueError("its keys are not image IDs")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with voc12/make_cls_labels.py") from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything; none of it may escape as a traceback
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a label table ({reason}); make it again with voc12/make_cls_labels.py") from None
    return table


def _checked(path, image_id, vector, classes):
    """A vector of the table as a float32 array of its own; UserError where it does not fit the classes."""
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise UserError(f"{path}: {image_id}: not a vector of numbers; make it again with voc12/make_cls_labels.py")
    if len(vector) != len(classes):
        raise UserError(
            f"{path}: {image_id} has {len(vector)} values for {len(classes)} classes: made with other "
            "classes; make it again with voc12/make_cls_labels.py"
        )
    if not np.isin(vector, (0, 1)).all():
        raise UserError(f"{path}: {image_id} has values other than 0 and 1; make it with voc12/make_cls_labels.py")
    return np.array(vector, dtype=np.float32)


def lookup_labels(ids, voc12_root, classes, cls_labels=None):
    """As load_labels, but an image that shows none of the classes gets its vector of zeros."""
    table = read_cls_labels(cls_labels) if cls_labels is not None and Path(cls_labels).exists() else {}
    labels, missing = {}, []
    for image_id in ids:
        path = annotation_path(voc12_root, image_id)
        if image_id in table:
            labels[image_id] = _checked(cls_labels, image_id, table[image_id], classes)
        elif path.is_file():
            labels[image_id] = read_xml_label(path, classes)
        else:
            missing.append(image_id)
    if missing:
        where = f"not in {cls_labels}, and no {path.parent}/ID.xml" if table else f"no {path.parent}/ID.xml"
        raise UserError(
            f"{len(missing)} of {len(ids)} images have no label, the first is {missing[0]} ({where}); "
            "check --voc12_root or take them off the list"
        )
    return labels


def load_labels(ids, voc12_root, classes, cls_labels="voc12/cls_labels.npy"):
    """Labels of the listed images: {ID: float32[len(classes)] of 0 and 1, with at least one 1}.

    ids: IDs in any order. cls_labels: table of make_cls_labels.py; where that file is missing or lacks an ID, the XML
    under voc12_root/Annotations is read. UserError: an image without label, an image without any class, a broken file,
    a table made with other classes.
    """
    labels = lookup_labels(ids, voc12_root, classes, cls_labels)
    empty = [image_id for image_id in ids if not labels[image_id].any()]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(ids)} images show none of the {len(classes)} classes, the first is "
            f"{empty[0]}; remove them from the list"
        )
    return labels
