"""Output folders of a pass over images: whose they are, what they lack, what their files were made from.

FOLDER.inputs.tsv: what each result of an output folder was made from; where that has changed, it is made again.

One line an image: ID, classes, photograph, maps, with tabs between; of several lines of an ID the last one counts.
classes: indices with commas between. photograph, maps: files as `size:time:checksum` in bytes, nanoseconds and CRC-32.
"-" stands for what a stage does not read, or did not find.

A line is added after an image's old files were removed and before its new ones are written, so that a file which is
there is always of the last line, whenever a run was killed. Files without a line are another tool's, or older than
this list; they count as made from what is there now.

Why not in the files themselves, as their origin is: to know what is left of a million images a run would open all of
them instead of reading one file, and an image without any class has no overlay that could carry it.
"""

import errno
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.record import difference, origin_of, write_record
from tool.io.files import UserError, file_checksum, folder_settings, remove_stale

NONE = "-"
TIMES = "times"  # an answer of `Inputs.compare`
CLASSES_AN_IMAGE = 1.5  # VOC's mean, for images whose classes are not known beforehand


class Output:
    """One folder of results.

    settings: what determines them, plain values. suffix: .npy or .png, behind the ID; where class_names are given,
    an image has a file for each of its classes, ID_CLASS.png. bytes_a_pixel: (of any image, for each of its classes).
    """

    def __init__(self, folder, settings, suffix=".png", class_names=None, bytes_a_pixel=(0.25, 0)):
        self.folder, self.settings, self.suffix, self.class_names = folder, settings, suffix, class_names
        self.bytes_a_pixel = bytes_a_pixel

    @cached_property
    def origin(self):
        """The mark of these results, in each of their files."""
        return origin_of(self.settings)

    def check_names(self, ids, labels=None):
        """UserError where two images would share a file: a with the class b_c, and a_b with the class c.

        labels: {ID: vector of 0 and 1} where it is known which classes an image shows.
        """
        known, names = set(ids), list(enumerate(self.class_names or ()))
        for (k, long), (j, short) in ((one, other) for one in names for other in names):
            for image_id in ids if long.endswith(f"_{short}") else ():
                other = f"{image_id}_{long.removesuffix(f'_{short}')}"
                if other in known and (labels is None or (labels[image_id][k] and labels[other][j])):
                    text = f"would be of {image_id} with the class {long} and of {other} with the class {short}"
                    raise UserError(f"{self.path(image_id, k)}: {text}; rename a photograph, or leave --vis away")

    def pixel_bytes(self, classes):
        """About how many bytes a pixel takes in an image of so many classes."""
        return self.bytes_a_pixel[0] + self.bytes_a_pixel[1] * classes

    def check(self, overwrite):
        """Whether the folder is of these results.

        UserError where it holds others, or results of unknown origin, that are not to be overwritten.
        """
        old = folder_settings(self.folder)
        if old != self.settings and not overwrite and any(self.files_there()):
            text = f"{self.folder}: holds results of {difference(old, self.settings)}"
            raise UserError(f"{text}; --overwrite replaces them, another --name keeps both")
        return old == self.settings

    def files_there(self):
        """Paths of all results in the folder, at any depth: IDs may have slashes."""
        return self.folder.rglob(f"*{self.suffix}")

    def claim(self, overwrite, run):
        """Make the folder the place of these results; with `overwrite` others are removed. run: see `this_run`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        same = self.check(overwrite)
        if not same:
            for path in self.files_there():
                path.unlink()
            inputs_path(self.folder).unlink(missing_ok=True)
        mend_inputs(self.folder)
        write_record(self.folder, self.settings, run, keep=same)

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

    def bytes_needed(self, sizes):
        """{folder: bytes, about} of what is left. sizes: {ID: (width, height)} of the photographs."""
        needed = {output.folder: 0 for output in self.surveys}
        for image_id, lacking in self.left.items():
            width, height = sizes.get(image_id, (0, 0))
            classes = self.inputs.classes[image_id]
            count = CLASSES_AN_IMAGE if classes == NONE else len(split_classes(classes))
            for output in lacking:
                needed[output.folder] += width * height * output.pixel_bytes(count)
        return needed

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


# ---------------------------------------------------------------- what files were made from


class Inputs:
    """What the images of a run are made from, as it is when the run begins.

    ids: the images' IDs. photograph, maps: functions ID -> path; maps is for stages that read stored ones. labels: {ID:
    vector of 0 and 1}, where it is known beforehand which classes an image shows; `classes` has it as text.
    """

    def __init__(self, ids, photograph, maps=None, labels=None):
        self.locate = {"photograph": photograph} | ({"maps": maps} if maps else {})
        # a text an image, not a list: a million containers would keep Python's collector busy for half of the start
        self.states = {kind: {i: file_stamp(locate, i) for i in ids} for kind, locate in self.locate.items()}
        self.labels = labels
        self.classes = dict.fromkeys(ids, NONE) if labels is None else spell_classes(ids, labels)

    def line(self, image_id, classes):
        """The line of an image whose files are about to be made. classes: as text."""
        files = dict.fromkeys(("photograph", "maps"), NONE)
        for kind, locate in self.locate.items():
            state = self.states[kind][image_id]
            if state != NONE:
                checksum = file_checksum(locate(image_id))
                # where a file was replaced since the run began, nobody knows which of the two was read
                files[kind] = state + (checksum if file_stamp(locate, image_id) == state else NONE)
        return "\t".join([image_id, classes, *files.values()]) + "\n"

    def compare(self, image_id, stored):
        """What has changed since a line was written: "labels", "photograph" or "maps"; None where nothing has.

        TIMES where files have other times and the same bytes, as copies of a data set do. stored: see `read_inputs`.
        """
        old_classes, *old = stored
        classes = self.classes[image_id]
        if NONE not in (old_classes, classes) and old_classes != classes:
            return "labels"
        answer = None
        for (kind, locate), before in zip(self.locate.items(), old):
            now = self.states[kind][image_id]
            if NONE in (before, now) or before.startswith(now):
                continue
            if before.split(":")[0] != now.split(":")[0] or not before.endswith(f":{file_checksum(locate(image_id))}"):
                return kind
            answer = TIMES
        return answer


def spell_classes(ids, labels):
    """{ID: vector of 0 and 1} -> {ID: class indices as text}; each combination is spelled once."""
    texts, classes = {}, {}
    for image_id in ids:
        vector = labels[image_id]
        key = vector.tobytes()
        if key not in texts:
            texts[key] = join_classes(np.flatnonzero(vector))
        classes[image_id] = texts[key]
    return classes


def file_stamp(locate, image_id):
    """`size:time:` of an image's file; "-" where there is none, which is said where it is opened."""
    try:
        found = os.stat(locate(image_id))
    except (OSError, UserError):
        return NONE
    return f"{found.st_size}:{found.st_mtime_ns}:"


def join_classes(indices):
    return ",".join(map(str, indices))


def split_classes(text):
    """Class indices of a line; none where they are not in it."""
    return [int(k) for k in text.split(",") if k.isdigit()]


def inputs_path(folder):
    """The list of an output folder; beside it, so that the folder holds results alone."""
    return Path(folder).with_name(f"{Path(folder).name}.inputs.tsv")


def read_inputs(folder):
    """{ID: [classes, photograph, maps]} of an output folder."""
    try:
        text = inputs_path(folder).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    lines = (line.split("\t") for line in text.split("\n")[:-1])
    return {image_id: rest for image_id, *rest in lines if len(rest) == 3}


def add_inputs(folder, lines):
    """Add lines to inputs.tsv, in one piece: processes of a run may do so at once."""
    path = inputs_path(folder)
    data = "".join(lines).encode()
    with open(path, "ab", buffering=0) as stream:
        if stream.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def mend_inputs(folder):
    """End the last line where a full disk left a part of it, so that the next one is a line of its own."""
    path = inputs_path(folder)
    if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        add_inputs(folder, ["\n"])
