"""infer.py and infer_aff.py beside the plain case: changed inputs, stored maps alone, photographs without labels."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import infer_flags, prints, refused, run_here, succeeds
from foreign_maps import FORMS
from PIL import Image
from stage_runs import predict_flags

from engine.distributed import World
from engine.outputs import add_inputs, inputs_path, read_inputs
from models.aeft import AEFTNet
from models.checkpoint import load_weights
from models.resnet38d import ResNet38d
from tool.cam import predict_label
from tool.io.files import read_list, read_record
from tool.io.images import open_image, open_mask
from tool.io.lock import locked
from tool.io.pickles import unpickle_dict
from tool.io.scores import check_maps, file_origin, read_scores, write_scores
from voc12.classes import VOC_CLASSES
from voc12.paths import find_images
from voc12.transforms import normalise

ALPHAS = ["--alphas", 2, 19]
POWERS = ["--low", 2, "--high", 21, "--dup", 19]
ALL = ["--dict", "--crf", "--vis", *ALPHAS]


@pytest.fixture
def copied(inferred, tmp_path):
    """A copy of the experiments of `inferred`, to be changed."""
    shutil.copytree(inferred, tmp_path / "experiments")
    return tmp_path / "experiments"


def without_checkpoint(flags):
    return [k for k in flags if k not in ("--load_epo", 3)]


def result_times(experiment):
    """{path below the experiment: time of writing} of all results."""
    paths = [p for p in experiment.rglob("*") if p.suffix in (".npy", ".png")]
    return {str(p.relative_to(experiment)): p.stat().st_mtime_ns for p in paths}


def written_again(before, after):
    """IDs of the images whose results are other files than before."""
    return {re.search(r"toy_\d+", path)[0] for path in {*before, *after} if before.get(path) != after.get(path)}


# ---------------------------------------------------------------- what results were made from


def test_edited_labels_are_done_again(broken, copied):
    """Maps, CRF and overlays of that image and of no other, and only once."""
    flags = [*infer_flags(broken, copied), *ALL]
    assert "again" not in prints("infer.py", *flags)
    image_id = read_list(broken / "train.txt")[0]
    xml = broken / "Annotations" / f"{image_id}.xml"
    old = sorted(read_scores(copied / f"n/dict/{image_id}.npy"))
    xml.write_text(re.sub(r"(<object><name>)\w+", r"\1aeroplane", xml.read_text().replace("\n", "")))
    before = result_times(copied / "n")
    out = prints("infer.py", *flags)
    assert f"11 done before, 1 again because they have changed (labels of 1; first {image_id})" in out
    after = result_times(copied / "n")
    assert written_again(before, after) == {image_id}
    assert sorted(read_scores(copied / f"n/dict/{image_id}.npy")) == [0] != old
    assert sorted(read_scores(copied / f"n/crf/19/{image_id}.npy")) == [0, 1]
    assert [p.name for p in (copied / "n/vis").glob(f"{image_id}*")] == [f"{image_id}_aeroplane.png"]
    assert "12 done before, 0 from" in prints("infer.py", *flags)
    assert result_times(copied / "n") == after


def test_changed_photographs_are_done_again_and_copies_are_not(broken, copied):
    ids = read_list(broken / "train.txt")
    path = broken / "JPEGImages" / f"{ids[4]}.jpg"
    Image.fromarray(255 - np.array(open_image(path))).save(path)
    for image_id in ids[:3]:
        os.utime(broken / "JPEGImages" / f"{image_id}.jpg", (1, 1))
    before = result_times(copied / "n")
    code, errors = run_here("infer.py", *infer_flags(broken, copied), *ALL)
    assert code == 0, errors
    assert written_again(before, result_times(copied / "n")) == {ids[4]}
    stored = read_inputs(copied / "n/dict")
    assert ":1000000000:" in stored[ids[0]][1]  # the new time is known, so its bytes are not read again
    assert "12 done before" in prints("infer.py", *infer_flags(broken, copied), *ALL)


def test_results_without_a_list_of_inputs_stay_and_get_one(broken, copied):
    """As an earlier version left them."""
    for path in copied.rglob("*.inputs.tsv"):
        path.unlink()
    before = result_times(copied / "n")
    flags = [*infer_flags(broken, copied), *ALL]
    assert "12 done before, 0 from stored maps, 0 through" in prints("infer.py", *flags)
    assert result_times(copied / "n") == before
    image_id = read_list(broken / "train.txt")[7]
    xml = broken / "Annotations" / f"{image_id}.xml"
    xml.write_text(xml.read_text().replace("</annotation>", "<object><name>sofa</name></object></annotation>"))
    assert "(labels of 1" in prints("infer.py", *flags)
    assert VOC_CLASSES.index("sofa") in read_scores(copied / f"n/dict/{image_id}.npy")


def test_a_folder_that_is_overwritten_forgets_its_inputs(toy, copied):
    image_id = read_list(toy / "train.txt")[0]
    add_inputs(copied / "n/dict", ["gone\t1\t-\t-\n"])
    prints("infer.py", *infer_flags(toy, copied), "--dict", "--scales", 1, "--overwrite")
    stored = read_inputs(copied / "n/dict")
    assert len(stored) == 12 and image_id in stored and "gone" not in stored


def test_a_check_foresees_what_is_done_again_and_writes_nothing(broken, copied):
    image_id = read_list(broken / "train.txt")[0]
    xml = broken / "Annotations" / f"{image_id}.xml"
    xml.write_text(xml.read_text().replace("</annotation>", "<object><name>sofa</name></object></annotation>"))
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*")}
    out = prints("infer.py", *infer_flags(broken, copied), *ALL, "--check")
    assert "for 1 (network" in out and "images: all 1 can be read" in out
    assert {p: p.stat().st_mtime_ns for p in copied.rglob("*")} == before


# ---------------------------------------------------------------- CRF of stored maps alone


@pytest.fixture
def foreign(copied):
    """An experiment whose maps are another method's, in all forms, without checkpoint and run.json -> its folder."""
    for name in ("crf", "vis", "ckpt"):
        shutil.rmtree(copied / "n" / name)
    (copied / "n/dict/run.json").unlink()
    inputs_path(copied / "n/dict").unlink()
    for k, path in enumerate(sorted((copied / "n/dict").glob("*.npy"))):
        np.save(path, list(FORMS.values())[k % len(FORMS)](read_scores(path)))
    return copied


