"""Flags: what each means for results, where its default comes from, one spelling; the command of the next stage."""

import json
import shlex

import pytest
from conftest import ROOT, load_script, refused, run_here

from engine import flags
from engine.experiment import next_command, scored_list
from engine.flags import CONTENT, FREE
from engine.training import training_ids
from tool.cli import natural
from tool.io.files import UserError


def test_an_unknown_flag_is_one_line_with_the_nearest_one():
    assert "did you mean --width?" in refused("train.py", "--name", "n", "--widht", 1, says="--widht")


SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for folder in ("", "voc12") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("script", [s for s in SCRIPTS if "def get_args_parser" in (ROOT / s).read_text()])
def test_no_flag_may_be_abbreviated(script):
    """`--over` must not be `--overwrite`, which deletes checkpoints."""
    parser = load_script(script).get_args_parser()
    for needed in (*parser._actions, *parser._mutually_exclusive_groups):
        needed.required = False
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    assert len(options) > 3
    for option in options:
        for short in {option[:-1], option[:5]} - {*options}:
            assert parser.parse_known_args([short])[1] == [short]


def test_an_abbreviated_flag_is_refused_with_the_whole_one():
    assert "did you mean --overwrite?" in refused("train.py", "--name", "n", "--overw", says="--overw")


def test_every_default_is_shown_and_no_flag_stands_outside_the_groups():
    for script in ("train.py", "infer.py", "train_aff.py", "infer_aff.py", "evaluation.py", "report.py"):
        parser = load_script(script).get_args_parser()
        for action in parser._actions:
            if action.default not in (None, "==SUPPRESS==") and action.dest != "help":
                shown = parser.formatter_class("")._get_help_string(action)
                assert "(default" in shown, (script, action.dest)
        assert [a.dest for a in parser._action_groups[1]._group_actions] == ["help"]


def test_released_flags_without_effect_are_taken_and_named_once(tmp_path):
    code, errors = run_here("train.py", "--name", "n", "--voc12_root", tmp_path, "--print_freq", 100)
    assert code == 2  # there is no list
    assert errors.count("--print_freq has no effect") == 1


def test_a_crop_is_square():
    refused("train.py", "--name", "n", "--crop", 320, 240, says="square")


# ---------------------------------------------------------------- what a flag means for results

# What says where, how fast and how often, and what results are made: none of it is in the numbers of a file.
PLACES = {"name", "experiment", "voc12_root"}
RUNNING = {"device", "num_workers", "on_error", "check", "overwrite"}
TRAINING = PLACES | RUNNING | {"resume", "stop_epoch", "keep", "log_every", "print_freq"}
LABELLING = PLACES | RUNNING | {"crf_workers", "vis", "weights", "seed"}
WIDTHS = {"sxy", "srgb", "sxy_side"}  # which settings have where they are not released
PHOTOGRAPHS = LABELLING | {"infer_list", "images", "out", "crf"}
FREE_FLAGS = {
    "train.py": TRAINING,
    "train_aff.py": TRAINING | WIDTHS,
    "train_seg.py": TRAINING,
    "infer.py": PHOTOGRAPHS | WIDTHS | {"dict", "alphas", "png", "refine", "mean_of"},  # each alpha has a folder
    "infer_aff.py": LABELLING | WIDTHS | {"train_list", "val_list", "crop_size"},
    "infer_seg.py": PHOTOGRAPHS | {"server", "refine"},
}
# files: what counts is what is in them
CONTENT_FLAGS = {"classes", "cls_labels", "train_list", "val_list", "labels", "corrected", "pretrained"}


@pytest.mark.parametrize("script", FREE_FLAGS)
def test_every_flag_that_is_not_known_to_be_free_determines_results(script):
    flags_of = load_script(script).get_args_parser().roles
    roles = {role: {name for name, its in flags_of.items() if its == role} for role in (FREE, CONTENT)}
    assert roles[FREE] == FREE_FLAGS[script]
    words = {"labels"} if script.startswith("infer") else set()  # there it is `given` or another word
    assert roles[CONTENT] == CONTENT_FLAGS & {*flags_of} - FREE_FLAGS[script] - words


@pytest.mark.parametrize("script", FREE_FLAGS)
def test_an_experiment_remembers_data_and_network(script):
    words = ["--name", "no_such", "--low", "1", "--high", "2", "--dup", "1", "--labels", "given", "--load_epo", "0"]
    parser = load_script(script).get_args_parser()
    known = parser.parse_known_args(words)[0]
    data = {"voc12_root", "classes"} | ({"cls_labels"} if "cls_labels" in known else set())
    network = {"trunk", "output_stride", "width"} | ({"model", "pool"} if "pool" in known else set())
    kept = parser.remembered
    assert kept.keys() == data | network and all(isinstance(getattr(known, name), kept[name] | None) for name in kept)


