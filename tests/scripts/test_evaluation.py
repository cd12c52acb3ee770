"""evaluation.py as a user runs it, on score files and masks that stand here."""

import contextlib
import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script, refused, run_here, succeeds
from foreign_maps import FORMS
from PIL import Image

from engine.record import write_record
from tool.io.files import read_list
from tool.io.images import label_image, open_mask
from tool.io.scores import read_scores, write_scores
from tool.metrics import ThresholdSweep, iou, kfold, mean_iou, split_folds, thresholds_between

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
        maps = {label - 1: 0.5 * rng.random(SIZE) * (truth == label) + 0.3 * rng.random(SIZE) for label in (3, 7)}
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


def printed(*flags):
    """What evaluation.py prints on the console."""
    module, out = load_script(EVALUATION), io.StringIO()
    with contextlib.redirect_stdout(out):
        module.run_script(module.main, module.get_args_parser(), [str(flag) for flag in (*FLAGS, *flags)])
    return out.getvalue()


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


# ---------------------------------------------------------------- any method's files


def test_files_of_any_method_are_scored_without_an_experiment(place):
    own, _ = scores(*CAM)
    shutil.move(place / "experiment" / "n" / "dict", place / "theirs")
    flags = ["--pred_dir", "theirs", "--task", "cam", *FLAGS[2:]]
    code, errors = run_here(EVALUATION, *flags)
    assert code == 0, errors
    result = json.loads((place / "result.json").read_text())
    assert result == own | {"dict_dir": "theirs"}
    refused(EVALUATION, *flags, "--pred_dir", "nowhere", says=["nowhere: no such folder", "--pred_dir"])
    (place / "theirs" / "two.npy").unlink()
    refused(EVALUATION, *flags, says=["theirs: nothing for 1 of 4 images", "first two", "check --pred_dir"])
    (place / "empty").mkdir()
    refused(EVALUATION, *flags, "--pred_dir", "empty", says="4 of 4 images")


def test_one_of_experiment_and_folder_is_needed(place):
    task = ["--task", "cam", "--voc12_root", "data"]
    refused(EVALUATION, *task, "--list", "train", says="--name EXPERIMENT and --pred_dir DIR")
    refused(EVALUATION, *task, "--list", "train", "--dict_dir", "dict", says="--name EXPERIMENT and --pred_dir DIR")
    refused(EVALUATION, *FLAGS, *CAM, "--pred_dir", "x", says="--name EXPERIMENT and --pred_dir DIR")
    refused(EVALUATION, *task, "--list", "train", "--name", "n", says="needs --dict_dir")
    refused(EVALUATION, *task, "--list", "train", "--pred_dir", "x", "--dict_dir", "dict", says="stands for both")


# ---------------------------------------------------------------- maps of other methods


def test_maps_of_other_methods_have_the_scores_of_the_same_maps(place):
    for k, form in enumerate(FORMS.values()):
        for image_id in IDS:
            path = place / "experiment" / "n" / "dict" / f"{image_id}.npy"
            maps = {key: v.astype(np.float16).astype(np.float32) for key, v in read_scores(path).items()}
            write_scores(path, maps)
            (place / f"form{k}").mkdir(exist_ok=True)
            np.save(place / f"form{k}" / f"{image_id}.npy", form(maps))
    ours, _ = scores(*CAM)
    for k, name in enumerate(FORMS):
        code, errors = run_here(EVALUATION, *FLAGS[2:], "--task", "cam", "--pred_dir", f"form{k}")
        assert code == 0, errors
        theirs = json.loads(Path("result.json").read_text())
        assert theirs["miou_by_threshold"] == ours["miou_by_threshold"] and theirs["classes"] == ours["classes"], name


# ---------------------------------------------------------------- several experiments


@pytest.fixture
def three(place):
    """Experiments "n", and "m" and "o" with maps that are moved."""
    for name, pixels in (("m", 1), ("o", 2)):
        for image_id in IDS:
            maps = read_scores(place / "experiment" / "n" / "dict" / f"{image_id}.npy")
            path = place / "experiment" / name / "dict" / f"{image_id}.npy"
            write_scores(path, {k: np.roll(score, pixels) for k, score in maps.items()})
    return place


