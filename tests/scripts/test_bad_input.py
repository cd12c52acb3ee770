"""Every script fed broken, hostile and odd input.

Refused input: exit code 2, one `error:` line that names problem and file, no traceback, whatever is written is whole,
nothing of the input is executed. Odd input that work can go on with: exit code 0 and the results of plain input.
The tables of flags come from the scripts' own parsers, so a new flag is covered when it is added.
"""

import argparse
import functools
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import threading

import numpy as np
import pytest
import torch
from bad_files import (
    BAD_CLASSES,
    BAD_LISTS,
    BAD_XMLS,
    CLASSES,
    EMPTY_XMLS,
    EVERYTHING,
    IDS,
    INDEX,
    LONGER_LISTS,
    ODD_LISTS,
    SIZE,
    Runs,
    bad_checkpoints,
    bad_masks,
    bad_photos,
    bad_scores,
    encoded,
    make_set,
    misfit_scores,
    npy,
    odd_photos,
    random_maps,
    saved,
    torch_bytes,
)
from conftest import ROOT, refused, run_here
from PIL import Image

from models.aeft import AEFTNet
from models.affinity import AffinityNet
from models.checkpoint import save_weights
from models.deeplab import DeepLab
from models.resnet38d import ResNet38d
from tool.io.images import label_image, open_image
from tool.io.scores import read_scores
from tool.io.torch_files import read_torch
from voc12 import labels as labels_module
from voc12.labels import read_cls_labels

TRAIN, INFER, TRAIN_AFF, INFER_AFF, EVALUATION = "train.py", "infer.py", "train_aff.py", "infer_aff.py", "evaluation.py"
TRAIN_SEG, INFER_SEG, REPORT = "train_seg.py", "infer_seg.py", "report.py"
MAKE_LABELS, MAKE_LISTS = "voc12/make_cls_labels.py", "voc12/make_lists.py"
STAGES = (TRAIN, INFER, TRAIN_AFF, INFER_AFF, TRAIN_SEG, INFER_SEG, EVALUATION)
READ_PHOTOS = STAGES[:-1]
SCRIPTS = (*STAGES, REPORT, MAKE_LABELS, MAKE_LISTS)
LIST_FLAG = {
    TRAIN: "--train_list",
    INFER: "--infer_list",
    TRAIN_AFF: "--train_list",
    INFER_AFF: "--train_list",
    TRAIN_SEG: "--train_list",
    INFER_SEG: "--infer_list",
    EVALUATION: "--list",
    REPORT: "--list",
    MAKE_LABELS: "--list",
}
# The experiment in which a script finds what it needs and nothing of its own: "e" is prepared.
NAME = {TRAIN: "new", INFER: "new", TRAIN_SEG: "new"} | dict.fromkeys(
    (TRAIN_AFF, INFER_AFF, INFER_SEG, EVALUATION, REPORT), "e"
)
# Below the experiment's folder: where the results go.
RESULT_FOLDER = {TRAIN: "ckpt", INFER: "dict", TRAIN_AFF: "ckpt_aff/aff021909", INFER_AFF: "rw/02_1908"}
RESULT_FOLDER |= {TRAIN_SEG: "ckpt_seg/deeplab_resnet38d", INFER_SEG: "seg/deeplab_resnet38d", REPORT: "report"}
WIDTH = 0.0625


