"""Defaults of flags: what an experiment remembers, and what a data set's folder says of itself."""

import shutil
from pathlib import Path

import pytest

from engine.experiment import remember
from engine.flags import Parser, add_common, add_data, add_trunk
from tool.io.files import UserError

SETS = ("VOC", "own")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a kit of VOC and a data set of one's own, three images each."""
    monkeypatch.chdir(tmp_path)
    for name in SETS:
        photos, lists = Path(name) / "JPEGImages", Path(name) / "ImageSets" / "Segmentation"
        photos.mkdir(parents=True)
        lists.mkdir(parents=True)
        for k in range(3):
            (photos / f"{name}{k}.jpg").write_bytes(name.encode() * (k + 1))
        (lists / "train.txt").write_text("a\n")
        (lists / "val.txt").write_text("b\n")
    (Path("VOC") / "ImageSets" / "Main").mkdir()
    (Path("VOC") / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    (Path("own") / "classes.txt").write_text("zebra\nlion\n")
    return tmp_path


def parse(*argv, begins=False):
    """Arguments of a stage with the flags that are remembered and two lists."""
    parser = Parser("stage.py", "", begins=begins)
    add_common(parser)
    add_data(parser)
    add_trunk(parser)
    parser.add_list("--train_list", "voc12/train_aug.txt", "train", "")
    parser.add_list("--val_list", "voc12/train.txt", "val", "")
    parser.run("--resume", action="store_true")
    return parser.parse_args(["--name", "n", *map(str, argv)])


def train(*argv):
    """Begin an experiment, up to its first checkpoint."""
    args = parse(*argv, begins=True)
    remember(args)
    checkpoints = Path("experiment/n/ckpt")
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / "000net_main.pth").touch()
    return args


def test_voc_keeps_the_released_defaults(here):
    args = parse("--voc12_root", "VOC")
    assert (args.train_list, args.val_list, args.classes) == ("voc12/train_aug.txt", "voc12/train.txt", None)
    assert args.cls_labels is None  # the released file is not there
    Path("voc12").mkdir()
    Path("voc12/cls_labels.npy").touch()
    assert parse("--voc12_root", "VOC").cls_labels == "voc12/cls_labels.npy"


def test_a_folder_says_all_that_is_to_be_known_of_it(here):
    Path("own/cls_labels.npy").touch()
    args = parse("--voc12_root", "own")
    assert args.classes == "own/classes.txt"
    assert args.cls_labels == "own/cls_labels.npy"
    assert args.train_list == "own/ImageSets/Segmentation/train.txt"
    assert args.val_list == "own/ImageSets/Segmentation/val.txt"
    Path("own/ImageSets/Segmentation/val.txt").unlink()
    assert parse("--voc12_root", "own").val_list == "none"


def test_the_released_label_table_is_not_asked_about_other_images(here):
    Path("voc12").mkdir()
    Path("voc12/cls_labels.npy").touch()
    assert parse("--voc12_root", "own").cls_labels is None


def test_an_explicit_flag_wins_over_the_folder(here):
    Path("mine.txt").write_text("cow\n")
    args = parse("--voc12_root", "own", "--classes", "mine.txt", "--train_list", "x/y.txt")
    assert (args.classes, args.train_list) == ("mine.txt", "x/y.txt")


def test_a_bare_name_is_a_list_of_the_data_set(here):
    assert parse("--voc12_root", "VOC", "--val_list", "val").val_list == "VOC/ImageSets/Segmentation/val.txt"
    assert parse("--voc12_root", "VOC", "--val_list", "none").val_list == "none"
    Path("plain").write_text("a\n")
    assert parse("--val_list", "plain").val_list == "plain"


def test_later_stages_take_what_the_experiment_began_with(here):
    train("--voc12_root", "own", "--width", 0.25)
    args = parse()
    assert (args.voc12_root, args.classes, args.width) == ("own", "own/classes.txt", 0.25)
    assert args.train_list == "own/ImageSets/Segmentation/train.txt"
    assert parse("--voc12_root", "./own", "--width", 0.25).width == 0.25  # the same, said again


@pytest.mark.parametrize(
    ("flag", "value", "stored"),
    [("--width", 0.5, "0.25"), ("--voc12_root", "VOC", "own"), ("--classes", "other.txt", "own/classes.txt")],
)
def test_a_contradiction_is_refused_with_both_values(here, flag, value, stored):
    Path("other.txt").write_text("cow\n")
    train("--voc12_root", "own", "--width", 0.25)
    with pytest.raises(UserError) as error:
        parse(flag, value)
    assert f"{flag} {value}" in str(error.value)
    assert stored in str(error.value)
    assert "settings.json" in str(error.value)


def test_the_same_names_in_another_file_are_no_contradiction(here):
    train("--voc12_root", "own")
    shutil.copy("own/classes.txt", "copy.txt")
    assert parse("--classes", "copy.txt").classes == "copy.txt"


def test_training_anew_forgets_but_resuming_does_not(here):
    train("--voc12_root", "own", "--width", 0.25)
    assert parse(begins=True).width == 0.25
    assert parse("--overwrite", begins=True).width == 1.0
    shutil.rmtree("experiment/n/ckpt")  # the first try died before its first checkpoint
    assert parse("--width", 0.5, begins=True).width == 0.5


def test_a_data_set_that_was_moved_or_copied(here):
    train("--voc12_root", "own")
    shutil.copytree("own", "copy")
    args = parse("--voc12_root", "copy")
    assert (args.voc12_root, args.classes) == ("copy", "copy/classes.txt")
    Path("own").rename("elsewhere")
    args = parse("--voc12_root", "elsewhere", begins=True)
    assert args.classes == "elsewhere/classes.txt"
    remember(args)
    assert parse().voc12_root == "elsewhere"


@pytest.mark.parametrize("text", ["{", "[]", '{"width": "wide"}', '{"voc12_root": 3}'])
def test_damaged_settings_are_refused(here, text):
    train("--voc12_root", "own")
    Path("experiment/n/settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json"):
        parse()