def test_several_experiments_stand_in_one_table(three):
    alone = {name: scores(*CAM, "--name", name)[0] for name in "nmo"}
    together, _ = scores(*CAM, "--name", "n", "m", "o")
    assert together["experiments"] == alone and together["list"] == alone["n"]["list"]
    for figure in ("miou", "miou_present", "boundary_iou", "mean_precision", "foreground_recall", "false_positive"):
        values = [alone[name][figure] for name in "nmo"]
        assert together["mean"][figure] == pytest.approx(np.mean(values))
        assert together["std"][figure] == pytest.approx(np.std(values, ddof=1))
    birds = [alone[name]["classes"]["bird"] for name in "nmo"]
    assert len(set(birds)) == 3
    assert together["std"]["classes"]["bird"] == pytest.approx(np.std(birds, ddof=1))
    out = printed(*CAM, "--name", "n", "m", "o")
    rows = {line[:12].strip(): line.split() for line in out.splitlines()}
    assert rows["bird"][1:] == [f"{v:.2f}" for v in (*birds, np.mean(birds), np.std(birds, ddof=1))]
    assert rows["cow"] == ["cow", "absent"]
    run = json.loads((three / "result.run.json").read_text())
    assert run["origin"] == {"n": None, "m": None, "o": None} and run["summary"]["images"]["done"] == 12


def test_methods_are_compared_by_their_experiments(three):
    alone = {name: scores(*CAM, "--name", name)[0] for name in "nmo"}
    files = ["--csv", "out/a.csv", "--tex", "out/a.tex", "--plot", "out/a.pdf"]
    result, _ = scores(*CAM, "--name", "her=n,o", "ours=m", *files)
    assert result["experiments"] == alone and "mean" not in result
    values = [alone[name]["miou"] for name in "no"]
    her, ours = result["methods"]["her"], result["methods"]["ours"]
    assert her["mean"]["miou"] == pytest.approx(np.mean(values)) and ours["mean"]["miou"] == alone["m"]["miou"]
    assert her["std"]["miou"] == pytest.approx(np.std(values, ddof=1)) and ours["std"]["miou"] is None
    assert f"{np.mean(values):.2f} $\\pm$ {np.std(values, ddof=1):.2f}" in Path("out/a.tex").read_text()
    assert {p.name for p in Path("out").iterdir()} == {"a.csv", "a.tex", "a.pdf"}
    (three / "experiment/n").rename(three / "experiment/lr=0.1")
    assert "methods" not in scores(*CAM, "--name", "lr=0.1", "m")[0]  # names of experiments may have the sign


def test_methods_that_make_no_sense_are_refused(three):
    for names, says in (
        (["her=n", "m"], "give experiments, or METHOD=NAME,NAME"),
        (["her=n", "her=m"], "each method once"),
        (["her=n,,m"], "'' is not a name"),
        (["her=n/.."], "not a name for a folder"),
        (["her=n,m", "ours=n"], "the same experiment twice"),
        (["her=x"], "experiment/x/dict: no such folder"),
    ):
        refused(EVALUATION, "--voc12_root", "data", "--list", "train", *CAM, "--name", *names, says=says)


def test_experiments_without_a_common_list_or_result_are_refused(three):
    several = [*FLAGS, *CAM, "--name", "n", "m"]
    refused(EVALUATION, *several, "n", says="the same experiment twice")
    refused(EVALUATION, *several, "missing", says=["experiment/missing/dict: no such folder", "infer.py --dict"])
    (three / "experiment" / "m" / "dict" / "two.npy").unlink()
    refused(EVALUATION, *several, says=["experiment/m/dict: nothing for 1 of 4", "first two"])
    for path in (three / "experiment" / "m" / "dict").iterdir():
        path.unlink()
    refused(EVALUATION, *several, says=["experiment/m/dict: nothing for 4 of 4"])


