"""Scores of every stage that has results, of as many images as are there, and of single images."""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from engine.record import check_origins
from engine.report.found import Stage
from tool import VERSION
from tool.io.files import UserError, fingerprint, missing_files
from tool.io.images import check_size, fit_mask, open_mask
from tool.results import disagreement, image_iou, labels_of, read_result, score
from voc12.classes import BACKGROUND_NAME, load_classes
from voc12.paths import find_images


class Data(NamedTuple):
    """What results are compared with. lists: {path: IDs}; photo, mask: path of an ID's; names: the labels' names.

    masked: the IDs with a mask.
    """

    lists: dict
    photo: Callable
    mask: Callable
    masked: set
    names: tuple


def photographs_of(folder, stages, photographs=None, classes=None):
    """Data of results that infer.py and infer_seg.py made of photographs of no data set: there are no masks.

    photographs: where they are, classes: a file of class names, where the stages' run.json do not say so.
    """
    records = [stage.record for stage in stages if stage.record]
    known = [(record.get("arguments") or {}).get("images") for record in records]
    place = photographs or next((path for path in known if path), None)
    if not place or not Path(place).exists():
        raise UserError(f"{place or folder}: the photographs are not there; --photographs PATH says where they are")
    found = find_images(place, folder)
    ids = list(dict.fromkeys(i for stage in stages for i in images_of(stage, found)))
    if not ids:
        raise UserError(f"{place}: no photograph there has a result in {folder}; check --photographs")
    names = next((record["settings"].get("classes") for record in records), None) or load_classes(classes)
    return Data({str(Path(place)): ids}, found.get, None, set(), (BACKGROUND_NAME, *names))


class Scored(NamedTuple):
    """A stage with its scores. images: IDs of the list `path` that have a result; result: what `score` gives, or None.

    notes: what is to be said of it.
    """

    stage: Stage
    path: str
    images: list
    result: dict | None
    notes: list

    def threshold(self, default):
        """Of the background of class activation maps: the best on the masks, without scores `default`."""
        return self.result["best_threshold"] if self.result else default


def images_of(stage, ids):
    """The IDs that a stage has a result of, in order."""
    missing = set(missing_files({image_id: stage.path(image_id) for image_id in ids}))
    return [image_id for image_id in ids if image_id not in missing]


def score_stage(stage, data, thresholds, cache):
    """Scores of the first list that the stage has results of; that of a segmentation network is the second one.

    thresholds: background thresholds that are tried for class activation maps.
    """
    paths = sorted(data.lists, reverse=stage.kind.is_segmentation, key=list(data.lists).index)
    there = {path: images_of(stage, data.lists[path]) for path in paths}
    path = next((path for path in paths if there[path]), paths[0])
    images = [image_id for image_id in there[path] if image_id in data.masked]
    notes, result = [], None
    if 0 < len(images) < len(there[path]):
        notes.append(f"{len(there[path]) - len(images)} images have no mask")
    if images:
        thresholds = thresholds if stage.kind.task == "cam" else ()
        paths = {"mask": data.mask, "photo": data.photo}
        work = partial(
            score, images, stage.folder, task=stage.kind.task, thresholds=thresholds, names=data.names, **paths
        )
        try:
            result = cache.get(stage.name, fingerprint(state_of(stage, images, data), thresholds), work)
            check_origins(stage.folder, [stage.path(image_id) for image_id in images])
        except (UserError, FileNotFoundError) as error:  # the latter: just made again by a run
            notes.append(str(error))
    return Scored(stage, path, there[path], result, notes)


def state_of(stage, ids, data):
    """16 hex digits that stand for results, masks and classes: they change where files do."""
    paths = [stage.path(image_id) for image_id in ids] + [data.mask(i) for i in ids if i in data.masked]
    files = [path.stat() for path in paths]
    return fingerprint(VERSION, ids, data.names, [(file.st_size, file.st_mtime_ns) for file in files])


def pick_folders(scored):
    """What is shown of each kind: all powers of the CRF, of others the one folder with the highest mIoU.

    Without scores that is the one written last.
    """

    def rank(entry):
        return entry.result["miou_present"] if entry.result else -1, entry.stage.folder.stat().st_mtime_ns

    picked = []
    for _, found in groupby((one for one in scored if one.images), lambda entry: entry.stage.kind):
        found = list(found)
        picked += found if found[0].stage.kind.folders.startswith("crf") else [max(found, key=rank)]
    return picked


def image_scores(stage, ids, data, threshold, cache):
    """{ID: IoU of the one image, in percent}, of the IDs that have mask and result."""
    ids = [image_id for image_id in images_of(stage, ids) if image_id in data.masked]

    def work():
        values = {}
        for image_id in tqdm(ids, "images", unit="image", disable=None):
            truth = open_mask(data.mask(image_id), len(data.names))
            result = read_result(stage.path(image_id), stage.kind.task, len(data.names))
            labels = labels_of(result, stage.kind.task, threshold, truth.shape)
            truth = fit_mask(truth, labels.shape, data.photo(image_id))
            check_size(truth, labels.shape, stage.path(image_id))
            values[image_id] = image_iou(truth, labels, len(data.names))
        return values

    return cache.get(f"{stage.name}, image by image", fingerprint(state_of(stage, ids, data), threshold), work)


def image_disagreements(entries, ids, data, threshold, cache):
    """{ID: percent of the pixels on which the stages disagree}, of the IDs that two of them have a result of.

    Compared are the labels of the CAM at its threshold, of the CRF with the middle one of its powers, of AffinityNet's
    walk and of the segmentation network, as far as they are there: `tool.results.disagreement`. An image one of whose
    results cannot be read is given 100: it is to be looked at. entries: what `pick_folders` gives.
    """
    kinds = {}
    for entry in entries:
        kinds.setdefault(entry.stage.kind, []).append(entry)
    compared = [found[(len(found) - 1) // 2] for found in kinds.values()]
    there = {entry.stage.name: dict.fromkeys(images_of(entry.stage, ids)) for entry in compared}
    ids = [image_id for image_id in ids if sum(image_id in found for found in there.values()) > 1]

    def labels(image_id):
        maps = []
        for stage, limit in reversed([(one.stage, one.threshold(threshold)) for one in compared]):
            if image_id in there[stage.name]:
                result = read_result(stage.path(image_id), stage.kind.task, len(data.names))
                maps.append(labels_of(result, stage.kind.task, limit, maps[0].shape if maps else (0, 0)))
        return maps

    def work():
        values = {}
        for image_id in tqdm(ids, "disagreement", unit="image", disable=None):
            try:
                values[image_id] = disagreement(labels(image_id))
            except UserError:
                values[image_id] = 100.0
        return values

    states = [state_of(entry.stage, [i for i in ids if i in there[entry.stage.name]], data) for entry in compared]
    limits = [entry.threshold(threshold) for entry in compared]
    return cache.get("disagreement, image by image", fingerprint(states, ids, limits), work)
