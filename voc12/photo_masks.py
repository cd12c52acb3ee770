"""Masks of photographs of one's own: of ids or in colours, checked against photograph and classes."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from tool.io.files import UserError, print_warning
from tool.io.images import (
    BACKGROUND,
    IGNORE,
    PALETTE,
    classes_in,
    fit_mask,
    header_size,
    is_coloured,
    label_image,
    mask_oddities,
    open_mask,
    save_image,
)
from tool.results import Notes
from voc12 import layout
from voc12.classes import BACKGROUND_NAME
from voc12.paths import say_turned

NO_CLASS = -1  # stands for a class where images have none
LABELMAP = "labelmap.txt"
IGNORED = ("ignore", "ignored", "void")  # names of what counts for nothing


def read_labelmap(text, path, ids):
    """{(r, g, b): id, or the name of no class} of a labelmap.txt: lines `name:r,g,b:parts:actions`. ids: {name: id}."""
    colours = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, values, *_ = [part.strip() for part in f"{line}:".split(":")]
            colour = tuple(int(v) if v.strip().isdecimal() else 256 for v in values.split(","))
            if len(colour) != 3 or max(colour) > 255 or colour in colours:
                raise UserError(f"{path}: line {number}: {line[:100]!r}: needs name:r,g,b:: with a colour of its own")
            colours[colour] = ids.get(name, name)
    return colours


def mask_colours(masks, labelmap, classes):
    """{(r, g, b): id, or the name of no class} of masks in colour: VOC's, or those of a labelmap.txt.

    masks: --masks; labelmap: a path, or None for labelmap.txt in that folder or the one above it, where it is there.
    """
    found = [path for path in (masks / LABELMAP, masks.parent / LABELMAP) if path.is_file()]
    if labelmap is None and not found:
        ids = [*range(len(classes) + 1), IGNORE]
        return {tuple(PALETTE[k].tolist()): k for k in ids}
    ids = dict.fromkeys(IGNORED, IGNORE) | {BACKGROUND_NAME: BACKGROUND}
    ids |= {name: k for k, name in enumerate(classes, 1)}
    path = labelmap or found[0]
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        raise UserError(f"{path}: no such text file; --labelmap takes one with lines name:r,g,b::") from None
    return read_labelmap(text, path, ids)


def check_masks(masks, images, labelmap):
    """UserError where --masks (None: none) cannot be a folder of masks, or --labelmap is there without it."""
    if masks is None:
        if labelmap is not None:
            raise UserError(f"--labelmap {labelmap}: says the colours of masks; give their folder as --masks")
    elif not masks.is_dir():
        raise UserError(f"--masks {masks}: no such folder")
    elif masks.resolve() == images.resolve():
        raise UserError(f"--masks {masks}: is --images itself; put the masks in a folder of their own")


def find_masks(masks, names, copies):
    """{ID: path of its mask} of those that are there. names: {ID: photograph}; copies: {photograph: its copies}."""
    found = {}
    for image_id, name in names.items():
        ones = [Path(one) for one in (name, *copies.get(name, ()))]
        paths = [masks / one.with_suffix(suffix) for one in ones for suffix in (".png", ".PNG")]
        found[image_id] = next((path for path in paths if path.is_file()), None)
    found = {image_id: path for image_id, path in found.items() if path}
    if not found:
        raise UserError(f"{masks}: no mask of any photograph there; the mask of a/b.jpg is a/b.png (JPEG changes ids)")
    return found


def check_mask(path, photo, size, num_classes, colours, notes):
    """Class indices in a mask; UserError of other ids, or of another size (w, h). What is strange goes to `notes`."""
    stored = open_mask(path, num_classes + 1, colours)
    mask = fit_mask(stored, size[::-1], photo)
    notes.add(path, mask_oddities(mask))
    if mask is not stored:
        notes.add(path, ["was drawn on the photograph unturned, and is turned like it"])
    if mask.shape[::-1] != tuple(size):
        raise UserError(
            f"{path}: {mask.shape[1]} x {mask.shape[0]} pixels, the photograph {size[0]} x {size[1]}; make it anew"
        )
    return tuple(k - 1 for k in sorted(classes_in(mask)))


def read_sizes(images, paths, masks, num_classes, colours, failures):
    """Look at every photograph's header and every mask -> ({ID: (w, h)}, {ID: class indices in its mask}).

    paths, masks: {ID: path}; colours: see `mask_colours`. What cannot be used raises a UserError or goes to `failures`.
    """
    sizes, shown, notes = {}, {}, Notes()

    def check(image_id):
        photo = paths[image_id]
        layout.check_suffix(photo)
        size = header_size(photo)
        if image_id in masks:
            shown[image_id] = check_mask(masks[image_id], photo, size, num_classes, colours, notes)
        sizes[image_id] = size

    if not failures.usable(tqdm(paths, desc="photographs", disable=None), check):
        raise UserError(f"{images}: none of {len(paths)} photographs can be used")
    notes.say()
    say_turned(paths[image_id] for image_id in sizes)
    return sizes, shown


def write_masks(masks, colours, num_classes, folder, final, copy):
    """SegmentationClass of {ID: path}: links to masks of ids, masks in colour as ids; the others: layout.link_all's."""
    coloured = {image_id: path for image_id, path in masks.items() if is_coloured(path)}
    for image_id, path in coloured.items():
        mask = label_image(open_mask(path, num_classes + 1, colours))
        save_image(folder / "SegmentationClass" / f"{image_id}.png", mask)
    pairs = [(path, f"SegmentationClass/{i}.png") for i, path in masks.items() if i not in coloured]
    layout.link_all(pairs, folder, final, copy)


def choose_part(labels, part, seed):
    """A seeded part of the IDs in which every class has that part of its images, as far as single images allow.

    labels: {ID: class indices}. Classes are served from the rarest on; each keeps at least one image outside. Images
    without any class count as one more class.
    """
    labels = {image_id: indices or (NO_CLASS,) for image_id, indices in labels.items()}
    order = np.random.default_rng(seed).permutation(sorted(labels)).tolist()
    members = {}
    for image_id in order:
        for k in labels[image_id]:
            members.setdefault(k, []).append(image_id)
    left = {k: len(ids) for k, ids in members.items()}  # outside the part
    chosen, decided = set(), set()
    for k in sorted(members, key=lambda k: (len(members[k]), k)):
        goal = max(1, len(members[k]) - round(part * len(members[k])))
        for image_id in members[k]:
            if left[k] > goal and image_id not in decided and all(left[j] > 1 for j in labels[image_id]):
                chosen.add(image_id)
                for j in labels[image_id]:
                    left[j] -= 1
        decided.update(members[k])
    return sorted(chosen)


def warn_of_other_labels(shown, labels):
    """A mask with classes that the label lacks: often the classes are in another order than the masks' ids."""
    odd = [image_id for image_id, found in shown.items() if not set(found) <= set(labels[image_id])]
    if odd:
        text = f"{len(odd)} of {len(shown)} masks hold classes that the labels lack ({layout.first_names(odd)})"
        print_warning(f"{text}; is the order of --classes that of the masks' ids?")