@functools.cache
def parser_of(script):
    spec = importlib.util.spec_from_file_location("script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_args_parser()


# ---------------------------------------------------------------- a place where every script can run


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    labels_module._unknown_names.clear()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Four images, and experiment "e" with untrained networks and what every stage needs of the earlier ones."""
    place = tmp_path_factory.mktemp("prepared")
    make_set(place / "set")
    for kind in ("Main/trainval", "Segmentation/train", "Segmentation/val"):
        path = place / "set" / "ImageSets" / f"{kind}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("four\n" if kind.endswith("/val") else "one\ntwo\nthree\nfour\n")
    torch.manual_seed(0)
    e = place / "experiment" / "e"
    save_weights(AEFTNet(ResNet38d(WIDTH), 20), e / "ckpt" / "000net_main.pth")
    save_weights(AffinityNet(WIDTH), e / "ckpt_aff" / "aff021908" / "best.pth")
    save_weights(DeepLab(ResNet38d(WIDTH), 21), e / RESULT_FOLDER[TRAIN_SEG] / "best.pth")
    torch.manual_seed(0)
    code, errors = run_here(INFER, *flags(INFER, place, "e"))
    assert code == 0, errors
    for seed, alpha in enumerate(("02", "19")):
        random_maps(e / "crf" / alpha, IDS, lambda i: (0, 1 + INDEX[CLASSES[i]]), seed=seed)
    return place


@pytest.fixture
def place(prepared, tmp_path):
    """The prepared place, to damage."""
    return copy(prepared, tmp_path / "place")


def copy_or_link(source, target):
    (os.link if source.endswith(".pth") else shutil.copy2)(source, target)


def copy(source, target):
    """A copy; checkpoints, which are only ever replaced as a whole, are the same files."""
    return shutil.copytree(source, target, copy_function=copy_or_link)


def flags(script, place, name=None):
    """Flags with which `script` does its work at `place` in a second. A flag that is given again replaces the first."""
    root = place / "set"
    if script == MAKE_LABELS:
        return ["--voc12_root", root, "--list", root / "list.txt", "--out", place / "out" / "labels.npy"]
    if script == MAKE_LISTS:
        return ["--voc12_root", root, "--without_sbd", "--out", place / "out"]
    common = ["--name", name or NAME[script], "--experiment", place / "experiment", "--voc12_root", root]
    if script == EVALUATION:
        return [
            *common,
            "--list",
            root / "list.txt",
            "--task",
            "cam",
            "--dict_dir",
            "dict",
            "--json",
            place / "out" / "result.json",
        ]
    if script == REPORT:
        return [*common, "--list", root / "list.txt", "--seg_list", "none"]
    common += ["--width", WIDTH, "--num_workers", 0, "--device", "cpu", LIST_FLAG[script], root / "list.txt"]
    powers = ["--low", 2, "--high", 19, "--dup"]
    training = ["--val_list", "none", "--epochs", 1, "--batch_size", 2, "--crop_size", 24, "--pretrained", "none"]
    return {
        TRAIN: [*common, *training, "--T", 1, "--resize", 24, 32, "--overwrite"],
        INFER: [
            *common,
            "--weights",
            place / "experiment" / "e" / "ckpt" / "000net_main.pth",
            "--dict",
            "--scales",
            1,
            "--crf_workers",
            1,
        ],
        TRAIN_AFF: [*common, *powers, 9, *training, "--scale", 2, "--crop_size", 64, "--overwrite"],
        INFER_AFF: [*common, *powers, 8, "--scale", 2],
        TRAIN_SEG: [*common, *training, "--labels", root / "SegmentationClass", "--lr", 0.01, "--overwrite"],
        INFER_SEG: [*common, "--scales", 1, "--crf_workers", 1],
    }[script]


def experiment(place, script):
    return place / "experiment" / NAME[script]


def files(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


def assert_whole(path):
    """A file that a script wrote can be read."""
    if path.suffix == ".npy":
        (read_cls_labels if path.name == "labels.npy" else read_scores)(path)
    elif path.suffix == ".pth":
        read_torch(path)
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        assert all(json.loads(line) for line in path.read_text().splitlines())


def refuses(place, script, *extra, says, name=None):
    """`script` with flags(...) and `extra` refuses; nothing is half-written, and no attack left its marker."""
    before = files(place)
    line = refused(script, *flags(script, place, name), *extra, says=says)
    after = files(place)
    for path in after:
        assert not path.name.endswith(".tmp") and path.name != "ran", path
        if before.get(path) != after[path]:
            assert_whole(path)
    return line


def works(place, script, *extra):
    """`script` succeeds -> its stderr."""
    code, errors = run_here(script, *flags(script, place), *extra)
    assert code == 0, errors
    assert "Traceback" not in errors and not list(place.rglob("*.tmp"))
    return errors


def result_files(place, script):
    if script in NAME and script != EVALUATION:
        return [
            p
            for p in sorted((experiment(place, script) / RESULT_FOLDER[script]).iterdir())
            if p.name not in ("run.json", "resume.pth")
        ]
    return sorted((place / "out").iterdir())


def results(place, script):
    """{file: content} of what `script` wrote, in a form that compares."""
    found = {}
    for path in result_files(place, script):
        if path.name.endswith(".run.json"):  # says when, and with which list
            continue
        if path.suffix == ".npy":
            content = (read_cls_labels if path.name == "labels.npy" else read_scores)(path)
            content = {key: value.tolist() for key, value in content.items()}
        elif path.suffix == ".pth":
            state = read_torch(path)
            assert all(value.isfinite().all() for value in state.values())
            content = {key: value.numpy().tobytes() for key, value in state.items()}
        elif path.suffix == ".png":
            content = np.asarray(Image.open(path)).tolist()
        else:
            content = path.read_text().replace(str(place), "")
        found[path.name] = content
    assert found
    return found


# ---------------------------------------------------------------- flags, from the parsers


def actions(script):
    return [
        a for a in parser_of(script)._actions if a.option_strings and a.help != argparse.SUPPRESS and a.dest != "help"
    ]


def flag_of(action):
    return action.option_strings[0]


def number_type(action):
    """int or float where the flag takes a number, else None."""
    if action.type in (None, str):
        return None
    try:
        value = action.type("1")
    except Exception:
        return None
    return type(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def with_count(action, value):
    """`value` as often as the flag takes values."""
    return [value] * (action.nargs if isinstance(action.nargs, int) else 1)


def bad_values():
    """(script, arguments, flag) that a parser has to refuse."""
    for script in SCRIPTS:
        for action in actions(script):
            flag, kind = flag_of(action), number_type(action)
            if action.nargs == 0:
                if len(action.option_strings) == 1:  # not --amp, --no-amp
                    yield script, [f"{flag}=1"], flag
                continue
            values = []
            if kind:
                values = ["x", "nan", "inf", "1e999", "1,5", "0x10", "-5"]
                values += ["--"] if action.nargs not in ("?", "*") else []  # there it ends the flag's values
            if kind is int:
                values += ["2.5", "1e3", str(10**30)]
            if kind is float:
                values += ["-1e-9"]
            if action.choices:
                values += ["nonsense"]
            if flag == "--name":
                values += [".", "..", "a/b", "/", "../e"]
            for value in values:
                yield script, [flag, *with_count(action, value)], flag
            if action.nargs not in ("?", "*"):
                yield script, [flag], flag
            if isinstance(action.nargs, int):
                yield script, [flag, *["1"] * (action.nargs - 1)], flag


@pytest.mark.parametrize(
    ("script", "arguments", "flag"), [pytest.param(*case, id=f"{case[0]} {' '.join(case[1])}") for case in bad_values()]
)
def test_a_value_of_the_wrong_type_or_range(prepared, script, arguments, flag):
    refuses(prepared, script, *arguments, says=flag)


@pytest.mark.parametrize(
    ("script", "flag"),
    [(s, flag_of(a)) for s in SCRIPTS for a in actions(s) if a.nargs != 0 and not number_type(a) and not a.choices],
)
@pytest.mark.parametrize("text", ["", "two\nlines", "caf\udce9"], ids=["empty", "newline", "not UTF-8"])
def test_a_text_that_is_no_text(prepared, script, flag, text):
    refuses(prepared, script, flag, text, says=flag)


@pytest.mark.parametrize(("script", "flag"), [(s, flag_of(a)) for s in SCRIPTS for a in actions(s) if a.required])
def test_a_flag_that_is_missing(prepared, script, flag):
    given = [str(k) for k in flags(script, prepared)]
    at = given.index(flag)
    refused(script, *given[:at], *given[at + 2 :], says=[flag, "required"])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("argument", ["--no_such_flag", "stray", "-1", "--name2=x"])
def test_arguments_that_no_script_has(prepared, script, argument):
    refuses(prepared, script, argument, says=["unrecognized arguments", argument])


HUGE = 2**31 - 8
CONTRADICTIONS = [
    (TRAIN, ["--TH", 0.2, 0.6], "--TH 0.2 0.6: HIGH must be above LOW"),
    (TRAIN, ["--TH", 0.5, 0.5], "HIGH must be above LOW"),
    (TRAIN, ["--resize", 90, 50], "MIN must not be above MAX"),
    (TRAIN, ["--jitter", 0, 0, 0, 0.6], "--jitter: hue 0.6 is above 0.5"),
    (TRAIN_AFF, ["--jitter", 0, 0, 0, 0.6], "--jitter: hue 0.6 is above 0.5"),
    (TRAIN, ["--batch_size", 5], "4 images do not fill one batch of 5"),
    (TRAIN, ["--epochs", 2, "--batch_size_triplet", 5], "not fill one batch of 5; lower --batch_size_triplet"),
    (TRAIN_AFF, ["--batch_size", 5], "4 images do not fill one batch"),
    (TRAIN, ["--width", 0.05], "width 0.05 is below 1/16"),
    (INFER, ["--width", 0.05], "width 0.05 is below 1/16"),
    (TRAIN_AFF, ["--width", 0.05], "width 0.05 is below 1/16"),
    (INFER_AFF, ["--width", 0.05], "width 0.05 is below 1/16"),
    (TRAIN_SEG, ["--width", 0.05], "width 0.05 is below 1/16"),
    (INFER_SEG, ["--width", 0.05], "width 0.05 is below 1/16"),
    (TRAIN_SEG, ["--jitter", 0, 0, 0, 0.6], "--jitter: hue 0.6 is above 0.5"),
    (TRAIN_SEG, ["--batch_size", 5], "4 images do not fill one batch"),
    (TRAIN_SEG, ["--crop_size", HUGE], "memory"),
    (TRAIN_SEG, ["--random_scale", 1e8, 1e9], "would be resized to"),
    (INFER_SEG, ["--scales", 1, 1e9], "would be resized to"),
    (TRAIN_AFF, ["--crop_size", 100], "--crop_size 100: must be a multiple of 8"),
    (TRAIN_AFF, ["--low", 19, "--high", 2], "low must be below high"),
    (TRAIN_AFF, ["--low", 19], "low must be below high"),
    (INFER_AFF, ["--low", 19, "--high", 2], "low must be below high"),
    (TRAIN_AFF, ["--high", 21], "infer.py --crf --alphas 21"),
    (INFER_AFF, ["--dup", 9], "run python train_aff.py"),
    (INFER, ["--load_epo", 0], "give one of --load_epo EPOCH, --weights FILE and --mean_of"),
    (INFER, ["--alphas", 0], "--alphas"),
    (INFER, ["--alphas", 2, 100], "--alphas"),
    (INFER, ["--scales", 1, 0], "--scales"),
    (INFER_AFF, ["--beta", 0], "--beta"),
    (INFER_AFF, ["--steps", 0], "--steps"),
    (EVALUATION, ["--task", "crf", "--threshold", 0.2], "--threshold is for --task cam"),
    (EVALUATION, ["--task", "png", "--threshold", 0.2], "--threshold is for --task cam"),
    (EVALUATION, ["--threshold", 1.5], "--threshold"),
    (EVALUATION, ["--dict_dir", "rw/02_1908"], "no such folder"),
    (EVALUATION, ["--gt_dir", "SegmentationClassAug"], "no such mask (4 of 4"),
    (MAKE_LISTS, ["--masks"], "leave --without_sbd out"),
    *[(s, ["--device", d], f"--device {d}") for s in READ_PHOTOS for d in ("gpu", "cuda:99", "cuda:x", "tpu")],
    # beyond any memory: refused by the size of what they ask for, before or when it is asked for
    (TRAIN, ["--crop_size", HUGE], "memory"),
    (TRAIN_AFF, ["--crop_size", HUGE], "memory"),
    (TRAIN, ["--resize", HUGE, HUGE], "would be resized to"),
    (INFER, ["--scales", 1, 1e9], "would be resized to"),
    (INFER_AFF, ["--scale", 1e9], "would be resized to"),
    (TRAIN_AFF, ["--scale", 1e9], "would be resized to"),
    *[(s, ["--num_workers", 2**31 - 1], "--num_workers") for s in READ_PHOTOS],
    *[
        (s, ["--name", "no_such_experiment", *more], "no_such_experiment")
        for s, more in ((TRAIN_AFF, []), (INFER_AFF, []), (INFER_SEG, []), (EVALUATION, []), (REPORT, []))
    ],
    *[(s, ["--voc12_root", "no_such_folder"], "no_such_folder") for s in SCRIPTS],
]


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [pytest.param(*case, id=f"{case[0]} {' '.join(map(str, case[1]))}") for case in CONTRADICTIONS],
)
def test_contradictions_and_impossible_sizes(place, script, arguments, says):
    refuses(place, script, *arguments, says=says)


def test_nothing_to_write(prepared):
    given = [k for k in flags(INFER, prepared) if k != "--dict"]
    refused(INFER, *given, says="nothing to write: give --dict, --crf, --png or --vis")
    given = given[: given.index("--weights")] + given[given.index("--weights") + 2 :]
    refused(INFER, *given, "--dict", says="give one of --load_epo EPOCH, --weights FILE and --mean_of")
    refused(INFER, *given, "--name", "e", "--dict", "--load_epo", 7, says=["007net_main.pth", "epochs there: 0"])


# ---------------------------------------------------------------- lists and class names


@pytest.fixture
def shared(prepared, tmp_path):
    """The prepared place, its experiment linked: for input that is refused before anything is written."""
    make_set(tmp_path / "set")
    shutil.copytree(prepared / "set" / "ImageSets", tmp_path / "set" / "ImageSets")
    (tmp_path / "experiment").symlink_to(prepared / "experiment")
    return tmp_path


@pytest.mark.parametrize(
    ("script", "kind"),
    [(s, k) for s in LIST_FLAG for k in BAD_LISTS if (s, k) != (REPORT, "unknown ID")],  # it shows what is there
)
def test_a_list_that_is_refused(shared, script, kind):
    data, says = BAD_LISTS[kind]
    (shared / "set" / "list.txt").write_bytes(data)
    path = "x" * 100 if kind == "a line without end" else "five" if kind == "unknown ID" else "list.txt"
    refuses_text = [path] if kind == "a line without end" else [path, says]
    line = refuses(shared, script, says=refuses_text)
    assert len(line) < 2000


@pytest.mark.parametrize("script", LIST_FLAG)
def test_a_list_whose_lines_go_on_after_the_id(shared, script):
    for data, says in list(LONGER_LISTS.items())[:: 1 if script == EVALUATION else 2]:
        (shared / "set" / "list.txt").write_bytes(data)
        refuses(shared, script, says=says)


@pytest.mark.parametrize("script", [TRAIN, TRAIN_AFF, TRAIN_SEG])
@pytest.mark.parametrize("kind", ["empty", "unknown ID", "path to a folder above", "UTF-16"])
def test_a_validation_list_that_is_refused(shared, script, kind):
    data, says = BAD_LISTS[kind]
    (shared / "set" / "val.txt").write_bytes(data)
    refuses(shared, script, "--val_list", shared / "set" / "val.txt", says=says)


@pytest.mark.parametrize("kind", [k for k in BAD_LISTS if k not in ("unknown ID", "a line without end")])
@pytest.mark.parametrize("name", ["Main/trainval", "Segmentation/val"])
def test_a_list_of_the_kit_that_is_refused(shared, kind, name):
    data, says = BAD_LISTS[kind]
    (shared / "set" / "ImageSets" / f"{name}.txt").write_bytes(data)
    refuses(shared, MAKE_LISTS, says=[f"{name}.txt", says])
    assert not (shared / "out").exists()


@pytest.mark.parametrize("script", LIST_FLAG)
def test_a_list_that_is_no_file(shared, script):
    refuses(shared, script, LIST_FLAG[script], shared / "none.txt", says=["none.txt", "no such list"])
    refuses(shared, script, LIST_FLAG[script], shared, says=[str(shared), "is a folder"])
    (shared / "loop").symlink_to("loop")
    refuses(shared, script, LIST_FLAG[script], shared / "loop", says="loop")
    refuses(shared, script, LIST_FLAG[script], shared / "set" / "list.txt" / "x", says="list.txt/x")


@pytest.fixture(scope="module")
def plain_results(prepared, tmp_path_factory):
    """script -> results with the plain list."""
    found = {}

    def get(script):
        if script not in found:
            place = copy(prepared, tmp_path_factory.mktemp("plain") / "place")
            works(place, script)
            found[script] = results(place, script)
        return found[script]

    return get


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (s, k)
        for s in (INFER, INFER_AFF, INFER_SEG, EVALUATION, MAKE_LABELS, TRAIN, TRAIN_AFF, TRAIN_SEG)
        for k in (["all at once"] if s in (TRAIN, TRAIN_AFF, TRAIN_SEG) else ODD_LISTS)
    ],
)
def test_a_list_in_another_spelling_gives_the_same(place, plain_results, script, kind):
    (place / "set" / "list.txt").write_bytes(EVERYTHING if kind == "all at once" else ODD_LISTS[kind])
    errors = works(place, script)
    assert results(place, script) == plain_results(script)
    repeated = {"duplicates": "2 repeated lines", "all at once": "1 repeated lines"}.get(kind)
    assert ("warning:" in errors) == (repeated is not None)
    assert repeated is None or errors.count(f"list.txt: {repeated}") == 1


@pytest.mark.parametrize("kind", ODD_LISTS)
def test_a_kit_with_lists_in_another_spelling(place, plain_results, kind):
    (place / "set" / "ImageSets" / "Segmentation" / "train.txt").write_bytes(ODD_LISTS[kind])
    works(place, MAKE_LISTS)
    assert results(place, MAKE_LISTS) == plain_results(MAKE_LISTS)


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != MAKE_LISTS])
@pytest.mark.parametrize("kind", BAD_CLASSES)
def test_class_names_that_are_refused(shared, script, kind):
    data, says = BAD_CLASSES[kind]
    (shared / "classes.txt").write_bytes(data)
    refuses(shared, script, "--classes", shared / "classes.txt", says=["classes.txt", says])


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != MAKE_LISTS])
def test_class_names_that_are_no_file(shared, script):
    refuses(shared, script, "--classes", shared / "none.txt", says=["none.txt", "no such file"])
    refuses(shared, script, "--classes", shared, says=[str(shared), "not a text file"])


# ---------------------------------------------------------------- annotations and the label table


@pytest.mark.parametrize("script", [TRAIN, INFER, MAKE_LABELS])
@pytest.mark.parametrize("kind", BAD_XMLS)
def test_an_annotation_that_is_refused(shared, script, kind):
    data, says = BAD_XMLS[kind]
    (shared / "set" / "Annotations" / "three.xml").write_bytes(data)
    line = refuses(shared, script, says=["three.xml", says])
    assert "root:" not in line and not (shared / "out").exists()


@pytest.mark.parametrize("script", [TRAIN, INFER])
@pytest.mark.parametrize("kind", EMPTY_XMLS)
def test_an_image_without_a_class(place, script, kind):
    (place / "set" / "Annotations" / "three.xml").write_bytes(EMPTY_XMLS[kind])
    assert ("'unicorn' is none of the 20 classes" in works(place, script)) == (kind == "unknown class")
    if script == INFER:
        assert read_scores(experiment(place, INFER) / "dict" / "three.npy") == {}


def test_images_of_no_class_at_all_teach_nothing(shared):
    for image_id in IDS:
        (shared / "set" / "Annotations" / f"{image_id}.xml").write_bytes(EMPTY_XMLS["no objects"])
    refuses(shared, TRAIN, says=["none of 4 images shows any of the classes", "--classes"])


@pytest.mark.parametrize("kind", EMPTY_XMLS)
def test_a_table_of_an_image_without_a_class(shared, kind):
    (shared / "set" / "Annotations" / "three.xml").write_bytes(EMPTY_XMLS[kind])
    errors = works(shared, MAKE_LABELS)
    table = {i: np.flatnonzero(v).tolist() for i, v in read_cls_labels(shared / "out" / "labels.npy").items()}
    assert table == {"one": [7], "two": [11], "three": [], "four": [11]}
    assert "1 of them show none of the classes, the first is three" in errors
    assert ("'unicorn' is none of the 20 classes" in errors) == (kind == "unknown class")


@pytest.mark.parametrize("script", [TRAIN, INFER, MAKE_LABELS])
def test_annotations_that_are_no_files(shared, script):
    path = shared / "set" / "Annotations" / "three.xml"
    path.unlink()
    refuses(shared, script, says=["1 of 4 images have no label, the first is three"])
    path.mkdir()
    refuses(shared, script, says="the first is three")
    shutil.rmtree(shared / "set" / "Annotations")
    refuses(shared, script, says="4 of 4 images have no label")


def bad_tables(marker):
    good = {i: np.eye(20, dtype=np.float32)[INDEX[CLASSES[i]]] for i in IDS}
    return {
        "code": (saved(good | {"three": Runs(marker)}), "io.open"),
        "text": (b"one 0 0 1\n", "not a label table"),
        "zero bytes": (b"", "not a label table"),
        "truncated": (saved(good)[:-60], "not a label table"),
        "a plain array": (saved(np.eye(20)), "not a label table"),
        "keys that are no IDs": (saved(dict(enumerate(good.values()))), "not a label table"),
        "other classes": (saved(good | {"three": np.ones(7, np.float32)}), "three has 7 values for 20 classes"),
        "NaN": (saved(good | {"three": good["three"] * np.nan}), "three has values other than 0 and 1"),
        "probabilities": (saved(good | {"three": good["three"] * 0.5}), "three has values other than 0 and 1"),
        "a matrix": (saved(good | {"three": np.eye(20)}), "three: not a vector"),
        "no images": (saved({}), "not a label table (it is empty)"),
    }


@pytest.mark.parametrize("script", [TRAIN, INFER])
@pytest.mark.parametrize("kind", bad_tables(""))
def test_a_label_table_that_is_refused(shared, script, kind):
    data, says = bad_tables(shared / "ran")[kind]
    (shared / "labels.npy").write_bytes(data)
    refuses(shared, script, "--cls_labels", shared / "labels.npy", says=["labels.npy", says])


@pytest.mark.parametrize("script", STAGES)
def test_no_stage_needs_annotations_where_there_is_a_published_table(place, script):
    """A table of pickle protocol 2, as AEFT's repository has it."""
    table = {i: np.eye(20, dtype=np.float32)[INDEX[CLASSES[i]]] for i in IDS}
    content = pickle.dumps(np.array(table, dtype=object), 2).replace(b"numpy._core.", b"numpy.core.")
    (place / "set" / "cls_labels.npy").write_bytes(npy(b"")[: -len(b"\x80\x04.")] + content)
    shutil.rmtree(place / "set" / "Annotations")
    works(place, script)
    assert result_files(place, script)


@pytest.mark.parametrize("script", [TRAIN, INFER])
def test_a_label_table_that_is_a_folder(shared, script):
    refuses(shared, script, "--cls_labels", shared, says=str(shared))


# ---------------------------------------------------------------- photographs


@pytest.mark.parametrize("script", READ_PHOTOS)
@pytest.mark.parametrize("kind", bad_photos())
def test_a_photograph_that_is_refused(place, script, kind):
    data, says = bad_photos()[kind]
    (place / "set" / "JPEGImages" / "three.jpg").write_bytes(data)
    refuses(place, script, says=["three.jpg", says])


@pytest.mark.parametrize("script", READ_PHOTOS)
def test_photographs_that_are_no_files(shared, script):
    path = shared / "set" / "JPEGImages" / "three.jpg"
    path.unlink()
    says = ["three.jpg", "no such image (1 of 4 listed images are missing)"]
    refuses(shared, script, says=says)
    path.symlink_to("elsewhere.jpg")
    refuses(shared, script, says=says)
    path.unlink()
    path.mkdir()
    refuses(shared, script, says=says)


def put_photo(place, image_id, data, pixels):
    """Another photograph, with a mask and scores of its size."""
    (place / "set" / "JPEGImages" / f"{image_id}.jpg").write_bytes(data)
    size = pixels.shape[:2]
    label_image(np.full(size, 8, np.uint8)).save(place / "set" / "SegmentationClass" / f"{image_id}.png")
    c = INDEX[CLASSES[image_id]]
    random_maps(place / "experiment" / "e" / "dict", [image_id], lambda i: (c,), size)
    for seed, alpha in enumerate(("02", "19")):
        random_maps(place / "experiment" / "e" / "crf" / alpha, [image_id], lambda i: (0, c + 1), size, seed)


@pytest.mark.parametrize("script", READ_PHOTOS)
@pytest.mark.parametrize("kind", odd_photos())
def test_an_odd_photograph_gives_what_its_pixels_give(place, script, kind):
    """The same results as for a PNG of the pixels that it should read as."""
    data, pixels, tolerance = odd_photos()[kind]
    put_photo(place, "three", data, pixels)
    path = place / "set" / "JPEGImages" / "three.jpg"
    read = np.asarray(open_image(path))
    assert read.shape == pixels.shape and np.abs(read.astype(float) - pixels).mean() <= tolerance
    (place / "set" / "list.txt").write_text("three\ntwo\n")
    works(place, script)
    first = results(place, script)
    if script in (INFER, INFER_AFF, INFER_SEG):
        shutil.rmtree(experiment(place, script) / RESULT_FOLDER[script])
    path.write_bytes(encoded(Image.fromarray(read), format="PNG"))
    works(place, script)
    assert results(place, script) == first
    values = [v for content in first.values() for v in (content.values() if isinstance(content, dict) else [content])]
    assert all(np.isfinite(np.asarray(v, dtype=float)).all() for v in values if not isinstance(v, bytes))


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", bad_masks())
@pytest.mark.parametrize("script", [EVALUATION, TRAIN, TRAIN_AFF, TRAIN_SEG])
def test_a_mask_that_is_refused(place, script, kind):
    data, says = bad_masks()[kind]
    (place / "set" / "SegmentationClass" / "three.png").write_bytes(data)
    extra = {
        EVALUATION: [],
        TRAIN: ["--val_list", place / "set" / "list.txt"],
        TRAIN_AFF: ["--val_list", place / "set" / "list.txt", "--val_every", 1],
        TRAIN_SEG: [],  # it trains on them
    }[script]
    refuses(place, script, *extra, says=["three", says])


@pytest.mark.parametrize("script", [EVALUATION, TRAIN_AFF])
def test_a_mask_that_is_missing(shared, script):
    (shared / "set" / "SegmentationClass" / "three.png").unlink()
    extra = ["--val_list", shared / "set" / "list.txt"] if script == TRAIN_AFF else []
    refuses(shared, script, *extra, says=["three.png", "no such mask (1 of 4"])


def test_masks_where_everything_is_ignored(shared):
    for path in (shared / "set" / "SegmentationClass").iterdir():
        label_image(np.full(SIZE[::-1], 255, np.uint8)).save(path)
    works(shared, EVALUATION)
    result = json.loads((shared / "out" / "result.json").read_text())
    assert result["miou"] == result["miou_present"] == 0 and len(result["absent"]) == 21


@pytest.mark.parametrize("kind", bad_masks())
def test_pseudo_labels_that_are_refused(shared, kind):
    data, says = bad_masks()[kind]
    folder = shared / "labels"
    shutil.copytree(shared / "set" / "SegmentationClass", folder)
    (folder / "three.png").write_bytes(data)
    refuses(
        shared,
        EVALUATION,
        "--task",
        "png",
        "--dict_dir",
        folder,
        says=["three", says.replace("its mask has 32 x 25", "32 x 25").replace("its mask has 24 x 32", "24 x 32")],
    )


def test_pseudo_labels_with_ignored_pixels(shared):
    folder = shared / "labels"
    shutil.copytree(shared / "set" / "SegmentationClass", folder)
    label_image(np.full(SIZE[::-1], 255, np.uint8)).save(folder / "three.png")
    refuses(shared, EVALUATION, "--task", "png", "--dict_dir", folder, says=["three.png", "255 (ignored) pixels"])


# ---------------------------------------------------------------- score files

SHAPE = SIZE[::-1]
SCORES_OF = {  # who reads them -> (folder, a good key, extra flags)
    "evaluation of maps": (EVALUATION, "dict", 7, []),
    "evaluation of CRF scores": (EVALUATION, "crf/02", 8, ["--task", "crf", "--dict_dir", "crf/02"]),
    "CRF of stored maps": (INFER, "dict", 7, ["--crf", "--alphas", 5, "--name", "e"]),
    "training of AffinityNet": (TRAIN_AFF, "crf/19", 8, []),
    "validation of AffinityNet": (TRAIN_AFF, "dict", 7, ["--val_every", 1]),
    "random walk": (INFER_AFF, "dict", 7, []),
}


@pytest.mark.parametrize(
    ("reader", "kind"),
    [
        (reader, kind)
        for kind in (*bad_scores("", SHAPE, 7), *misfit_scores(SHAPE, 7))
        for reader in SCORES_OF
        if kind != "no keys" or SCORES_OF[reader][1] != "dict"  # maps of an image that shows none of the classes
    ],
)
def test_a_score_file_that_is_refused(place, reader, kind):
    script, folder, key, extra = SCORES_OF[reader]
    data, says = (bad_scores(place / "ran", SHAPE, key) | misfit_scores(SHAPE, key))[kind]
    (place / "experiment" / "e" / folder / "three.npy").write_bytes(data)
    if reader == "validation of AffinityNet":
        extra = [*extra, "--val_list", place / "set" / "list.txt"]
    refuses(place, script, *extra, says=["three", says])


@pytest.mark.parametrize("reader", SCORES_OF)
def test_score_files_of_other_methods_are_read_by_every_stage(place, reader):
    script, folder, _, extra = SCORES_OF[reader]
    folder = place / "experiment" / "e" / folder
    maps = {i: read_scores(folder / f"{i}.npy") for i in IDS}
    stacked = {i: np.stack(list(scores.values())) for i, scores in maps.items()}
    tensors = {"keys": torch.tensor(list(maps["one"])), "cam": torch.ones(1, 2, 2), "high_res": stacked["one"]}
    np.save(folder / "one.npy", tensors)
    np.save(folder / "two.npy", {"keys": np.array(list(maps["two"])), "high_res": torch.from_numpy(stacked["two"])})
    np.save(folder / "three.npy", {np.int64(k): score.astype(np.float16) for k, score in maps["three"].items()})
    np.save(folder / "four.npy", {k: score.astype(np.float64) for k, score in maps["four"].items()})
    if reader == "validation of AffinityNet":
        extra = [*extra, "--val_list", place / "set" / "list.txt"]
    works(place, script, *extra)


# ---------------------------------------------------------------- checkpoints

LOADERS = {  # who loads weights -> (script, its flag, a good file, one of the other network)
    "start of train.py": (TRAIN, "--pretrained", "ckpt/000net_main.pth", "ckpt_aff/aff021908/best.pth"),
    "infer.py": (INFER, "--weights", "ckpt/000net_main.pth", "ckpt_aff/aff021908/best.pth"),
    "start of train_aff.py": (TRAIN_AFF, "--pretrained", "ckpt_aff/aff021908/best.pth", "ckpt/000net_main.pth"),
    "infer_aff.py": (INFER_AFF, "--weights", "ckpt_aff/aff021908/best.pth", "ckpt/000net_main.pth"),
    "start of train_seg.py": (TRAIN_SEG, "--pretrained", "ckpt/000net_main.pth", "ckpt_aff/aff021908/best.pth"),
    "infer_seg.py": (INFER_SEG, "--weights", f"{RESULT_FOLDER[TRAIN_SEG]}/best.pth", "ckpt/000net_main.pth"),
}


@pytest.fixture(scope="module")
def checkpoints(prepared, tmp_path_factory):
    """who loads -> {name: (suffix, bytes, words)}; attacks write `marker`."""
    marker = tmp_path_factory.mktemp("marker") / "ran"
    e = prepared / "experiment" / "e"
    made = {}
    for who, (script, _, good, other) in LOADERS.items():
        trunk = ResNet38d(2 * WIDTH)
        nets = {TRAIN_AFF: AffinityNet, INFER_AFF: AffinityNet, INFER_SEG: DeepLab}
        wide = nets.get(script, AEFTNet)(trunk)
        made[who] = bad_checkpoints(e / good, e / other, wide.released_state(), marker)
    return marker, made


CHECKPOINT_KINDS = (
    "zero bytes",
    "text",
    "truncated at the start",
    "truncated in the middle",
    "truncated at the end",
    "legacy, truncated",
    "code",
    "code, legacy",
    "code, a bare pickle",
    "packed",
    "of the other network",
    "of another width",
    "an entry missing",
    "NaN",
    "a list",
    "empty state",
    "numbers",
    "safetensors, text",
    "safetensors, truncated",
    "params, truncated",
    "params, text",
    "of no known kind",
)


@pytest.mark.parametrize(
    ("who", "kind"),
    [
        (who, kind)
        for who in LOADERS
        for kind in CHECKPOINT_KINDS
        if not (who.startswith("start") and kind == "of the other network")
    ],
)  # its trunk is as good a start
def test_a_checkpoint_that_is_refused(shared, checkpoints, who, kind):
    marker, kinds = checkpoints
    assert set(kinds[who]) == set(CHECKPOINT_KINDS)
    script, flag = LOADERS[who][:2]
    suffix, data, says = kinds[who][kind]
    path = shared / f"weights{suffix}"
    path.write_bytes(data)
    refuses(shared, script, flag, path, says=[path.name, says])
    assert not marker.exists()


@pytest.mark.parametrize("who", LOADERS)
def test_checkpoints_that_are_no_files(shared, who):
    script, flag = LOADERS[who][:2]
    refuses(shared, script, flag, shared / "none.pth", says=["none.pth", "no such"])
    refuses(shared, script, flag, shared / "set", says=str(shared / "set"))


# ---------------------------------------------------------------- resuming

LOGS = {TRAIN: "log.jsonl", TRAIN_AFF: "log_aff021909.jsonl", TRAIN_SEG: "log_seg_deeplab_resnet38d.jsonl"}
TRAININGS = tuple(LOGS)


@pytest.fixture(scope="module")
def half_run(prepared, tmp_path_factory):
    """script -> a place where one of two epochs is done; every call gives it as new."""
    made = {}

    def get(script):
        if script not in made:
            made[script] = tmp_path_factory.mktemp("half")
            copy(prepared, made[script] / "place")
            works(made[script] / "place", script, *two_epochs(script), "--stop_epoch", 1)
            (made[script] / "place").rename(made[script] / "kept")
        shutil.rmtree(made[script] / "place", ignore_errors=True)
        return copy(made[script] / "kept", made[script] / "place")

    return get


def bad_resume_files(path, other, marker):
    """name -> (bytes, words). path: a good resume file; other: the one of the other training."""
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    without = {k: v for k, v in state.items() if k != "optimizer"}
    net = dict(list(state["net"].items())[:-3])
    torn = state["optimizer"] | {"param_groups": state["optimizer"]["param_groups"][:-1]}
    return {
        "zero bytes": (b"", "is empty"),
        "text": (b"epoch 1\n", "not a whole torch checkpoint"),
        "truncated at the start": (whole[:1000], "not a whole torch checkpoint"),
        "truncated in the middle": (whole[: len(whole) // 2], "not a whole torch checkpoint"),
        "truncated at the end": (whole[:-1], "not a whole torch checkpoint"),
        "code": (torch_bytes(state | {"progress": Runs(marker)}), "io.open, which can run code"),
        "a plain checkpoint": (torch_bytes(state["net"]), "not a resume file"),
        "a list": (torch_bytes([1]), "not a resume file"),
        "a part missing": (torch_bytes(without), "not a resume file"),
        "of the other training": (other.read_bytes(), "resume.pth: "),
        "settings that are none": (torch_bytes(state | {"settings": 3}), "not a resume file"),
        "a network cut short": (torch_bytes(state | {"net": net}), "does not fit"),
        "an optimiser cut short": (torch_bytes(state | {"optimizer": torn}), "does not fit"),
        "progress that is none": (torch_bytes(state | {"progress": {"epoch": 1}}), "not a resume file"),
        "random states that are none": (torch_bytes(state | {"rng": [7]}), "does not fit"),
    }


RESUME_KINDS = (
    "zero bytes",
    "text",
    "truncated at the start",
    "truncated in the middle",
    "truncated at the end",
    "code",
    "a plain checkpoint",
    "a list",
    "a part missing",
    "of the other training",
    "settings that are none",
    "a network cut short",
    "an optimiser cut short",
    "progress that is none",
    "random states that are none",
)


def two_epochs(script):
    return ["--epochs", 2, *(["--T", 2] if script == TRAIN else [])]


def resume_file(place, script):
    return experiment(place, script) / RESULT_FOLDER[script] / "resume.pth"


def resume_flags(script):
    return ["--resume", *two_epochs(script)]


@pytest.mark.parametrize("script", TRAININGS)
@pytest.mark.parametrize("kind", RESUME_KINDS)
def test_a_resume_file_that_is_refused(half_run, script, kind):
    place = half_run(script)
    path = resume_file(place, script)
    other = next(s for s in TRAININGS if s != script)
    kinds = bad_resume_files(path, resume_file(half_run(other), other), place / "ran")
    assert set(kinds) == set(RESUME_KINDS)
    data, says = kinds[kind]
    path.unlink()
    path.write_bytes(data)
    refuses_without_overwrite(place, script, *resume_flags(script), says=["resume.pth", says])
    assert path.read_bytes() == data


def refuses_without_overwrite(place, script, *extra, says):
    given = [k for k in flags(script, place) if k != "--overwrite"]
    before = files(place)
    refused(script, *given, *extra, says=says)
    for path in files(place):
        assert not path.name.endswith(".tmp") and path.name != "ran"
        assert path in before, path


@pytest.mark.parametrize("script", TRAININGS)
def test_a_run_is_resumed_with_other_settings_or_begun_twice(half_run, script):
    place = half_run(script)
    refuses_without_overwrite(place, script, *resume_flags(script), "--lr", 0.5, says="--lr 0.01, not 0.5")
    refuses_without_overwrite(place, script, *resume_flags(script), "--seed", 1, says="--seed 0, not 1")
    refuses_without_overwrite(place, script, says=["holds a run already", "--resume", "--overwrite"])


@pytest.mark.parametrize("script", TRAININGS)
@pytest.mark.parametrize(
    "damage",
    [b'{"epoch": 0, "ste', b"\xff\xfe\n", b"[]\n", b"{}\n", b"\n\n"],
    ids=["half a line", "binary", "a list", "no epoch", "blank lines"],
)
def test_a_damaged_log_does_not_stop_a_run(half_run, script, damage):
    """A full disk leaves half a line in log.jsonl; the run goes on, and the lines of its own are whole."""
    place = half_run(script)
    log = experiment(place, script) / LOGS[script]
    log.write_bytes(log.read_bytes() + damage)
    given = [k for k in flags(script, place) if k != "--overwrite"]
    code, errors = run_here(script, *given, *resume_flags(script))
    assert code == 0, errors
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [0, 1]


# ---------------------------------------------------------------- run.json


@pytest.mark.parametrize(
    ("script", "folder", "result"),
    [(INFER, "dict", "one.npy"), (INFER_AFF, "rw/02_1908", "one.png"), (INFER_SEG, "seg/deeplab_resnet38d", "one.png")],
)
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b"[1, 2]", "unknown origin"),
        (b"3", "unknown origin"),
        (b"{}", "unknown origin"),
        (b'{"settings": 7}', "unknown origin"),
        (b'{"settings": {"weights": 1}}', "other settings"),
    ],
    ids=["zero bytes", "truncated", "binary", "bottomless", "a list", "a number", "nothing", "no settings", "others"],
)
def test_a_run_json_that_is_refused(place, script, folder, result, data, says):
    folder = place / "experiment" / "e" / folder
    folder.mkdir(parents=True, exist_ok=True)
    if script in (INFER_AFF, INFER_SEG):
        (folder / result).write_bytes(b"")
    (folder / "run.json").write_bytes(data)
    refuses(place, script, says=[str(folder), says], name="e")


