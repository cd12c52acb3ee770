"""Photographs that show none of the classes: one class, drawn, and photographs without it, through every stage."""

import shutil

import numpy as np
import pytest
from conftest import prints, refused, run_here
from PIL import Image
from stage_runs import POWERS

from tool.io.files import read_json, read_list
from tool.io.images import label_image, open_mask
from tool.io.scores import read_scores
from voc12.labels import read_cls_labels, write_cls_labels
from voc12.make_dataset import choose_part
from voc12.make_toy import background, draw_object

MAKE = "voc12/make_dataset.py"
SIZE = (64, 48)
SHOWN = [f"defect__{k}" for k in range(6)]
EMPTY = [f"good__{k}" for k in range(6)]
NETWORK = ["--width", 0.0625, "--device", "cpu", "--num_workers", 0]


def draw(folder, name, objects):
    """A photograph photos/NAME.png of one class, or of none, and its mask masks/NAME.png."""
    rng = np.random.default_rng([objects, int(name[-1])])
    canvas, mask = background(rng, SIZE), np.zeros(SIZE[::-1], np.uint8)
    if objects:
        draw_object(rng, canvas, mask, "car", (rng.uniform(20, 44), rng.uniform(18, 30)), 18)
    for kind, image in (
        ("photos", Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))),
        ("masks", label_image(mask > 0)),
    ):
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """photos/defect, photos/good and their masks."""
    folder = tmp_path_factory.mktemp("drawn")
    for image_id in SHOWN + EMPTY:
        draw(folder, image_id.replace("__", "/"), image_id in SHOWN)
    return folder


def make(drawn, out, *source):
    flags = ["--images", drawn / "photos", "--masks", drawn / "masks", "--val", 0.34, "--out", out]
    printed = prints(MAKE, *flags, *source)
    labels = read_cls_labels(out / "cls_labels.npy")
    lists = [read_list(out / "ImageSets" / "Segmentation" / f"{name}.txt") for name in ("train", "val")]
    return printed, {image_id: vector.tolist() for image_id, vector in labels.items()}, *lists