def test_experiments_of_other_data_are_refused(three):
    shutil.copytree(three / "data", three / "other")
    settings = {"voc12_root": "data", "classes": None, "cls_labels": None, "width": 1.0}
    (three / "experiment" / "n" / "settings.json").write_text(json.dumps(settings | {"width": 0.5}))
    (three / "experiment" / "m" / "settings.json").write_text(json.dumps(settings))
    flags = ["--name", "n", "m", *CAM, "--list", "train"]
    assert run_here(EVALUATION, *flags)[0] == 0  # networks may differ
    (three / "experiment" / "m" / "settings.json").write_text(json.dumps(settings | {"voc12_root": "other"}))
    refused(EVALUATION, *flags, says=["experiment/m/settings.json", "voc12_root is other", "that of n is data"])


# ---------------------------------------------------------------- thresholds without an oracle


def test_kfold_scores_each_part_at_the_threshold_of_the_others(place):
    result, _ = scores(*CAM, "--kfold", 3, "--seed", 5)
    parts = split_folds(IDS, 3, 5)
    sweeps = [ThresholdSweep(21) for _ in range(3)]
    for image_id in IDS:
        truth = open_mask(place / "data" / "SegmentationClass" / f"{image_id}.png", 21)
        sweeps[parts[image_id]].add(truth, read_scores(place / "experiment" / "n" / "dict" / f"{image_id}.npy"))
    expected = kfold(np.stack([sweep.confusions() for sweep in sweeps]), result["thresholds"])
    assert result["kfold"] == expected and expected["k"] == 3
    whole, _ = scores(*CAM)
    assert {k: v for k, v in result.items() if k != "kfold"} == whole
    assert expected["miou"] <= whole["miou"]  # an oracle is never worse
    out = printed(*CAM, "--kfold", 4)
    assert "without an oracle: mIoU" in out and "each of 4 parts" in out


def test_kfold_is_refused_where_it_makes_no_sense(place):
    refused(EVALUATION, *FLAGS, *CAM, "--kfold", 5, says=["--kfold 5", "has 4 images"])
    refused(EVALUATION, *FLAGS, *CAM, "--kfold", 1, says=["--kfold", "a whole number from 2"])
    refused(EVALUATION, *FLAGS, *CAM, "--kfold", 2, "--threshold", 0.2, says="--kfold chooses thresholds")
    refused(EVALUATION, *FLAGS, *CRF, "--kfold", 2, says="--kfold is for --task cam")


def test_kfold_of_several_experiments(three):
    result, _ = scores(*CAM, "--name", "n", "m", "--kfold", 2)
    mious = [result["experiments"][name]["kfold"]["miou"] for name in "nm"]
    assert result["mean"]["kfold_miou"] == pytest.approx(np.mean(mious))


# ---------------------------------------------------------------- json, csv, plots


def test_figures_of_the_json_are_those_of_the_best_threshold(place):
    result, _ = scores(*CAM)
    fixed, _ = scores(*CAM, "--threshold", result["best_threshold"])
    for key in ("classes", "precision", "recall", "boundary_iou", "boundary_iou_classes", "false_negative", "miou"):
        assert result[key] == fixed[key], key
    assert result["oracle_threshold"] and not fixed["oracle_threshold"] and "kfold" not in result
    assert set(result["precision"]) == set(result["recall"]) == set(result["classes"])
    assert 0 < result["boundary_iou"] < 100


def test_another_range_of_thresholds(place):
    released, _ = scores(*CAM)
    wide, _ = scores(*CAM, "--thresholds", 0.05, 0.9)
    assert wide["thresholds"] == [round(k / 100, 2) for k in range(5, 91)]
    assert wide["miou_by_threshold"][5:30] == released["miou_by_threshold"]
    assert scores(*CAM, "--thresholds", 0.2, 0.2)[0]["thresholds"] == [0.2]
    refused(EVALUATION, *FLAGS, *CAM, "--thresholds", 0.4, 0.3, says="--thresholds 0.4 0.3")
    assert thresholds_between(0.125, 0.175) == (0.125, 0.135, 0.145, 0.155, 0.165, 0.175)
    assert thresholds_between(0.005, 0.02) == (0.005, 0.015)


