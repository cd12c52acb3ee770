"""Defaults of flags: what an experiment remembers, and what a data set's folder says of itself."""

import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from engine.experiment import Experiment, next_command, read_chosen, remember, write_chosen
from engine.flags import Parser, add_common, add_data, add_trunk
from tool.io.files import UserError
from voc12.classes import load_classes

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
    parser.add_list("--list", "voc12/train.txt", "masks", "")
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
    assert args.list == args.train_list
    Path("own/ImageSets/Segmentation/masks.txt").touch()
    Path("own/ImageSets/Segmentation/val.txt").unlink()
    args = parse("--voc12_root", "own")
    assert (args.val_list, args.list) == ("none", "own/ImageSets/Segmentation/masks.txt")


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


def test_what_was_chosen_goes_with_the_maps_of_a_training_that_is_begun_anew(here):
    experiment = Experiment("experiment", "n")
    train("--voc12_root", "own")
    write_chosen(experiment, {"dup": 7}, "3 masks", {})
    remember(parse("--resume", begins=True))
    assert read_chosen(experiment) == ({"dup": 7}, "3 masks")
    remember(parse("--voc12_root", "own", "--overwrite", begins=True))
    assert read_chosen(experiment) == ({}, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alphas", []),
        ("alphas", 4),
        ("alphas", [0]),
        ("alphas", [True]),
        ("sxy", 1e300),
        ("sxy", "80"),
        ("srgb", 0),
        ("low", -3),
    ]
    + [("dup", 500), ("dup", [4]), ("dup", "x"), ("sxy_side", -5), ("beta", -1), ("threshold", 5), ("refine", "zzz")],
)
def test_choices_that_no_flag_takes_are_refused(here, name, value):
    train("--voc12_root", "own")
    fine = {"alphas": [2, 4], "sxy": 80.0, "srgb": 5, "sxy_side": 0, "beta": 8, "threshold": 0.2, "refine": "par"}
    experiment = Experiment("experiment", "n")
    write_chosen(experiment, fine, "3 masks", {})
    assert read_chosen(experiment) == (fine, "3 masks")
    write_chosen(experiment, fine | {name: value}, "3 masks", {})
    with pytest.raises(UserError, match=f"settings.json: {name} is .*; run choose.py again"):
        read_chosen(experiment)


def test_what_was_skipped_is_skipped_by_the_next_stage(here):
    args = train("--voc12_root", "own", "--on_error", "skip")
    assert next_command("infer.py", args, load_epo=0) == "python infer.py --name n --on_error skip --load_epo 0"
    assert next_command("evaluation.py", args, task="cam") == "python evaluation.py --name n --task cam"


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


def test_class_names_are_known_without_the_data_set(here):
    train("--voc12_root", "own")
    Path("own").rename("elsewhere")
    args = parse()
    assert load_classes(args.classes) == ("zebra", "lion")
    assert next_command("stage.py", args) == "python stage.py --name n"
    assert parse("--classes", "elsewhere/classes.txt").classes == "elsewhere/classes.txt"
    Path("other.txt").write_text("lion\nzebra\n")
    with pytest.raises(UserError, match="--classes other.txt: "):
        parse("--classes", "other.txt")
    Path("experiment/n").rename("experiment/moved")
    assert load_classes(parse("--name", "moved").classes) == ("zebra", "lion")
    remember(parse("--name", "moved", "--width", 0.5, "--overwrite", begins=True))
    Path("experiment/n").mkdir()
    Path("experiment/n/settings.json").write_text('{"voc12_root": "own", "classes": "own/classes.txt"}')  # of before
    assert parse().classes == "own/classes.txt"
    Path("experiment/n/settings.json").write_text('{"classes": "gone", "class_names": ["a", 3]}')
    with pytest.raises(UserError, match="settings.json: needs 1 to 254 different class names"):
        load_classes(parse().classes)


