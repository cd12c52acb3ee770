"""Scores of every stage that has results, of as many images as are there, and of single images."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tqdm import tqdm

from engine.record import check_origins
from engine.report.found import Stage
from tool import VERSION
from tool.io.files import UserError, fingerprint, missing_files
from tool.io.images import check_size, fit_mask, open_mask
from tool.results import image_iou, labels_of, read_result, score


class Data(NamedTuple):
    """What results are compared with. lists: {path: IDs}; photo, mask: path of an ID's; names: the labels' names.

    masked: the IDs with a mask.
    """

    lists: dict
    photo: Callable
    mask: Callable
    masked: set
    names: tuple


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
    files = [path.stat() for image_id in ids for path in (stage.path(image_id), data.mask(image_id))]
    return fingerprint(VERSION, ids, data.names, [(file.st_size, file.st_mtime_ns) for file in files])


def best_of_kinds(scored):
    """One folder of each kind: that with the highest mIoU, or, without scores, the one written last."""

    def rank(entry):
        return entry.result["miou_present"] if entry.result else -1, entry.stage.folder.stat().st_mtime_ns

    kinds = dict.fromkeys(entry.stage.kind for entry in scored if entry.images)
    return [max((entry for entry in scored if entry.images and entry.stage.kind == kind), key=rank) for kind in kinds]


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