def stage(tmp_path, monkeypatch):
    """A parser with a flag of each kind, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    parser = flags.Parser("stage.py", "")
    flags.add_experiment(parser)
    flags.add_data(parser, labels=False)
    parser.method("--power", type=natural, default=1, help="")
    parser.network("--width", remembered=float | int, type=float, default=1.0, help="")
    parser.method("--range", type=natural, nargs=2, default=[1, 2], metavar=("MIN", "MAX"), help="")
    parser.method("--other", role=CONTENT, default=None, help="")
    parser.add_presets(parser.schedule, "--recipe", {"ours": {"power": 3}, "theirs": {"power": 5}}, "")
    parser.run("--fast", action="store_true", help="")
    parser.ignore("old")
    return parser


def test_results_and_remembered_follow_from_what_is_said_of_each_flag(tmp_path, monkeypatch):
    args = stage(tmp_path, monkeypatch).parse_args(["--name", "n", "--fast", "--other", "x", "--width", "0.5"])
    assert args.results == {"power": 3, "width": 0.5, "range": [1, 2], "recipe": "ours"}
    assert {*args.remembered} == {"voc12_root", "classes", "width"} and args.remembered["width"] == float | int
    assert args.script == "stage.py" and not args.begins


@pytest.mark.parametrize(
    ("words", "power"),
    [([], 3), (["--recipe", "theirs"], 5), (["--recipe", "theirs", "--power", "9"], 9), (["--power", "1"], 1)],
)
def test_a_preset_is_a_default_of_the_second_pass(tmp_path, monkeypatch, words, power):
    parser = stage(tmp_path, monkeypatch)
    assert parser.parse_args(["--name", "n", *words]).power == power


def test_what_an_experiment_remembers_is_a_default_of_the_second_pass(tmp_path, monkeypatch):
    parser = stage(tmp_path, monkeypatch)
    (tmp_path / "experiment" / "n").mkdir(parents=True)
    (tmp_path / "experiment" / "n" / "settings.json").write_text(json.dumps({"width": 0.25, "power": 8}))
    args = parser.parse_args(["--name", "n"])
    assert args.width == 0.25 and args.power == 3  # what is not remembered is not read
    with pytest.raises(UserError, match="--width 0.5: .*has width 0.25"):
        parser.parse_args(["--name", "n", "--width", "0.5"])
    assert stage(tmp_path, monkeypatch).parse_args(["--name", "other"]).width == 1.0


def light(*words):
    """A parser with defaults of another trunk and of another data set."""
    parser = flags.Parser("stage.py", "")
    flags.add_experiment(parser)
    flags.add_data(parser, labels=False)
    flags.add_trunk(parser)
    parser.method("--rate", type=float, default=0.5, help="rate")
    parser.method("--half", type=natural, default=9, help="half")
    parser.method("--power", type=natural, default=19, help="power", chosen=lambda first: first.rate != 7)
    parser.add_presets(parser.schedule, "--recipe", {"ours": {"rate": 0.5}, "theirs": {"rate": 4}}, "")
    parser.add_other({"rate": 8.0, "half": flags.Following("as the rate says", lambda args: int(args.rate) // 2)})
    parser.add_other({"power": 8}, data=True)
    return parser if not words else parser.parse_args(["--name", "n", *words])


@pytest.mark.parametrize(
    ("words", "rate", "half", "power"),
    [
        (["--voc12_root", "VOC"], 0.5, 9, 19),
        (["--voc12_root", "own"], 0.5, 9, 8),
        (["--voc12_root", "drawn"], 0.5, 9, 19),  # of VOC's classes, as make_toy.py's
        (["--voc12_root", "VOC", "--trunk", "timm:x"], 8.0, 4, 8),
        (["--voc12_root", "VOC", "--trunk", "timm:x", "--rate", "2", "--power", "3"], 2.0, 1, 3),
        (
            ["--voc12_root", "VOC", "--trunk", "timm:x", "--recipe", "theirs"],
            4,
            9,
            19,
        ),  # a recipe that is given is whole
    ],
)
def test_another_trunk_and_another_data_set_have_defaults_of_their_own(tmp_path, monkeypatch, words, rate, half, power):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "VOC").mkdir()
    for name in ("own", "drawn"):
        (tmp_path / name / "ImageSets/Segmentation").mkdir(parents=True)
        (tmp_path / name / "ImageSets/Segmentation/train.txt").write_text("a")
    (tmp_path / "own/classes.txt").write_text("a")
    args = light(*words)
    assert (args.rate, args.half, args.power) == (rate, half, power)


def test_both_defaults_stand_in_the_help():
    shown = " ".join(light().format_help().split())
    assert (
        "rate (default: 0.5; another trunk: 8.0)" in shown and "half (default: 9; another trunk: as the rate" in shown
    )
    assert "power (default: 19; another trunk or data set: 8)" in shown


def test_the_trunk_of_the_experiment_counts_and_what_was_chosen_wins_over_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment" / "n").mkdir(parents=True)
    settings = {"trunk": "timm:x", "chosen": {"dup": 4, "of": "3 masks of few.txt"}}
    (tmp_path / "experiment" / "n" / "settings.json").write_text(json.dumps(settings))
    assert light("--rate", "6").half == 3 and light("--rate", "6").power == 8
    monkeypatch.setattr("engine.experiment.CHOICES", {"power": int})
    settings["chosen"]["power"] = 4
    (tmp_path / "experiment" / "n" / "settings.json").write_text(json.dumps(settings))
    assert capsys.readouterr().out == "" and light("--rate", "6").power == 4
    assert capsys.readouterr().out == "choose.py chose on 3 masks of few.txt: --power 4\n"
    assert light("--rate", "6", "--power", "5").power == 5 and light("--rate", "7").power == 8  # given; not taken
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("images", "epochs"), [(1200, 8), (272, 35), (60, 40), (5, 40), (10582, 4)])
def test_epochs_of_another_trunk_follow_from_the_list(tmp_path, images, epochs):
    (tmp_path / "list.txt").write_text("\n".join(f"i{k}" for k in range(images)))
    words = ["--name", "n", "--train_list", tmp_path / "list.txt", "--trunk", "timm:test_vit", "--experiment", tmp_path]
    args = load_script("train.py").get_args_parser().parse_args(list(map(str, words)))
    assert (args.epochs, args.T, args.output_stride) == (epochs, epochs // 2, 16)
    assert (args.optimizer, args.lr, args.scratch_lr_mult, args.W) == ("adamw", 2e-4, 10.0, [1.0, 1.0, 0.03])


def test_ranges_and_flags_without_effect(tmp_path, monkeypatch, capsys):
    parser = stage(tmp_path, monkeypatch)
    assert parser.parse_args(["--name", "n", "--range", "2", "2"]).range == [2, 2]
    with pytest.raises(UserError, match="--range 3 2: MIN must not be above MAX"):
        parser.parse_args(["--name", "n", "--range", "3", "2"])
    args = parser.parse_args(["--name", "n", "--old", "7", "8"])
    assert capsys.readouterr().err == "warning: --old has no effect\n" and "old" not in vars(args)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_is_one_folder(name):
    refused("infer.py", "--name", name, says="is not a name for a folder")


# ---------------------------------------------------------------- the next command


def test_the_next_command_says_what_its_experiment_does_not_remember(tmp_path, monkeypatch):
    parser = stage(tmp_path, monkeypatch)
    args = parser.parse_args(["--name=-a b", "--width", "0.5"])
    assert shlex.split(next_command("x.py", args, epoch=3)) == [
        "python",
        "x.py",
        "--name=-a b",
        "--width",
        "0.5",
        "--epoch",
        "3",
    ]
    assert shlex.split(next_command("evaluation.py", args)) == ["python", "evaluation.py", "--name=-a b"]
    (tmp_path / "my set").mkdir()
    args = parser.parse_args(["--name", "n", "--experiment", "e", "--voc12_root", "my set"])
    command = shlex.split(next_command("x.py", args))
    assert command == ["python", "x.py", "--name", "n", "--experiment", "e", "--voc12_root", "my set"]
    (tmp_path / "e" / "n").mkdir(parents=True)
    (tmp_path / "e" / "n" / "settings.json").write_text(json.dumps({"voc12_root": "my set"}))
    assert shlex.split(next_command("x.py", args)) == command[:-2]


def test_results_of_training_images_are_scored_where_masks_are(tmp_path):
    assert scored_list("voc12/train_aug.txt") == "voc12/train.txt" and scored_list("x.txt") == "x.txt"
    assert scored_list(str(tmp_path / "train.txt")) == str(tmp_path / "train.txt")
    (tmp_path / "masks.txt").touch()
    assert scored_list(str(tmp_path / "train.txt")) == str(tmp_path / "masks.txt")
    assert scored_list(str(tmp_path / "val.txt")) == str(tmp_path / "val.txt")


def test_default_batches_are_no_larger_than_the_set_and_given_ones_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = load_script("train.py")
    given = ["--name", "n", "--on_error", "skip", "--train_list"]
    for count in (5, 20):
        (tmp_path / f"{count}.txt").write_text("".join(f"{k}\n" for k in range(count)))
    args = script.get_args_parser().parse_args([*given, "5.txt", "--batch_size_triplet", "32"])
    assert training_ids(args) == list("01234")
    assert (args.batch_size, args.batch_size_triplet) == (5, 32)
    args = script.get_args_parser().parse_args([*given, "20.txt"])
    training_ids(args)
    assert (args.batch_size, args.batch_size_triplet) == (8, 20)


def test_a_data_set_that_is_not_there(tmp_path):
    says = f"--voc12_root {tmp_path / 'gone'}: no such folder"
    refused("train.py", "--name", "n", "--voc12_root", tmp_path / "gone", says=says)