@pytest.mark.parametrize("text", ["{", "[]", '{"width": "wide"}', '{"voc12_root": 3}'])
def test_damaged_settings_are_refused(here, text):
    train("--voc12_root", "own")
    Path("experiment/n/settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json"):
        parse()


# ---------------------------------------------------------------- paths

POWERS, SMP = (2, 21, 9), "smp:Unet:resnet18"
PATHS = {
    "settings.json": lambda e: e.settings,
    "report": lambda e: e.report,
    "ckpt/007net_main.pth": lambda e: e.classifier.checkpoint(7),
    "dict": lambda e: e.maps,
    "vis": lambda e: e.overlays,
    "crf/02": lambda e: e.crf(2),
    "ckpt_aff/aff022109/07.pth": lambda e: e.affinity(POWERS).checkpoint(7),
    "ckpt_aff/aff022109/best.pth": lambda e: e.affinity(POWERS).best,
    "rw/02_2109": lambda e: e.walk(POWERS),
    "rw_vis/02_2109": lambda e: e.walk(POWERS, overlays=True),
    "ckpt_seg/smp-Unet-resnet18/12.pth": lambda e: e.segmentation(SMP).checkpoint(12),
    "ckpt_seg/smp-Unet-resnet18/best.pth": lambda e: e.segmentation(SMP).best,
    "seg/smp-Unet-resnet18": lambda e: e.segmented(SMP),
    "seg_crf/smp-Unet-resnet18": lambda e: e.segmented(SMP, crf=True),
    "seg_vis/smp-Unet-resnet18": lambda e: e.segmented(SMP, overlays=True),
    "seg_crf_vis/smp-Unet-resnet18": lambda e: e.segmented(SMP, crf=True, overlays=True),
    "seg_crf": lambda e: e.segmented(None, crf=True),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path(path):
    assert PATHS[path](Experiment("root", "n")) == Path("root/n") / path


def test_logs_are_named_after_what_is_trained():
    experiment = Experiment("root", "n")
    places = (experiment.classifier, experiment.affinity(POWERS), experiment.segmentation(SMP))
    assert [place.log for place in places] == ["log", "log_aff022109", "log_seg_smp-Unet-resnet18"]
    assert experiment.classifier.best is None
    assert Experiment.of(Namespace(experiment="root", name="n")).folder == experiment.folder


def test_names_with_colons_of_older_versions_are_found(tmp_path):
    experiment, old, new = Experiment(tmp_path, "n"), f"seg/{SMP}", "seg/smp-Unet-resnet18"
    assert experiment.segmented(SMP) == tmp_path / "n" / new
    (tmp_path / "n" / old).mkdir(parents=True)
    (tmp_path / "n" / "ckpt_seg" / SMP).mkdir(parents=True)
    assert experiment.segmented(SMP) == tmp_path / "n" / old
    assert experiment.labels(new) == experiment.labels(old) == tmp_path / "n" / old
    assert experiment.segmentation(SMP).log == f"log_seg_{SMP}"
    (tmp_path / "n" / old).rename(tmp_path / "n" / new)
    assert experiment.segmented(SMP) == experiment.labels(old) == tmp_path / "n" / new


def test_labels_are_of_the_experiment_or_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("masks").mkdir()
    experiment = Experiment("root", "n")
    assert experiment.labels("masks") == Path("masks")
    Path("root/n/masks").mkdir(parents=True)
    assert experiment.labels("masks") == Path("root/n/masks")
    with pytest.raises(UserError, match="--labels: root/n/rw/02_2109: no such folder; infer_aff.py"):
        experiment.labels("rw/02_2109")


def test_the_newest_checkpoint_is_the_first(tmp_path):
    place = Experiment(tmp_path, "n").classifier
    assert place.newest() == []
    place.folder.mkdir(parents=True)
    for name in ("002net_main.pth", "010net_main.pth", "resume.pth", "best.pth"):
        (place.folder / name).touch()
    assert place.newest() == [place.checkpoint(10), place.checkpoint(2)]