def test_csv(three):
    result, _ = scores(*CAM, "--name", "n", "m", "--csv", "out/table.csv")
    with open("out/table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * (21 + 2)  # the latter two: mean and standard deviation
    bird = next(row for row in rows if row["experiment"] == "m" and row["class"] == "bird")
    m = result["experiments"]["m"]
    assert float(bird["iou"]) == m["classes"]["bird"] and float(bird["recall"]) == m["recall"]["bird"]
    assert float(bird["boundary_iou"]) == m["boundary_iou_classes"]["bird"]
    assert next(row for row in rows if row["class"] == "cow")["iou"] == ""
    means = {row["class"]: row["iou"] for row in rows[44:46]}
    assert means == {"mean of present": str(m["miou_present"]), "mean, absent as 0": str(m["miou"])}


MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_plots(three, suffix):
    scores(*CAM, "--name", "n", "m", "--plot", f"out/plot.{suffix}")
    assert (three / "out" / f"plot.{suffix}").read_bytes().startswith(MAGIC[suffix])


def text_of_plot(*flags):
    scores(*flags, "--plot", "plot.svg")
    with open("plot.svg") as stream:
        text = stream.read()
    return [line.split("<!-- ")[1].split(" -->")[0] for line in text.splitlines() if "<!-- " in line]


def test_plots_show_what_was_scored(place):
    result, _ = scores(*CAM)
    text = text_of_plot(*CAM)
    assert f"mIoU {result['miou']:.2f} at {result['best_threshold']:.2f}, n" in text
    assert "bird" in text and "cow" not in text and "background threshold" in text
    assert "background threshold" not in text_of_plot(*CRF)
    assert "background threshold" not in text_of_plot(*CAM, "--threshold", 0.2)


def test_plots_of_odd_names_and_of_nothing(place):
    names = ["a$b$", "_c", "<d>&", "$\\frac$", "e", "f", "g", "h"]
    (place / "data" / "classes.txt").write_text("\n".join(names))
    (place / "experiment" / "n").rename(place / "experiment" / "_$n$")
    text = text_of_plot(*CAM, "--name", "_$n$")
    assert any(line.endswith(", _$n$") for line in text) and "<d>&" not in text and "g" in text
    for path in (place / "data" / "SegmentationClass").iterdir():
        label_image(np.full(SIZE, 255)).save(path)
    scores(*CAM, "--name", "_$n$", "--plot", "plot.svg")


def test_other_plots_are_refused_before_the_work(place):
    for name in ("plot.jpg", "plot", "plot.png.txt"):
        refused(EVALUATION, *FLAGS, *CAM, "--plot", name, says=[name, ".png, .pdf or .svg"])
    assert not (place / "result.json").exists()


def test_files_that_cannot_be_written_are_refused_before_the_work(place):
    (place / "folder.csv").mkdir()
    for flag, name, says in (
        ("--json", "n.txt/x.json", "n.txt is no folder"),
        ("--csv", "folder.csv", "csv: a folder"),
    ):
        (place / "n.txt").write_text("")
        refused(EVALUATION, *FLAGS, *CAM, "--tex", "x.tex", flag, name, says=[name, says, "choose another name"])
    assert not (place / "x.tex").exists()


def test_matplotlib_is_needed_only_for_plots(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    scores(*CAM)
    refused(EVALUATION, *FLAGS, *CAM, "--plot", "plot.png", says="plots need matplotlib; pip install")


def test_a_check_looks_at_every_experiment(three):
    out = printed(*CAM, "--name", "n", "m", "--kfold", 2, "--check", "--csv", "a.csv")
    assert "all is well" in out and "scores: all 2 can be read" in out
    assert not (three / "result.json").exists() and not (three / "a.csv").exists()
    (three / "experiment" / "m" / "dict" / "one.npy").write_bytes(b"x")
    code, errors = run_here(EVALUATION, *FLAGS, *CAM, "--name", "n", "m", "--mixed_origins", "--check")
    assert code == 2 and "experiment/m/dict/one.npy" in errors


# ---------------------------------------------------------------- results of infer.py


def test_evaluation_of_maps(toy, inferred, tmp_path):
    common = ["--name", "n", "--experiment", inferred, "--voc12_root", toy, "--list", toy / "train.txt"]
    out = succeeds("evaluation.py", *common, "--task", "cam", "--dict_dir", "dict", "--json", tmp_path / "r.json")
    assert "origin: infer.py of AEFT" in out and "epoch 3" in out
    result = json.loads((tmp_path / "r.json").read_text())
    sweep = ThresholdSweep(21)
    for image_id in read_list(toy / "train.txt"):
        sweep.add(
            open_mask(toy / "SegmentationClass" / f"{image_id}.png", 21),
            read_scores(inferred / "n" / "dict" / f"{image_id}.npy"),
        )
    mious, present = zip(*(mean_iou(values) for values in iou(sweep.confusions())))
    np.testing.assert_allclose(result["miou_by_threshold"], 100 * np.array(mious))
    best = int(np.argmax(mious))
    assert result["best_threshold"] == result["thresholds"][best] and len(result["thresholds"]) == 25
    assert result["miou"] == pytest.approx(100 * mious[best])
    assert result["miou_present"] == pytest.approx(100 * present[best])
    assert np.mean(list(result["classes"].values())) == pytest.approx(result["miou"]) and len(result["classes"]) == 21
    assert result["task"] == "cam" and result["list"] == str(toy / "train.txt") and "aeroplane" in result["absent"]
    assert "an oracle" in out and str(toy / "train.txt") in out
    fixed = succeeds(
        "evaluation.py",
        *common,
        "--task",
        "cam",
        "--dict_dir",
        "dict",
        "--threshold",
        0.2,
        "--json",
        tmp_path / "f.json",
    )
    assert "oracle" not in fixed
    assert json.loads((tmp_path / "f.json").read_text())["miou"] == pytest.approx(100 * mious[10])


def test_evaluation_of_crf_and_png_agree(toy, inferred, tmp_path):
    """The PNGs of the CRF's argmax score as the CRF does."""
    common = ["--name", "n", "--experiment", inferred, "--voc12_root", toy, "--list", toy / "train.txt"]
    folder = inferred / "n" / "png"
    folder.mkdir(exist_ok=True)
    for path in (inferred / "n" / "crf" / "02").glob("*.npy"):
        scores = read_scores(path)
        labels = np.array(list(scores))[np.argmax(list(scores.values()), axis=0)]
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"{path.stem}.png")
    results = {}
    for task, name in (("crf", "crf/02"), ("png", "png")):
        succeeds("evaluation.py", *common, "--task", task, "--dict_dir", name, "--json", tmp_path / f"{task}.json")
        results[task] = json.loads((tmp_path / f"{task}.json").read_text())
    assert results["crf"]["classes"] == results["png"]["classes"] and results["crf"]["thresholds"] == []


def test_evaluation_refuses(toy, inferred, broken):
    common = ["--name", "n", "--experiment", inferred, "--list", toy / "train.txt"]
    crf = ["--voc12_root", toy, "--task", "crf", "--dict_dir"]
    refused("evaluation.py", *common, *crf, "crf/21", says=["no such folder", "infer.py --crf --alphas 21"])
    refused(
        "evaluation.py",
        *common[:-1],
        toy / "val.txt",
        *crf,
        "crf/02",
        says=["crf/02: nothing for 4 of 4 images", "--alphas 2"],
    )
    refused("evaluation.py", *common, *crf, "crf/02", "--threshold", 0.2, says="--threshold is for --task cam")
    path = broken / "SegmentationClass" / "toy_00000.png"
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(path)
    cam = ["--voc12_root", broken, "--task", "cam", "--dict_dir", "dict"]
    refused("evaluation.py", *common, *cam, says=["toy_00000.npy", "its mask has 9 x 7"])
    path.unlink()
    refused("evaluation.py", *common, *cam, says="no such mask")
