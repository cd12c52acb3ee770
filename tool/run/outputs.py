"""The output folders of infer.py and infer_aff.py: whose they are, what they lack, and where an image's files go."""

import os
from collections import Counter
from typing import NamedTuple

from tool.crf import ITERATIONS, crf_with_alphas
from tool.io.files import UserError
from tool.io.images import heat_overlay, label_image, label_overlay, save_image
from tool.io.scores import write_scores
from tool.pseudo_labels import refine_labels
from tool.run.background import WRITING, Background
from tool.run.inputs import NONE, TIMES, add_inputs, join_classes, read_inputs, split_classes
from tool.run.record import check_claim, claim_folder, folder_settings, origin_of
from tool.segmentation import label_map, refine_scores

CLASSES_AN_IMAGE = 1.5  # VOC's mean, for images whose classes are not known beforehand


class Output:
    """One folder of results.

    settings: what determines them, plain values. suffix: of the files, ID.npy or ID.png; where class_names are given,
    an image has a file for each of its classes, ID_CLASS.png.
    """

    def __init__(self, folder, settings, suffix=".npy", class_names=None):
        self.folder, self.settings, self.suffix, self.class_names = folder, settings, suffix, class_names
        self.origin = origin_of(settings)

    def check(self, overwrite):
        """UserError where the folder holds results of other settings that are not to be overwritten."""
        check_claim(self.folder, self.settings, f"*{self.suffix}", overwrite)

    def claim(self, overwrite, run):
        """Make the folder the place of these results; with `overwrite` others are removed. run: of `this_run`."""
        claim_folder(self.folder, self.settings, f"*{self.suffix}", overwrite, run)

    def name(self, image_id, class_index=None):
        """The name in the folder of an image's file, or of that of one of its classes."""
        stem = image_id if class_index is None else f"{image_id}_{self.class_names[class_index]}"
        return f"{stem}{self.suffix}"

    def path(self, image_id, class_index=None):
        """The path of `name`, as text."""
        return f"{self.folder}/{self.name(image_id, class_index)}"

    def names(self, image_id, classes):
        """Names of all files of an image. classes: as text, of `inputs.tsv`."""
        return [self.name(image_id, k) for k in split_classes(classes)] if self.class_names else [self.name(image_id)]

    def survey(self, inputs):
        """What is there of the images of a run -> Survey."""
        if folder_settings(self.folder) != self.settings:
            return Survey(set(inputs.classes), {}, {}, {})
        found = Survey(set(), {}, {}, {})
        stored, there = read_inputs(self.folder), files_below(self.folder)
        for image_id, now in inputs.classes.items():
            line = stored.get(image_id)
            classes = now if now != NONE or line is None else line[0]
            what = inputs.compare(image_id, line) if line else TIMES
            if what == TIMES:
                found.renewed[image_id] = classes
            elif what:
                found.changed[image_id], found.replaced[image_id] = what, line[0]
            known = what in (None, TIMES) and not (self.class_names and classes == NONE)
            if not known or not there.issuperset(self.names(image_id, classes)):
                found.left.add(image_id)
        return found


def files_below(folder):
    """Names of all files in a folder and the folders in it, relative to it: IDs may have slashes."""
    names = set()
    for here, _, files in os.walk(folder):
        inside = os.path.relpath(here, folder).replace(os.sep, "/")
        names.update(files if inside == "." else (f"{inside}/{name}" for name in files))
    return names


class Survey(NamedTuple):
    """What of a run is left to do in one output folder.

    left: IDs without files, or with files of other inputs. changed: {ID: "labels", "photograph" or "maps"} of the
    latter; replaced: {ID: classes} of their old files. renewed: {ID: classes} whose line in inputs.tsv is missing or
    has old times.
    """

    left: set
    changed: dict
    replaced: dict
    renewed: dict


class Outputs:
    """The output folders of a run, and what is left of each image.

    outputs: the folders; inputs: what the images are made from. left: {ID: the outputs that lack it}, in order.
    """

    def __init__(self, outputs, inputs):
        self.inputs = inputs
        self.surveys = {output: output.survey(inputs) for output in outputs}
        self.left, known = {}, {}  # a million images share a few combinations of folders
        for image_id in inputs.classes:
            lacking = tuple(output for output, survey in self.surveys.items() if image_id in survey.left)
            if lacking:
                self.left[image_id] = known.setdefault(lacking, lacking)

    def describe(self):
        """How many images are done, and which are done again because what they were made from has changed."""
        text = f"{len(self.inputs.classes)} images, {len(self.inputs.classes) - len(self.left)} done before"
        changed = {}
        for survey in self.surveys.values():
            changed |= survey.changed
        if changed:
            counts = ", ".join(f"{kind} of {count}" for kind, count in sorted(Counter(changed.values()).items()))
            text += f", {len(changed)} again because they have changed ({counts}; first {min(changed)})"
        return text

    def renew(self):
        """Note what finished results were made from, where that is not known, or known with other times."""
        for output, survey in self.surveys.items():
            known = survey.renewed.items()
            lines = [self.inputs.line(image_id, classes) for image_id, classes in known if image_id not in survey.left]
            if lines:
                add_inputs(output.folder, lines)

    def begin(self, image_id, classes):
        """Make way for the files of one image -> the outputs that lack it. classes: indices of those it shows."""
        text = join_classes(classes)
        line = self.inputs.line(image_id, text)
        for output in self.left[image_id]:
            old = self.surveys[output].replaced.get(image_id, NONE)
            for name in {*output.names(image_id, text), *output.names(image_id, old)}:
                if os.path.exists(f"{output.folder}/{name}"):
                    os.remove(f"{output.folder}/{name}")
            add_inputs(output.folder, [line])
        return self.left[image_id]


