"""What is made of an image beside the network: each job writes its files with their origin, and rehearses without."""

from functools import partial

import numpy as np
import pytest

from engine import jobs
from tool.crf import crf_of_large, crf_with_alphas
from tool.io.images import heat_overlay, label_overlay, open_image, open_mask
from tool.io.scores import file_origin, read_scores
from tool.pseudo_labels import refine_labels
from tool.segmentation import label_map, refine_scores

ORIGIN = "0123456789abcdef"
NAMES = ["background", "cow", "dog"]

CRF = partial(crf_of_large, max_side=0)


@pytest.fixture
def image():
    pixels = np.full((12, 16, 3), 90, np.uint8)
    pixels[3:9, 4:12] = (200, 40, 40)
    return pixels


@pytest.fixture
def cams():
    """Maps of the classes 0 and 1 that follow the image's rectangle, roughly."""
    cow = np.zeros((12, 16), np.float32)
    cow[2:9, 4:11] = 0.9
    return {0: cow, 1: np.full((12, 16), 0.05, np.float32)}


def stack(cams):
    """Scores of background, cow and dog."""
    return np.stack([1 - np.max([*cams.values()], axis=0), *cams.values()]).astype(np.float32)


@pytest.mark.parametrize("compressed", [False, True])
def test_maps_are_written(tmp_path, image, cams, compressed):
    jobs.write_maps(image, cams, {"dict": (tmp_path / "a.npy", ORIGIN)}, compressed)
    found = read_scores(tmp_path / "a.npy")
    assert list(found) == [0, 1] and all(np.allclose(found[k], cams[k], atol=1e-3) for k in cams)
    assert file_origin(tmp_path / "a.npy") == ORIGIN


def test_overlays_are_written_class_by_class(tmp_path, image, cams):
    paths = {k: tmp_path / f"a_{k}.png" for k in cams}
    jobs.write_overlays(image, cams, {"vis": (paths, ORIGIN)})
    for k, path in paths.items():
        assert np.array_equal(np.array(open_image(path)), np.array(heat_overlay(image, cams[k])))
        assert file_origin(path) == ORIGIN


def test_maps_are_refined_for_every_power_that_lacks_a_file(tmp_path, image, cams):
    files = {2: (tmp_path / "2.npy", ORIGIN), 19: None}
    jobs.refine_maps(image, cams, files, compressed=False, refine=CRF)
    expected = crf_with_alphas(image, cams, [2, 19])[2]
    found = read_scores(tmp_path / "2.npy")
    assert list(found) == [0, 1, 2] and all(np.allclose(found[k], expected[k], atol=1e-5) for k in found)
    assert [path.name for path in tmp_path.iterdir()] == ["2.npy"]


def test_labels_of_two_powers_are_what_both_say(tmp_path, image, cams):
    jobs.refine_maps(image, cams, {name: (tmp_path / f"{name}.png", ORIGIN) for name in ((2,), (2, 19))}, False, CRF)
    scores = crf_with_alphas(image, cams, [2, 19])
    strict, lax = (np.stack([scores[alpha][k] for k in (0, 1, 2)]).argmax(0) for alpha in (2, 19))
    found = open_mask(tmp_path / "(2, 19).png", 3)
    assert np.array_equal(open_mask(tmp_path / "(2,).png", 3), strict)
    assert (strict != lax).any() and (strict == lax).any()
    assert np.array_equal(found, np.where(strict == lax, strict, 255))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["(2, 19).png", "(2,).png"]


KEYS = np.arange(3, dtype=np.uint8)


def keyed(scores):
    return KEYS, scores


@pytest.mark.parametrize(
    ("job", "pack", "labels_of"),
    [
        (jobs.write_labels, label_map, lambda image, scores: label_map(scores)),
        (jobs.write_best, keyed, lambda image, scores: label_map(scores)),
        (
            partial(jobs.write_best, refine=refine_scores),
            keyed,
            lambda image, scores: label_map(refine_scores(image, scores)),
        ),
        (jobs.refine_walk, keyed, lambda image, scores: refine_labels(image, KEYS, scores)),
    ],
)
def test_labels_and_their_overlay_are_written(tmp_path, image, cams, job, pack, labels_of):
    """pack: what the job gets of the scores."""
    scores = stack(cams)
    files = {"labels": (tmp_path / "a.png", ORIGIN), "vis": (tmp_path / "a_vis.png", ORIGIN)}
    job(image, pack(scores), files, NAMES)
    labels = labels_of(image, scores)
    assert set(np.unique(labels)) == {0, 1} and np.array_equal(open_mask(tmp_path / "a.png", 3), labels)
    overlay = np.array(label_overlay(image, labels, NAMES))
    assert np.array_equal(np.array(open_image(tmp_path / "a_vis.png")), overlay)
    assert {file_origin(path) for path, _ in files.values()} == {ORIGIN}


def test_a_rehearsal_writes_nothing(tmp_path, monkeypatch, image, cams):
    monkeypatch.chdir(tmp_path)
    jobs.write_maps(image, cams, {"dict": None}, False)
    jobs.write_overlays(image, cams, {"vis": None})
    jobs.refine_maps(image, cams, {2: None, 19: None}, False, CRF)
    jobs.refine_walk(image, (np.arange(3), stack(cams)), {"labels": None, "vis": None}, NAMES)
    assert not list(tmp_path.iterdir())