TABLES = {
    "an empty label": "image,labels\n" + "".join(f"{i},{'x' * (i in SHOWN)}\n" for i in SHOWN + EMPTY),
    "a row of zeros": "image,x\n" + "".join(f"{i},{int(i in SHOWN)}\n" for i in SHOWN + EMPTY),
    "a folder beside a table": "image,labels\n" + "".join(f"{i},x\n" for i in SHOWN),
    "a folder beside a folder": None,
    "a folder elsewhere": None,
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_data_set_of_one_class_and_photographs_without_it(drawn, tmp_path, kind):
    images = shutil.copytree(drawn, tmp_path / "here")
    negatives = images / "photos" / "good"
    if kind == "a folder elsewhere":
        negatives = negatives.rename(tmp_path / "good")
    source = ["--by_folder"]
    if TABLES[kind]:
        (tmp_path / "labels.csv").write_text(TABLES[kind].replace("__", "/"))
        source = ["--labels", tmp_path / "labels.csv"]
    if "folder" in kind:
        source += ["--negatives", negatives]
    printed, labels, train, val = make(images, tmp_path / "set", *source)
    assert labels == {i: [1.0] for i in SHOWN} | {i: [0.0] for i in EMPTY}
    assert "12 images, 0 of them with several classes" in printed
    assert "6 of them show none of the classes (good__0, good__1, good__2, ...)" in printed
    assert "left out" not in printed
    assert sorted(train + val) == SHOWN + EMPTY and sum(i in EMPTY for i in val) == 2 == sum(i in SHOWN for i in val)


def test_negatives_that_contradict_their_labels_are_refused(drawn, tmp_path):
    (tmp_path / "labels.csv").write_text("image,labels\ndefect/0,x\ngood/1.png,x\n")
    flags = ["--images", drawn / "photos", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "set"]
    says = ["--negatives", "1 of its photographs have labels", "good/1.png"]
    refused(MAKE, *flags, "--negatives", drawn / "photos" / "good", says=says)
    refused(MAKE, *flags, "--negatives", drawn / "photos", says=["--negatives", "is --images itself"])
    refused(MAKE, *flags, "--negatives", tmp_path / "gone", says=[str(tmp_path / "gone"), "no such folder"])
    elsewhere = shutil.copytree(drawn / "photos" / "good", tmp_path / "good")  # the same names in another folder
    refused(MAKE, *flags, "--negatives", elsewhere, says=["6 of its photographs", "in --images"])
    shutil.copy(drawn / "photos/defect/0.png", tmp_path / "good/9.png")
    for name in ("0", "1", "2", "3", "4", "5"):
        (tmp_path / f"good/{name}.png").unlink(missing_ok=True)
    says = ["good/9.png is a copy of defect/0.png, which has a label"]
    refused(MAKE, *flags[:2], "--by_folder", *flags[4:], "--negatives", tmp_path / "good", says=says)
    assert not (tmp_path / "set").exists()


def test_images_without_a_class_are_divided_as_a_class_is():
    labels = {f"a{k}": (0,) for k in range(4)} | {f"n{k}": () for k in range(6)}
    chosen = choose_part(labels, 0.5, 0)
    assert [i[0] for i in chosen] == ["a"] * 2 + ["n"] * 3


# ---------------------------------------------------------------- every stage


@pytest.fixture(scope="module")
def place(drawn, tmp_path_factory):
    """The data set, and experiment "n" after train.py, infer.py, train_aff.py and infer_aff.py on train.txt."""
    folder = tmp_path_factory.mktemp("place")
    source = ["--by_folder", "--negatives", drawn / "photos" / "good", "--val", 0]
    make_flags = ["--images", drawn / "photos", "--masks", drawn / "masks", "--out", folder / "set"]
    prints(MAKE, *make_flags, *source)
    training = ["--crop_size", 48, "--pretrained", "none", "--epochs", 2, "--batch_size", 4]
    more = ["--T", 1, "--batch_size_triplet", 12, "--M", 50, "--resize", 48, 64, "--val_list", folder / "set/all.txt"]
    shutil.copy(folder / "set/ImageSets/Segmentation/train.txt", folder / "set/all.txt")
    run(folder, "train.py", *NETWORK, *training, *more, "--voc12_root", folder / "set")
    run(folder, "infer.py", *INFER)
    run(folder, "train_aff.py", *NETWORK, *training, *POWERS, "--val_list", folder / "set/all.txt", "--val_every", 2)
    run(folder, "infer_aff.py", *WALK)
    return folder


INFER = [*NETWORK, "--load_epo", 1, "--dict", "--crf", "--vis", "--alphas", 2, 19, "--crf_workers", 1]
WALK = [*NETWORK, *POWERS, "--vis", "--crf_workers", 1]


def run(folder, script, *args):
    """Run a stage, which must succeed -> its standard output."""
    return prints(script, "--name", "n", "--experiment", folder / "experiment", *args)


def test_the_classifier_learns_from_them(place):
    log = (place / "experiment/n/log.txt").read_text()
    assert "12 images, 1 classes, 6 show none of the classes" in log
    assert "any two images share a class" not in log
    last = read_json_lines(place / "experiment/n/log.jsonl")[-1]
    assert last["repel"] > 0 and last["attract"] > 0 and last["miou"] > 0


def read_json_lines(path):
    (path.parent / "one.json").write_text(f"[{','.join(path.read_text().splitlines())}]")
    return read_json(path.parent / "one.json")


def test_they_are_background_in_every_stage(place):
    n = place / "experiment" / "n"
    ones = np.ones(SIZE[::-1], np.float32)
    for image_id in EMPTY:
        assert read_scores(n / "dict" / f"{image_id}.npy") == {}
        for alpha in ("02", "19"):
            scores = read_scores(n / "crf" / alpha / f"{image_id}.npy")
            assert list(scores) == [0] and np.array_equal(scores[0], ones)
        assert not open_mask(n / "rw/02_1908" / f"{image_id}.png", 2).any()
        assert (n / "rw_vis/02_1908" / f"{image_id}.png").is_file() and not list((n / "vis").glob(f"{image_id}*"))
    for image_id in SHOWN:
        assert list(read_scores(n / "dict" / f"{image_id}.npy")) == [0]
        assert list(read_scores(n / "crf/02" / f"{image_id}.npy")) == [0, 1]


def test_what_is_done_is_done(place):
    printed = run(place, "infer.py", *INFER)
    assert "12 images, 12 done before" in printed and "6 show none of the classes" in printed
    assert "12 images, 12 done before" in run(place, "infer_aff.py", *WALK)


def copied(place, tmp_path):
    """A copy of the place, whose experiment has the copied data set."""
    shutil.copytree(place, tmp_path / "place")
    settings = tmp_path / "place/experiment/n/settings.json"
    settings.write_text(settings.read_text().replace(str(place), str(tmp_path / "place")))
    return tmp_path / "place"


def test_a_label_that_comes_or_goes_makes_the_maps_again(place, tmp_path):
    place = copied(place, tmp_path)
    changed = {i: np.float32([i in SHOWN]) for i in SHOWN + EMPTY} | {EMPTY[0]: np.float32([1]), SHOWN[0]: np.zeros(1)}
    write_cls_labels(place / "set" / "cls_labels.npy", changed)
    printed = run(place, "infer.py", *INFER)
    assert "10 done before, 2 again because they have changed (labels of 2; first defect__0)" in printed
    n = place / "experiment" / "n"
    assert read_scores(n / "dict" / f"{SHOWN[0]}.npy") == {} and not list((n / "vis").glob(f"{SHOWN[0]}*"))
    assert list(read_scores(n / "dict" / f"{EMPTY[0]}.npy")) == [0] and list((n / "vis").glob(f"{EMPTY[0]}*"))


def test_check_takes_them(place, tmp_path):
    more = [*NETWORK, "--epochs", 2, "--batch_size", 4, "--pretrained", "none", "--check"]
    other = ["--name", "m", "--experiment", tmp_path, "--voc12_root", place / "set", "--batch_size_triplet", 8]
    for code, errors in (
        run_here("train.py", *other, *more, "--val_list", "none"),
        run_here("infer.py", "--name", "n", "--experiment", place / "experiment", *INFER, "--overwrite", "--check"),
        run_here("infer_aff.py", "--name", "n", "--experiment", place / "experiment", *WALK, "--overwrite", "--check"),
    ):
        assert code == 0, errors


@pytest.mark.parametrize(("task", "folder"), [("cam", "dict"), ("crf", "crf/02"), ("png", "rw/02_1908")])
def test_they_are_scored_as_background(place, tmp_path, task, folder):
    (tmp_path / "empty.txt").write_text("\n".join(EMPTY))
    scored = ["--task", task, "--dict_dir", folder, "--json", tmp_path / "s.json", "--list"]
    run(place, "evaluation.py", *scored, tmp_path / "empty.txt")
    result = read_json(tmp_path / "s.json")
    assert result["classes"]["background"] == 100 and result["absent"] == ["defect"]
    run(place, "evaluation.py", *scored, place / "set/all.txt", *["--kfold", 2][: 2 * (task == "cam")])
    result = read_json(tmp_path / "s.json")
    assert 0 < result["classes"]["background"] < 100 and result["absent"] == []


def test_compressed_and_through_crf_alone(place, tmp_path):
    place = copied(place, tmp_path)
    n = place / "experiment" / "n"
    run(place, "infer.py", *INFER, "--compress", "--overwrite")
    assert read_scores(n / "dict" / f"{EMPTY[0]}.npy") == {}
    shutil.rmtree(n / "crf")
    run(place, "infer.py", *NETWORK, "--crf", "--alphas", 5, "--crf_workers", 1)
    scores = read_scores(n / "crf" / "05" / f"{EMPTY[0]}.npy")
    assert list(scores) == [0] and (scores[0] == 1).all()


def test_the_segmentation_network_and_the_page_take_them(place):
    network = [*NETWORK, "--pretrained", "none", "--epochs", 1, "--batch_size", 4, "--crop_size", 49]
    run(place, "train_seg.py", *network, "--labels", "rw/02_1908", "--val_list", place / "set/all.txt")
    run(place, "infer_seg.py", *NETWORK, "--infer_list", place / "set/all.txt", "--scales", 1, "--crf_workers", 1)
    run(place, "report.py", "--list", place / "set/all.txt", "--images", 12)
    page = (place / "experiment/n/report/index.html").read_text()
    assert page.count("shows none of the classes") == 6 and "Traceback" not in page
