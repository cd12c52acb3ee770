"""Scores of a stage's results: of the right list, of those that are there, computed again where a file has changed."""

import os

import numpy as np
import pytest

from engine.report.found import KINDS, Stage
from engine.report.page import Cache
from engine.report.scoring import Data, Scored, image_disagreements, image_scores, images_of, pick_folders, score_stage
from tool.io.images import label_image, save_image
from tool.io.scores import write_scores
from voc12.classes import VOC_CLASSES

KIND = {kind.folders: kind for kind in KINDS}
NAMES = ("background", *VOC_CLASSES)
IDS = {"train.txt": ["a", "b", "c"], "val.txt": ["v"]}
TRUTH = np.array([[0, 0, 3, 3]], np.uint8)


@pytest.fixture
def data(tmp_path):
    """Two lists; of "c" there is no mask."""
    for image_id in ("a", "b", "v"):
        save_image(tmp_path / "masks" / f"{image_id}.png", label_image(TRUTH))
    place = lambda kind, suffix: lambda image_id: tmp_path / kind / f"{image_id}.{suffix}"  # noqa: E731
    return Data(IDS, place("photos", "jpg"), place("masks", "png"), {"a", "b", "v"}, NAMES)


def stage(tmp_path, folders="rw/*", name="rw/one", **labels):
    """A stage with these label images."""
    for image_id, values in labels.items():
        save_image(tmp_path / name / f"{image_id}.png", label_image(np.array([values], np.uint8)))
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    return Stage(KIND[folders], name, tmp_path / name, {}, [])


def test_results_are_scored_on_the_list_they_are_of(tmp_path, data):
    cache = Cache(tmp_path)
    walked = stage(tmp_path, a=[0, 0, 3, 3], c=[0, 0, 0, 0])
    assert images_of(walked, IDS["train.txt"]) == ["a", "c"]
    scored = score_stage(walked, data, [0.1], cache)
    assert (scored.path, scored.images, scored.notes) == ("train.txt", ["a", "c"], ["1 images have no mask"])
    assert scored.result["miou_present"] == 100 and scored.result["classes"]["cat"] == 0
    network = stage(tmp_path, "seg/*", "seg/net", a=[0, 0, 3, 3], v=[0, 3, 3, 3])
    scored = score_stage(network, data, [0.1], cache)
    assert (scored.path, scored.images) == ("val.txt", ["v"])  # a segmentation network's list is the second
    assert scored.result["miou_present"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_a_stage_without_results_or_masks_has_no_scores(tmp_path, data):
    scored = score_stage(stage(tmp_path), data, [0.1], Cache(tmp_path))
    assert (scored.images, scored.result, scored.notes) == ([], None, [])
    scored = score_stage(stage(tmp_path, c=[0] * 4), data, [0.1], Cache(tmp_path))
    assert (scored.images, scored.result, scored.notes) == (["c"], None, []) and scored.threshold(0.3) == 0.3


def test_what_cannot_be_scored_is_said(tmp_path, data):
    scored = score_stage(stage(tmp_path, a=[0, 0, 3]), data, [0.1], Cache(tmp_path))
    assert scored.result is None and len(scored.notes) == 1 and "a.png" in scored.notes[0]


def test_maps_are_scored_at_their_best_threshold(tmp_path, data):
    write_scores(tmp_path / "dict" / "a.npy", {2: np.array([[0.1, 0.2, 0.3, 0.9]], np.float32)})
    maps = Stage(KIND["dict"], "dict", tmp_path / "dict", {}, [])
    scored = score_stage(maps, data, [0.1, 0.25, 0.5], Cache(tmp_path))
    assert scored.threshold(0.9) == 0.25 and scored.result["miou_present"] == 100


def test_a_changed_file_is_scored_again_and_no_other(tmp_path, data):
    cache = Cache(tmp_path)
    walked = stage(tmp_path, a=[0, 0, 3, 3], b=[0, 0, 3, 3])
    assert image_scores(walked, IDS["train.txt"], data, None, cache) == {"a": 100, "b": 100}
    cache.write()
    cache = Cache(tmp_path)
    for path in (walked.path("a"), data.mask("a")):  # the same size and time: not looked into
        time = path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(time, time))
    assert image_scores(walked, IDS["train.txt"], data, None, cache) == {"a": 100, "b": 100}
    save_image(data.mask("a"), label_image(TRUTH))
    walked = stage(tmp_path, a=[0, 3, 3, 3])
    found = image_scores(walked, IDS["train.txt"], data, None, cache)
    assert found == {"a": pytest.approx(100 * (1 / 2 + 2 / 3) / 2), "b": 100}


def test_of_each_kind_the_best_is_shown_and_without_scores_the_last_written(tmp_path):
    def scored(name, miou, time, images=("a",), kind="rw/*"):
        entry = stage(tmp_path, kind, name)
        os.utime(entry.folder, ns=(time, time))
        return Scored(entry, "train.txt", list(images), None if miou is None else {"miou_present": miou}, [])

    low, high, new = scored("rw/low", 10, 3), scored("rw/high", 20, 2), scored("rw/new", None, 9)
    one, two = scored("seg/one", None, 1, kind="seg/*"), scored("seg/two", None, 2, kind="seg/*")
    empty = scored("rw/empty", None, 99, images=())
    powers = [scored(f"crf/{alpha:02d}", miou, 1, kind="crf/*") for alpha, miou in ((2, 5), (19, 50), (21, 6))]
    assert pick_folders([*powers, low, high, new, one, two, empty]) == [*powers, high, two]


def test_images_without_masks_are_ranked_by_how_much_the_stages_disagree(tmp_path, data):
    """Labels by hand: of map, CRF with the middle power, walk; of eight pixels, with the threshold at 0.5."""

    def entry(kind, name, files):
        for image_id, values in files.items():
            arrays = {k: np.array([v], np.float32) for k, v in values.items()}
            write_scores(tmp_path / name / f"{image_id}.npy", arrays)
        return Scored(Stage(KIND[kind], name, tmp_path / name, {}, []), "train.txt", list(files), None, [])

    cat = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0, 0]  # label 8 on four pixels
    maps = entry("dict", "dict", {"a": {7: cat}, "b": {7: cat}, "c": {}, "only": {7: cat}})
    crf = {0: [0, 0, 0, 1, 1, 1, 1, 1], 8: [1, 1, 1, 0, 0, 0, 0, 0]}  # on three
    odd = {0: [0] * 8, 3: [1] * 8}
    powers = [entry("crf/*", f"crf/{k:02d}", {"a": s, "c": s}) for k, s in ((2, odd), (19, crf), (21, odd))]
    walk = stage(tmp_path, a=[8, 8, 8, 8, 0, 0, 0, 1], b=[8, 8, 8, 8, 0, 0, 0, 0], c=[8, 0, 0, 0, 0, 0, 0, 0])
    entries = [maps, *powers, Scored(walk, "train.txt", ["a", "b", "c"], None, [])]
    ids = ["a", "b", "c", "only", "none"]
    found = image_disagreements(entries, ids, data._replace(masked=set()), 0.5, Cache(tmp_path))
    assert found == {"a": 25.0, "b": 0.0, "c": 37.5}  # fourth and last pixel; none; the first three
    save_image(tmp_path / "rw/one/a.png", label_image(np.zeros((1, 5), np.uint8)))
    (tmp_path / "dict/b.npy").write_bytes(b"cut off")
    found = image_disagreements(entries, ids, data._replace(masked=set()), 0.5, Cache(tmp_path))
    assert found == {"a": 100.0, "b": 100.0, "c": 37.5}
