"""Output folders of a pass over images: whose they are, what they lack, and where an image's files go."""

import os
from collections import Counter
from typing import NamedTuple

from engine.inputs import NONE, TIMES, add_inputs, join_classes, read_inputs, split_classes
from engine.record import check_claim, claim_folder, folder_settings, origin_of


class Output:
    """One folder of results.

    settings: what determines them, plain values. suffix: .npy or .png, behind the ID; where class_names are given,
    an image has a file for each of its classes, ID_CLASS.png. bytes_a_pixel: (of any image, for each of its classes).
    """

    def __init__(self, folder, settings, suffix=".png", class_names=None, bytes_a_pixel=(0.25, 0)):
        self.folder, self.settings, self.suffix, self.class_names = folder, settings, suffix, class_names
        self.bytes_a_pixel = bytes_a_pixel
        self.origin = origin_of(settings)

    def pixel_bytes(self, classes):
        """About how many bytes a pixel takes in an image of so many classes."""
        return self.bytes_a_pixel[0] + self.bytes_a_pixel[1] * classes

    def check(self, overwrite):
        """UserError where the folder holds results of other settings that are not to be overwritten."""
        check_claim(self.folder, self.settings, f"*{self.suffix}", overwrite)

    def claim(self, overwrite, run):
        """Make the folder the place of these results; with `overwrite` others are removed. run: see `this_run`."""
        claim_folder(self.folder, self.settings, f"*{self.suffix}", overwrite, run)

    def name(self, image_id, class_index=None):
        """The name in the folder of an image's file, or of that of one of its classes."""
        stem = image_id if class_index is None else f"{image_id}_{self.class_names[class_index]}"
        return f"{stem}{self.suffix}"

    def path(self, image_id, class_index=None):
        """The path of `name`, as text."""
        return f"{self.folder}/{self.name(image_id, class_index)}"

    def files(self, image_id, classes):
        """What a job gets: (path, or {class: path} where each class has a file, origin). classes: indices."""
        paths = {k: self.path(image_id, k) for k in classes} if self.class_names else self.path(image_id)
        return paths, self.origin

    def names(self, image_id, classes):
        """Names of all files of an image. classes: as text, as in inputs.tsv."""
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

    def lacking(self, output):
        """IDs that have no file in an output folder, of this run or another, that belongs to its inputs."""
        return (self.surveys.get(output) or output.survey(self.inputs)).left

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
