"""evaluation.py as a user runs it, on score files and masks that stand here."""

import json

import numpy as np
import pytest
from conftest import refused, run_here
from PIL import Image

from tool.io.images import label_image
from tool.io.scores import write_scores
from tool.run.record import write_record

EVALUATION = "evaluation.py"
IDS = ["one", "two", "three", "four"]
SIZE = (6, 8)  # height, width


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Here: data/ with four masks of classes bird (3) and car (7), experiment "n" with maps and CRF scores of both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "SegmentationClass").mkdir(parents=True)
    (tmp_path / "data" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "data" / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(IDS))
    rng = np.random.default_rng(0)
    for image_id in IDS:
        truth = rng.choice([0, 3, 7, 255], SIZE)
        label_image(truth).save(tmp_path / "data" / "SegmentationClass" / f"{image_id}.png")
        maps = {label - 1: np.clip((truth == label) - 0.5 * rng.random(SIZE), 0, 1) for label in (3, 7)}
        write_scores(tmp_path / "experiment" / "n" / "dict" / f"{image_id}.npy", maps)
        scores = {0: 1 - np.max(list(maps.values()), 0)} | {k + 1: score for k, score in maps.items()}
        scores = {k: score / sum(scores.values()) for k, score in scores.items()}
        write_scores(tmp_path / "experiment" / "n" / "crf" / "02" / f"{image_id}.npy", scores)
    return tmp_path


FLAGS = ["--name", "n", "--voc12_root", "data", "--list", "train", "--json", "result.json"]
CAM, CRF = ["--task", "cam", "--dict_dir", "dict"], ["--task", "crf", "--dict_dir", "crf/02"]


def scores(*flags):
    """evaluation.py with FLAGS and these -> (result, stderr)."""
    code, errors = run_here(EVALUATION, *FLAGS, *flags)
    assert code == 0, errors
    with open("result.json") as stream:
        return json.load(stream), errors


# ---------------------------------------------------------------- files of another task


def test_files_of_another_task_are_refused_by_their_run_json(place):
    experiment = place / "experiment" / "n"
    write_record(experiment / "dict", {"scales": [1.0]}, {}, keep=False)
    write_record(experiment / "crf" / "02", {"scales": [1.0], "alpha": 2}, {}, keep=False)
    scores(*CAM)
    scores(*CRF)
    refused(EVALUATION, *FLAGS, "--task", "crf", "--dict_dir", "dict", says=["infer.py --dict made it", "--task cam"])
    refused(EVALUATION, *FLAGS, "--task", "cam", "--dict_dir", "crf/02", says=["infer.py --crf", "--task crf"])


def test_files_of_unknown_origin_must_look_like_their_task(place):
    scores(*CAM)
    scores(*CRF)
    refused(EVALUATION, *FLAGS, "--task", "crf", "--dict_dir", "dict", says=["no file has a background", "cam"])
    refused(EVALUATION, *FLAGS, "--task", "cam", "--dict_dir", "crf/02", says="every pixel sum to 1")
    for image_id in IDS:  # maps of class 0, which is background's key among CRF scores
        write_scores(place / "experiment" / "n" / "dict" / f"{image_id}.npy", {0: np.full(SIZE, 0.3)})
    refused(EVALUATION, *FLAGS, "--task", "crf", "--dict_dir", "dict", says="far from summing to 1")
    scores("--task", "crf", "--dict_dir", "dict", "--mixed_origins")
    scores(*CAM)


# ---------------------------------------------------------------- what is scored, but said


def warnings(errors):
    return [line for line in errors.splitlines() if line.startswith("warning: ")]


def test_maps_outside_0_to_1_are_named_once(place):
    _, errors = scores(*CAM)
    assert not warnings(errors)
    for image_id in ("two", "four"):
        write_scores(place / "experiment" / "n" / "dict" / f"{image_id}.npy", {2: np.full(SIZE, 12.0)})
    _, errors = scores(*CAM)
    (line,) = warnings(errors)
    assert "dict/two.npy: has values outside [0, 1]" in line and "1 more file" in line


def test_crf_scores_without_background_are_named_once(place):
    write_scores(place / "experiment" / "n" / "crf" / "02" / "three.npy", {3: np.ones(SIZE)})
    _, errors = scores(*CRF)
    (line,) = warnings(errors)
    assert "crf/02/three.npy: has no background (key 0)" in line


def test_black_and_white_masks_are_named_once(place):
    mask = np.zeros(SIZE, np.uint8)
    mask[2:4] = 255
    Image.fromarray(mask).save(place / "data" / "SegmentationClass" / "three.png")
    _, errors = scores(*CAM)
    (line,) = warnings(errors)
    assert "SegmentationClass/three.png: holds nothing but 0 and 255" in line
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(place / "data" / "SegmentationClass" / "three.png")
    assert not warnings(scores(*CAM)[1])  # an image that is ignored as a whole


# ---------------------------------------------------------------- released command lines, and what is remembered


def test_classes_are_those_of_the_experiment(place):
    (place / "names.txt").write_text("\n".join(f"kind{k}" for k in range(8)))
    settings = {"voc12_root": "data", "classes": "names.txt", "cls_labels": None, "width": 1.0}
    (place / "experiment" / "n" / "settings.json").write_text(json.dumps(settings))
    result, _ = scores(*CAM)
    assert list(result["classes"]) == ["background", *(f"kind{k}" for k in range(8))]
    (place / "other.txt").write_text("cow")
    refused(EVALUATION, *FLAGS, *CAM, "--classes", "other.txt", says=["--classes other.txt", "names.txt"])


def test_classes_are_those_of_the_data_set(place):
    (place / "data" / "classes.txt").write_text("\n".join(f"kind{k}" for k in range(8)))
    assert len(scores(*CAM)[0]["classes"]) == 9


def test_a_bare_list_name_is_the_data_sets(place):
    assert scores(*CAM)[0]["list"] == "data/ImageSets/Segmentation/train.txt"


def test_the_folder_of_masks_is_any_path_and_the_data_sets_own_comes_first(place):
    own = scores(*CAM)[0]["classes"]
    masks = place / "masks"
    masks.mkdir()
    for image_id in IDS:
        label_image(np.full(SIZE, 3)).save(masks / f"{image_id}.png")
    other = scores(*CAM, "--gt_dir", "masks")[0]["classes"]
    assert other != own and other["bird"] > 0 and other["car"] == 0
    assert scores(*CAM, "--gt_dir", masks)[0]["classes"] == other
    (place / "data" / "masks").mkdir()
    refused(EVALUATION, *FLAGS, *CAM, "--gt_dir", "masks", says="data/masks/one.png: no such mask")
    refused(EVALUATION, *FLAGS, *CAM, "--gt_dir", "nowhere", says="data/nowhere/one.png: no such mask")


def test_dl_is_another_name_of_png(place):
    folder = place / "experiment" / "n" / "rw"
    folder.mkdir()
    for image_id in IDS:
        label_image(np.full(SIZE, 3)).save(folder / f"{image_id}.png")
    result, _ = scores("--task", "dl", "--dict_dir", "rw")
    assert result["task"] == "png" and result == scores("--task", "png", "--dict_dir", "rw")[0]
