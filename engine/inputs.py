"""FOLDER.inputs.tsv: what each result of an output folder was made from; where that has changed, it is made again.

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
from pathlib import Path

import numpy as np

from tool.io.files import UserError, file_checksum

NONE = "-"
TIMES = "times"  # an answer of `Inputs.compare`


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