# ---------------------------------------------------------------- infer.py


class MapFolders(NamedTuple):
    """Where infer.py writes. crf: {alpha: Output}. asked: those of this run, which reads maps otherwise."""

    maps: Output
    overlays: Output
    crf: dict
    asked: list

    def disk_needed(self, outputs, sizes, compressed):
        """{folder: bytes, about} of what is left. sizes: {ID: (w, h)}."""
        share = 1 / 8 if compressed else 1
        form = {self.maps: (0, share), self.overlays: (0, 0.5)} | dict.fromkeys(self.crf.values(), (1, share))
        needed = {output.folder: 0 for output in self.asked}
        for image_id, lacking in outputs.left.items():
            width, height = sizes.get(image_id, (0, 0))
            count = len(split_classes(outputs.inputs.classes[image_id])) or CLASSES_AN_IMAGE
            for output in lacking:
                background, values = form[output]
                needed[output.folder] += 4 * width * height * values * (count + background)
        return needed


def map_folders(place, stored, settings, alphas, class_names, asked):
    """MapFolders below `place`. settings: what determines the results; stored: the same of the maps.

    asked: which of "dict", "crf" and "vis" are to be written.
    """
    crf = {
        alpha: Output(place / "crf" / f"{alpha:02d}", settings | {"alpha": alpha, "iterations": ITERATIONS})
        for alpha in alphas
    }
    maps, overlays = Output(place / "dict", stored), Output(place / "vis", settings, ".png", class_names)
    groups = {"dict": [maps], "crf": crf.values(), "vis": [overlays]}
    return MapFolders(maps, overlays, crf, [output for name in asked for output in groups[name]])


class MapPlan(NamedTuple):
    """What is left of a run of infer.py: IDs whose maps are stored, and IDs for the network."""

    outputs: Outputs
    stored: list
    todo: list


def plan_maps(folders, inputs, network, failures):
    """MapPlan of a run on the images of `inputs`. network: whether there is one.

    UserError where there is none and maps are missing.
    """
    outputs = Outputs(folders.asked, inputs)
    lacking = (outputs.surveys.get(folders.maps) or folders.maps.survey(inputs)).left
    stored = [image_id for image_id in outputs.left if image_id not in lacking]
    todo = [image_id for image_id in outputs.left if image_id in lacking]
    if network or not todo:
        return MapPlan(outputs, stored, todo)
    if not failures.skip:
        what = f"no maps of {len(todo)} of {len(inputs.classes)} images, or of other photographs (first {todo[0]})"
        raise UserError(f"{folders.maps.folder}: {what}; give --load_epo EPOCH, or put maps there")
    for image_id in todo:
        failures.add(image_id, f"{folders.maps.path(image_id)}: no maps of this image")
    return MapPlan(outputs, stored, [])


class MapWriter(NamedTuple):
    """Has the results of infer.py refined and written. crf: worker processes; thread: for what is only written."""

    folders: MapFolders
    outputs: Outputs
    crf: Background
    thread: Background
    compressed: bool

    def write(self, image_id, image, cams):
        """Write what is missing for one image. image: H x W x 3 uint8; cams: {class: H x W float32 in [0, 1]}."""
        maps, overlays, crf, _ = self.folders
        lacking = self.outputs.begin(image_id, sorted(cams))
        if maps in lacking:
            self.thread.submit(write_scores, maps.path(image_id), cams, self.compressed, maps.origin)
        if overlays in lacking:
            paths = {k: overlays.path(image_id, k) for k in cams}
            self.thread.submit(overlay_job, image, cams, paths, overlays.origin)
        files = {a: (output.path(image_id), output.origin) for a, output in crf.items() if output in lacking}
        if files:
            self.crf.submit(crf_job, image, cams, files, self.compressed)


# ---------------------------------------------------------------- jobs beside the network


def overlay_job(image, cams, paths, origin):
    """Write one overlay a class. image: H x W x 3 uint8; cams: {class: H x W in [0, 1]}; paths: {class: path}."""
    for k, cam in cams.items():
        save_image(paths[k], heat_overlay(image, cam), origin)


def crf_job(image, cams, files, compressed=False):
    """Refine the maps of one image and write one file an alpha. files: {alpha: (path, origin)}."""
    for alpha, scores in crf_with_alphas(image, cams, list(files)).items():
        path, origin = files[alpha]
        with WRITING:
            write_scores(path, scores, compressed, origin)


def label_job(image, keys, walked, label_file, overlay_file=None, names=None):
    """Refine walked scores (`refine_labels`), then `write_labels`."""
    write_labels(image, refine_labels(image, keys, walked), label_file, overlay_file, names)


def segmentation_job(image, scores, label_file, overlay_file=None, names=None):
    """Refine a segmentation network's scores by CRF, then `write_labels` of the best."""
    write_labels(image, label_map(refine_scores(image, scores)), label_file, overlay_file, names)


def write_labels(image, labels, label_file, overlay_file=None, names=None):
    """Write labels and their overlay on the image: (path, origin) of each, or None.

    names: of the classes, for the legend of the overlay.
    """
    with WRITING:
        if label_file:
            path, origin = label_file
            save_image(path, label_image(labels), origin)
        if overlay_file:
            path, origin = overlay_file
            save_image(path, label_overlay(image, labels, names), origin)