def test_maps_of_another_method_are_refined_without_a_network(toy, inferred, foreign):
    flags = [*without_checkpoint(infer_flags(toy, foreign)), "--crf", "--vis", *ALPHAS]
    assert "12 from stored maps, 0 through the network" in prints("infer.py", *flags)
    for path in sorted((inferred / "n/crf/19").glob("*.npy")):
        ours, theirs = read_scores(path), read_scores(foreign / "n/crf/19" / path.name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_allclose(ours[key], theirs[key], atol=0.02)
    names = [sorted(p.name for p in (folder / "n/vis").glob("*.png")) for folder in (inferred, foreign)]
    assert names[0] == names[1]
    record = read_record(foreign / "n/crf/19")
    assert record["settings"]["maps"] == "of another method" and record["weights"] is None
    assert "12 done before" in prints("infer.py", *flags)
    path = sorted((foreign / "n/dict").glob("*.npy"))[5]
    write_scores(path, {3: np.zeros_like(next(iter(read_scores(path).values())))})
    before = result_times(foreign / "n")
    assert f"maps of 1; first {path.stem}" in prints("infer.py", *flags)
    assert written_again(before, result_times(foreign / "n")) == {path.stem}
    assert sorted(read_scores(foreign / "n/crf/02" / path.name)) == [0, 4]


def test_own_maps_are_refined_as_with_the_checkpoint(toy, copied):
    """The same origin, so that the rest of a folder may come from either."""
    flags = infer_flags(toy, copied)
    paths = sorted((copied / "n/crf/02").glob("*.npy"))
    before = read_scores(paths[2])
    origin = file_origin(paths[2])
    for path in paths[:6]:
        path.unlink()
    assert "6 from stored maps, 0 through" in prints("infer.py", *without_checkpoint(flags), "--crf", "--alphas", 2)
    assert file_origin(paths[2]) == origin
    after = read_scores(paths[2])
    assert all(np.allclose(before[k], after[k], atol=1e-5) for k in before)
    assert "12 from stored maps, 0 through" in prints("infer.py", *flags, "--crf", "--alphas", 7)  # also with one


def test_maps_that_a_checkpoint_makes_no_use_of_are_named(toy, inferred, foreign):
    shutil.copytree(inferred / "n/ckpt", foreign / "n/ckpt")
    code, errors = run_here("infer.py", *infer_flags(toy, foreign), "--crf", "--alphas", 2)
    assert code == 0, errors
    assert errors.count("warning:") == 1 and "n/dict: the maps there are not of this checkpoint and not used" in errors
    assert "weights" in read_record(foreign / "n/crf/02")["settings"]


def test_the_mean_of_the_maps_of_several_runs(toy, foreign):
    """Without a network; CRF alone later finds the same results."""
    ids = sorted(path.stem for path in (foreign / "n/dict").glob("*.npy"))
    (foreign / "m/dict").mkdir(parents=True)
    for image_id in ids:
        maps = read_scores(foreign / f"n/dict/{image_id}.npy")
        write_scores(foreign / f"m/dict/{image_id}.npy", {k: v**2 for k, v in maps.items() if k})
    flags = [*without_checkpoint(infer_flags(toy, foreign)), "--name", "mean"]
    of = [*flags, "--mean_of", "n", "m"]
    assert "0 from stored maps, 12 the mean of 2 runs" in prints("infer.py", *of, "--dict", "--crf", "--alphas", 2)
    for image_id in ids:
        maps, found = (read_scores(foreign / name / f"dict/{image_id}.npy") for name in ("n", "mean"))
        assert maps.keys() == found.keys()
        for k, one in maps.items():
            np.testing.assert_allclose(found[k], (one + one**2) / 2 if k else one / 2, atol=1e-6)
    assert "12 done before" in prints("infer.py", *flags, "--crf", "--alphas", 2)
    assert "12 from stored maps, 0 the mean of 2 runs" in prints("infer.py", *of, "--dict", "--crf", "--alphas", 2, 7)
    (foreign / f"m/dict/{ids[0]}.npy").unlink()
    refused("infer.py", *of[:-1], "--dict", says=["mean/dict: holds results of", "mean_of"])
    refused(
        "infer.py", *of, "--name", "p", "--dict", says=["m/dict: nothing for 1 of 12", "infer.py --dict of that run"]
    )
    refused("infer.py", *of, "--name", "n", "--dict", says="--mean_of n: is the run itself")
    refused("infer.py", *infer_flags(toy, foreign), "--mean_of", "m", "--dict", says="give one of --load_epo EPOCH")
    assert not (foreign / "p").exists()


def test_stored_maps_alone_must_be_complete(toy, foreign):
    flags = [*without_checkpoint(infer_flags(toy, foreign)), "--crf", *ALPHAS]
    first = sorted((foreign / "n/dict").glob("*.npy"))[0]
    first.unlink()
    refused("infer.py", *flags, says=["no maps of 1 of 12 images", first.stem, "--load_epo"])
    refused("infer.py", *flags, "--dict", says="give one of --load_epo EPOCH, --weights FILE and --mean_of")
    code, errors = run_here("infer.py", *flags, "--on_error", "skip")
    assert code == 0 and "1 images could not be used" in errors
    assert len(list((foreign / "n/crf/02").glob("*.npy"))) == 11


def test_maps_beyond_0_and_1_are_cut_with_one_warning(toy, foreign):
    paths = sorted((foreign / "n/dict").glob("*.npy"))
    for path in paths[3:5]:
        write_scores(path, {k: 3 * v - 1 for k, v in read_scores(path).items()})
    code, errors = run_here("infer.py", *without_checkpoint(infer_flags(toy, foreign)), "--crf", "--alphas", 2)
    assert code == 0 and errors.count("warning:") == 1, errors
    assert str(paths[3]) in errors and "values from -1 to 2" in errors
    scores = read_scores(foreign / "n/crf/02" / paths[3].name)
    assert all(np.isfinite(score).all() for score in scores.values())


# ---------------------------------------------------------------- photographs without labels


@pytest.fixture
def photographs(toy, tmp_path):
    """Four photographs in nested folders and several formats, and a file that is none."""
    folder = tmp_path / "my photos"
    for name, k in (("one.jpg", 0), ("trip/two.png", 1), ("trip/day 1/three.bmp", 2), ("trip/four.TIFF", 3)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        open_image(toy / "JPEGImages" / f"toy_{k:05d}.jpg").save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    return folder


def found(out):
    """{ID: {class: score}} of the lines that infer.py prints."""
    lines = re.findall(r"^(\S+): ((?:\w+ [01]\.\d\d(?:, )?)+)$", out, re.MULTILINE)
    return {image_id: {c: float(v) for c, v in (pair.split() for pair in text.split(", "))} for image_id, text in lines}


def probabilities(trained, path):
    net = AEFTNet(ResNet38d(0.0625))
    load_weights(net, trained / "n/ckpt/003net_main.pth", part="all")
    with torch.no_grad():
        return torch.sigmoid(net.eval()(normalise(open_image(path))[None])[1][0]).numpy()


def test_photographs_without_labels(trained, photographs, tmp_path):
    flags = [*predict_flags(trained, photographs, tmp_path / "out"), "--vis", "--min_score", 0.3, *ALPHAS]
    out = prints("infer.py", *flags)
    classes = found(out)
    assert set(classes) == {"one", "trip__two", "trip__day_1__three", "trip__four"}
    expected = probabilities(trained, photographs / "trip/two.png")
    wanted = {int(k) for k in np.flatnonzero(expected >= 0.3)} | {int(expected.argmax())}
    assert {VOC_CLASSES.index(name) for name in classes["trip__two"]} == wanted
    for name, score in classes["trip__two"].items():
        assert score == pytest.approx(expected[VOC_CLASSES.index(name)], abs=0.006)
    for image_id, names in classes.items():
        keys = sorted(VOC_CLASSES.index(name) for name in names)
        assert sorted(read_scores(tmp_path / f"out/dict/{image_id}.npy")) == keys
        assert sorted(read_scores(tmp_path / f"out/crf/19/{image_id}.npy")) == [0, *(k + 1 for k in keys)]
        assert all((tmp_path / f"out/vis/{image_id}_{name}.png").is_file() for name in names)
    assert "next:" not in out
    before = result_times(tmp_path / "out")
    next((tmp_path / "out/vis").glob("one_*")).unlink()
    again = prints("infer.py", *flags)
    assert "3 done before, 1 from stored maps, 0 through the network" in again
    assert result_times(tmp_path / "out").keys() == before.keys()
    assert read_record(tmp_path / "out/dict")["settings"]["min_score"] == 0.3
    prints("report.py", "--folder", tmp_path / "out")
    page = (tmp_path / "out/report/index.html").read_text()
    assert set(re.findall(r'class="card"[^>]* data-id="([^"]+)"', page)) == set(classes)
    titles = re.findall(r"<figcaption><span>([\w ]+?) <span[^>]*>([\w/]+)", page)
    assert [titles.count(("Dense CRF", f"crf/{alpha}")) for alpha in ("02", "19")] == [4, 4]
    assert sorted(name for title, name in titles if title == "Activation") == sorted(
        name for names in classes.values() for name in names
    )


def test_one_photograph_and_results_inside_the_folder(trained, photographs):
    """Overlays that lie below --images are no photographs at the next run."""
    out = prints("infer.py", *predict_flags(trained, photographs / "trip/two.png", photographs / "out"), "--vis")
    assert list(found(out)) == ["two"]
    assert set(find_images(photographs, photographs / "out")) == {
        "one",
        "trip__two",
        "trip__day_1__three",
        "trip__four",
    }


def test_predicted_labels_of_a_list(toy, trained, tmp_path):
    (tmp_path / "n").mkdir()
    (tmp_path / "n/ckpt").symlink_to(trained / "n/ckpt")
    flags = [*infer_flags(toy, tmp_path), "--dict", "--labels", "predicted", "--min_score", 1]
    classes = found(prints("infer.py", *flags))
    assert len(classes) == 12
    for names in classes.values():
        assert len(names) == 1 or set(names.values()) == {1}
    line = refused("infer.py", *infer_flags(toy, tmp_path), "--dict", says=["labels predicted, not None"])
    assert "min_score" in line


def test_predicted_labels_of_another_pooling(trained, photographs, tmp_path):
    """gpp_inverse has the same weights, and other logits, which find other classes."""
    flags = predict_flags(trained, photographs, tmp_path / "out")
    place = flags.index("--name")
    flags[place + 1] = "published"  # an experiment that remembers no pooling
    flags = [*without_checkpoint(flags), "--weights", trained / "n/ckpt/003net_main.pth"]
    prints("infer.py", *flags, "--alphas", 2)
    says = ["pool gpp, not gpp_inverse", "--overwrite"]
    refused("infer.py", *flags, "--alphas", 2, "--pool", "gpp_inverse", says=says)
    assert "4 images, 4 done before" in prints("infer.py", *flags, "--alphas", 2)


def test_the_best_class_is_always_found():
    logits = torch.tensor([-3.0, -1.0, 0.2, 2.0])
    for min_score, expected in ((0, [1, 1, 1, 1]), (0.5, [0, 0, 1, 1]), (0.9, [0, 0, 0, 1]), (1, [0, 0, 0, 1])):
        label, scores = predict_label(logits, min_score)
        assert label.tolist() == expected
    assert scores.tolist() == pytest.approx([0.0474, 0.2689, 0.5498, 0.8808], abs=1e-4)


def test_what_photographs_without_labels_need(toy, trained, photographs, tmp_path):
    out = tmp_path / "out"
    flags = predict_flags(trained, photographs, out)
    for value in (-0.1, 1.1, "nan", "x"):
        refused("infer.py", *flags, f"--min_score={value}", says="--min_score")
    refused("infer.py", *[k for k in flags if k not in ("--out", out)], says="--images PATH and --out DIR go together")
    refused("infer.py", *flags, "--labels", "given", says="add --labels predicted")
    refused("infer.py", *infer_flags(toy, trained), "--dict", "--out", out, says="go together")
    (tmp_path / "empty").mkdir()
    refused("infer.py", *predict_flags(trained, tmp_path / "empty", out), says=[str(tmp_path / "empty"), "no photo"])
    refused("infer.py", *predict_flags(trained, tmp_path / "gone", out), says=str(tmp_path / "gone"))
    shutil.copy(photographs / "trip/two.png", photographs / "trip__two.png")
    refused("infer.py", *flags, says="trip__two")
    refused("infer.py", *without_checkpoint(flags), says="give one of --load_epo EPOCH, --weights FILE and --mean_of")
    assert not out.exists()


def test_a_photograph_that_is_broken(trained, photographs, tmp_path):
    flags = predict_flags(trained, photographs, tmp_path / "out")
    (photographs / "one.jpg").write_bytes((photographs / "one.jpg").read_bytes()[:300])
    refused("infer.py", *flags, says="one.jpg")
    code, errors = run_here("infer.py", *flags, "--on_error", "skip")
    assert code == 0 and "1 images could not be used" in errors
    assert len(list((tmp_path / "out/dict").glob("*.npy"))) == 3


# ---------------------------------------------------------------- locks, disk, figures


def test_one_run_an_output_folder(toy, copied):
    with locked([copied / "n/dict"], World()):
        line = refused("infer.py", *infer_flags(toy, copied), "--dict", says=f"process {os.getpid()} on")
        assert "n/dict" in line
        assert "12 from" in prints("infer.py", *infer_flags(toy, copied), "--crf", "--alphas", 9)  # another folder
        assert "all is well" in prints("infer.py", *infer_flags(toy, copied), "--dict", "--check")


# ---------------------------------------------------------------- the next command


def shell_words(command):
    """The words that a shell makes of a command."""
    result = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True)
    return result.stdout.split("\0")[:-1]


def next_words(out):
    """The command that a stage printed, as a shell takes it: [script, flags ...]."""
    python, *words = shell_words(out.split("next: ")[1].splitlines()[0])
    assert python == "python"
    return words


def test_every_printed_command_runs_as_pasted(toy, tmp_path):
    """Through all stages, of a data set, a list and an experiment with odd names."""
    root, folder = tmp_path / 'it\'s "my" set; $HOME', tmp_path / "a b" / "*"
    shutil.copytree(toy, root)
    (root / "train.txt").rename(root / "-the list.txt")
    common = ["--name=-n", "--experiment", folder, "--num_workers", 0, "--device", "cpu"]
    small = ["--pretrained", "none", "--width", 0.0625, "--epochs", 1, "--batch_size", 4]
    lists = ["--voc12_root", root, "--train_list", root / "-the list.txt", "--val_list", root / "-the list.txt"]
    out = prints("train.py", *common, *small, *lists, "--T", 1, "--crop_size", 48, "--resize", 48, 72)
    infer = next_words(out)
    assert infer[0] == "infer.py" and str(root / "-the list.txt") in infer
    score = next_words(prints(*infer))
    assert score[:2] == ["evaluation.py", "--name=-n"] and "mIoU" in prints(*score)
    out = prints("train_aff.py", *common, *small, *lists[2:4], *lists[4:], "--crop_size", 64)
    walk = next_words(out)
    assert walk[0] == "infer_aff.py" and "21" in walk  # the drawings are of VOC's classes
    score = next_words(prints(*walk))
    assert "rw/02_2119" in score and "mIoU" in prints(*score)


def test_the_next_command_names_what_the_experiment_does_not_remember(toy, copied, tmp_path):
    """A published checkpoint has no settings.json; a data set may have moved."""
    (copied / "n/settings.json").unlink()
    (tmp_path / "my names.txt").write_text("\n".join(VOC_CLASSES))
    flags = [*infer_flags(toy, copied), "--classes", tmp_path / "my names.txt", "--dict"]
    score = next_words(prints("infer.py", *flags))
    assert score[score.index("--voc12_root") + 1] == str(toy) and str(tmp_path / "my names.txt") in score
    assert "mIoU" in prints(*score)
    shutil.copytree(toy, tmp_path / "moved")
    flags = [*infer_flags(tmp_path / "moved", copied), "--classes", tmp_path / "my names.txt", "--dict"]
    score = next_words(prints("infer.py", *flags))
    assert score[score.index("--voc12_root") + 1] == str(tmp_path / "moved")
    assert "mIoU" in prints(*score)


def test_the_list_that_scores_need_not_be_there(toy, copied, tmp_path, monkeypatch):
    """Results of voc12/train_aug.txt are scored on voc12/train.txt, which not everybody has."""
    (tmp_path / "voc12").mkdir()
    shutil.copy(toy / "train.txt", tmp_path / "voc12/train_aug.txt")
    monkeypatch.chdir(tmp_path)
    out = prints("infer.py", *infer_flags(toy, copied), "--dict", "--infer_list", "voc12/train_aug.txt")
    assert "evaluation.py" not in out.split("next:")[1]
    assert read_record(copied / "n/dict")["ended"]


def test_overlays_alone_are_followed_by_what_they_lack(toy, copied, monkeypatch):
    for name in ("dict", "crf", "vis"):
        shutil.rmtree(copied / "n" / name)
    typed = ["infer.py", *map(str, infer_flags(toy, copied)), "--vis", "--scales", "1"]
    monkeypatch.setattr("sys.argv", typed)
    more = next_words(prints(*typed))
    assert more == [*typed, "--dict", "--crf"]
    monkeypatch.setattr("sys.argv", more)
    assert "12 through" in prints(*more)
    assert read_record(copied / "n/dict")["settings"]["scales"] == [1.0]


def test_without_masks_training_follows(broken, copied):
    shutil.rmtree(broken / "SegmentationClass")
    flags = [*infer_flags(broken, copied), "--crf", "--alphas", 19, 2, 5]
    train = next_words(prints("infer.py", *flags))
    assert train[0] == "train_aff.py"
    small = ["--pretrained", "none", "--epochs", 1, "--batch_size", 4, "--crop_size", 64, "--num_workers", 0]
    walk = next_words(prints(*train, *small))
    assert walk[0] == "infer_aff.py" and walk[walk.index("--dup") + 1] == "5"
    assert "next:" not in prints(*walk)


# ---------------------------------------------------------------- maps and CRF scores


def test_maps_have_the_specified_form(toy, inferred):
    for image_id in read_list(toy / "train.txt"):
        truth = open_mask(toy / "SegmentationClass" / f"{image_id}.png", 21)
        present = sorted(set(np.unique(truth).tolist()) - {0, 255})
        maps = np.load(inferred / "n" / "dict" / f"{image_id}.npy", allow_pickle=True).item()
        assert [k + 1 for k in maps] == present
        for score in maps.values():
            assert score.shape == truth.shape and score.dtype == np.float32
            assert score.min() >= 0 and score.max() <= 1
        for alpha in ("02", "19"):
            crf = np.load(inferred / "n" / "crf" / alpha / f"{image_id}.npy", allow_pickle=True).item()
            assert list(crf) == [0, *present]
            np.testing.assert_allclose(sum(crf.values()), 1, atol=1e-5)
    assert len(list((inferred / "n" / "vis").glob("*.png"))) == sum(
        len(read_scores(p)) for p in (inferred / "n" / "dict").glob("*.npy")
    )


def unpickled(data):
    """Bytes of a score file -> its maps in the order of their keys."""
    return np.stack([score for _, score in sorted(check_maps(unpickle_dict(data)).items())])


def test_done_images_are_skipped_and_missing_ones_made_again(toy, inferred):
    folder = inferred / "n" / "dict"
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("*.npy")}
    first, second = sorted(before)[:2]
    (folder / first).unlink()
    crf = inferred / "n" / "crf" / "02" / second
    stored = crf.read_bytes()
    crf.unlink()
    out = succeeds("infer.py", *infer_flags(toy, inferred), "--dict", "--crf", "--alphas", 2, 19)
    assert "10 done before, 1 from stored maps, 1 through the network" in out
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("*.npy")}
    assert after.keys() == before.keys() and np.allclose(*(unpickled(b) for b in (crf.read_bytes(), stored)), atol=1e-5)
    for name in after:  # the last bit of a sum may depend on what the process computed before
        assert np.allclose(unpickled(after[name][1]), unpickled(before[name][1]), atol=1e-6)
    assert [k for k in before if before[k][0] != after[k][0]] == [first]


