"""Labels of photographs of one's own: from a CSV, from the folders they lie in, and of those that show no class."""

import os
from collections import Counter
from pathlib import Path

from tool.io.files import UserError, file_checksum, file_hash, fingerprint
from voc12 import layout
from voc12.classes import alike, ask_about_names, plain_name
from voc12.label_table import finder, read_table


def made_of(args):
    """{what: hash, or None} of what these flags of make_dataset.py name: photographs by name, the rest by content."""

    def names(folder, *apart):
        return [*layout.find_photographs(folder, filter(None, (args.out, *apart)), say=str)] if folder else []

    masks = [(name, file_checksum(Path(args.masks, name))) for name in names(args.masks)]
    photos, negatives = names(args.images, args.masks, args.negatives), names(args.negatives, args.images, args.masks)
    return {
        "photographs": fingerprint(os.path.realpath(args.images), photos),
        "negatives": fingerprint(os.path.realpath(args.negatives), negatives) if negatives else None,
        "masks": fingerprint(masks) if masks else None,
        "labels": file_hash(args.labels) if args.labels else None,
        "classes": file_hash(args.classes) if args.classes else None,
    }


def table_labels(path, images, photos):
    """Labels of a CSV -> (class names or None, {photograph: names}, rows without a photograph)."""
    find, missing = finder(images, photos), {}

    def locate(name):
        photo = find(name)
        if photo is None:
            missing[name] = True
        return photo or name

    classes, labels = read_table(path, locate, images)
    labels = {photo: names for photo, names in labels.items() if photo not in missing}
    if not labels and not missing:
        raise UserError(f"{path}: names no photograph; each row below the first is one, with its labels")
    if not labels:
        first, there = layout.first_names(list(missing)), layout.first_names(list(photos))
        how = "names are paths below --images, with capitals as they are, with or without suffix"
        raise UserError(
            f"{path}: none of its {len(missing)} images is in {images} (first {first}; there: {there}); {how}"
        )
    return classes, labels, list(missing)


def negative_photographs(folder, images, without):
    """{name: path} of the photographs in --negatives; {} without that folder.

    name: the path below --images, or, where the folder lies elsewhere, from the folder's own name on.
    """
    if folder is None:
        return {}
    real, inside = Path(os.path.realpath(folder)), os.path.realpath(images)
    if real == Path(inside):
        raise UserError(f"--negatives {folder}: is --images itself; give a folder in it, or another")
    place = real.relative_to(inside if real.is_relative_to(inside) else real.parent)
    return {(place / name).as_posix(): real / name for name in layout.find_photographs(folder, [*without, images])}


def check_negatives(negatives, images, photos, labels, folder):
    """UserError where photographs in --negatives have labels, or names or bytes that photographs in --images have."""
    both = [name for name in negatives if name in photos or labels.get(name)]
    if both:
        text = f"--negatives {folder}: {len(both)} of its photographs have labels"
        raise UserError(f"{text}, or the names of some in --images ({layout.first_names(both)}); remove or rename one")
    known = {name: images / name for name, names in labels.items() if names and negatives}
    for one, *others in same_bytes(known | negatives):
        if one in known and others[-1] in negatives:
            raise UserError(f"--negatives {folder}: {others[-1]} is a copy of {one}, which has a label; remove one")


def same_bytes(paths):
    """[[names of files of one content, in their order]] of those that have a copy. paths: {name: path}."""
    sizes = {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
    often, alike = Counter(sizes.values()), {}
    for name, size in sizes.items():
        if size and often[size] > 1:
            alike.setdefault(file_hash(paths[name]), []).append(name)
    return [names for names in alike.values() if len(names) > 1]


def number_labels(labels, classes, origin):
    """{photograph: names} -> {photograph: sorted indices into `classes`}; UserError where a name is not among them."""
    index = {name: k for k, name in enumerate(classes)}
    unknown = sorted({name for names in labels.values() for name in names if name not in index})
    if unknown:
        near = next((f" (meant: {name}?)" for name in classes if alike(name, unknown[0])), "")
        near = near or ("; labels are separated by ;" if "," in unknown[0] else "")
        raise UserError(f"{origin}: {len(unknown)} labels are not in --classes: {layout.first_names(unknown)}{near}")
    known = {names: tuple(sorted(index[name] for name in names)) for names in set(labels.values())}
    return {photo: known[names] for photo, names in labels.items()}


def folder_labels(images, photos):
    """Labels of photographs that lie in a folder a class -> ({photograph: names}, {photograph: its copies}).

    Files of one content in several folders of a class, whatever their names are, are one photograph, the first of them,
    with the classes of all.
    """
    found = {photo: frozenset([plain_name(photo.split("/")[0])]) for photo in photos if "/" in photo}
    copies = {}
    for one, *others in same_bytes({photo: images / photo for photo in found}):
        classes = frozenset().union(*(found[photo] for photo in (one, *others)))
        if len(classes) > 1:
            found[one], copies[one] = classes, others
            for photo in others:
                del found[photo]
    return found, copies


def ask_about_labels(labels, classes, origin, listed):
    """UserError where names of classes look like mistakes. listed: whether the names are those of a CSV's lists."""
    counts = Counter(dict.fromkeys(classes, 0))
    counts.update(name for names in labels.values() for name in names)
    ask_about_names(counts, origin)
    name = next((name for name in counts if "," in name and listed), None)
    if name is not None:
        photo = next(photo for photo, names in labels.items() if name in names)
        parts = "; ".join(part.strip() for part in name.split(","))
        text = f"{origin}: {photo} has the label {name!r}; if that is more than one class, write {parts!r}"
        raise UserError(f"{text}; if it is one, list all class names in a file for --classes")