@pytest.mark.parametrize("script", [INFER_AFF, TRAIN_AFF])
def test_origin_of_the_maps_that_is_broken(place, script):
    (place / "experiment" / "e" / "dict" / "run.json").write_bytes(b"{")
    if script == INFER_AFF:
        refuses(place, script, says=["run.json", "not a JSON file"])
    else:
        works(place, script)


# ---------------------------------------------------------------- where the output goes

OUTPUT = {EVALUATION: "--json", MAKE_LABELS: "--out", MAKE_LISTS: "--out"}  # the others write below --experiment


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_where_the_output_folder_should_be(place, script):
    blocked = place / "blocked"
    extra = []
    if script in RESULT_FOLDER:
        blocked = experiment(place, script) / RESULT_FOLDER[script]
        blocked.parent.mkdir(parents=True, exist_ok=True)
    else:
        extra = [OUTPUT[script], blocked if script == MAKE_LISTS else blocked / "result"]
    blocked.write_text("a file")
    refuses(place, script, *extra, says=str(blocked))
    assert blocked.read_text() == "a file"


@pytest.mark.parametrize("script", [EVALUATION, MAKE_LABELS, MAKE_LISTS])
def test_a_folder_where_the_output_file_should_be(place, script):
    path = place / "taken"
    (path / "train.txt").mkdir(parents=True)
    refuses(place, script, OUTPUT[script], path, says=str(path))
    assert (path / "train.txt").is_dir()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_that_is_too_long_for_a_file(place, script):
    long = "x" * 300
    extra = ["--name", long] if script in NAME else [OUTPUT[script], place / long]
    refuses(place, script, *extra, says=long)