def test_results_of_another_epoch_are_not_mixed(toy, inferred, tmp_path):
    shutil.copytree(inferred / "n", tmp_path / "n")
    flags = infer_flags(toy, tmp_path, epoch=1)
    refused("infer.py", *flags, "--dict", says=["dict: holds results of other", "epoch 3, not 1", "--overwrite"])
    refused("infer.py", *infer_flags(toy, tmp_path), "--dict", "--scales", 1, says="scales")
    succeeds("infer.py", *flags, "--dict", "--overwrite")
    changed = [
        p.name
        for p in (tmp_path / "n/dict").glob("*.npy")
        if p.read_bytes() != (inferred / "n/dict" / p.name).read_bytes()
    ]
    assert len(changed) == 12
    (tmp_path / "n/dict/run.json").unlink()
    refused("infer.py", *flags, "--dict", says="unknown origin")


def test_infer_refuses(toy, trained, tmp_path):
    flags = infer_flags(toy, trained)
    refused("infer.py", *infer_flags(toy, trained, epoch=9), "--dict", says=["009net_main.pth", "0 1 2 3"])
    refused("infer.py", *flags, says="nothing to write")
    for alpha in (0, -1, 100, "x"):
        refused("infer.py", *flags, "--crf", "--alphas", alpha, says="--alphas")
    weights = [k for k in flags if k not in ("--load_epo", 3)]
    (tmp_path / "text.pth").write_text("hello")
    refused("infer.py", *weights, "--dict", "--weights", tmp_path / "text.pth", says="text.pth")
    wide = [0.125 if k == 0.0625 else k for k in flags]
    refused("infer.py", *wide, "--dict", says=["003net_main.pth", "--width"])