def mount(folder, *options):
    """Mount a small tmpfs at `folder`, or skip where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")


@pytest.fixture
def full_disk(tmp_path):
    """A file system with 16 kilobytes left."""
    mount(tmp_path / "disk", "size=32k")
    (tmp_path / "disk" / "filler").write_bytes(bytes(16 * 1024))
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.fixture
def read_only_disk(tmp_path):
    """A file system mounted read-only: binds root too, unlike permissions."""
    mount(tmp_path / "disk", "size=32k", "ro")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def link_results(place, disk, script):
    """Let what `script` makes land on `disk`; the flags for it."""
    if script not in RESULT_FOLDER:
        return [OUTPUT[script], disk / "out" if script == MAKE_LISTS else disk / "out.npy"]
    folder = experiment(place, script) / RESULT_FOLDER[script]
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(disk)
    return []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_read_only_disk(place, read_only_disk, script):
    extra = link_results(place, read_only_disk, script)
    refuses(place, script, *extra, says=[str(place if script in RESULT_FOLDER else read_only_disk), "Read-only"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_full_disk(place, full_disk, script):
    extra = link_results(place, full_disk, script)
    (full_disk / "more").write_bytes(bytes(4096 * 3))
    if script in (EVALUATION, MAKE_LABELS, MAKE_LISTS):
        (full_disk / "most").write_bytes(bytes(4096))
    refuses(place, script, *extra, says="No space left")
    assert {p.name for p in full_disk.rglob("*") if p.suffix == ".tmp"} == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_without_permission(place, script):
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    folder = place / "locked"
    folder.mkdir(mode=0o555)
    extra = link_results(place, folder, script)
    refuses(place, script, *extra, says="Permission denied")


def test_results_can_go_to_a_pipe(place):
    """--json /dev/stdout: written to as it is, not replaced by a file."""
    pipe = place / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    works(place, EVALUATION, "--json", pipe)
    reader.join()
    assert json.loads(received[0])["task"] == "cam" and pipe.is_fifo()
