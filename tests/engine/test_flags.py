"""Flags: what each means for results, where its default comes from, one spelling; the command of the next stage."""

import json
import shlex

import pytest
from conftest import ROOT, load_script, refused, run_here

from engine import flags
from engine.experiment import next_command, scored_list
from engine.flags import CONTENT, FREE
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
TRAINING = PLACES | RUNNING | {"resume", "stop_epoch", "keep", "print_freq"}
LABELLING = PLACES | RUNNING | {"crf_workers", "vis", "weights", "seed"}
PHOTOGRAPHS = LABELLING | {"infer_list", "images", "out", "crf"}
FREE_FLAGS = {
    "train.py": TRAINING,
    "train_aff.py": TRAINING,
    "train_seg.py": TRAINING,
    "infer.py": PHOTOGRAPHS | {"dict", "alphas"},  # each alpha has a folder
    "infer_aff.py": LABELLING | {"train_list", "val_list", "crop_size"},
    "infer_seg.py": PHOTOGRAPHS | {"server"},
}
# files: what counts is what is in them
CONTENT_FLAGS = {"classes", "cls_labels", "train_list", "val_list", "labels", "pretrained"}


@pytest.mark.parametrize("script", FREE_FLAGS)
def test_every_flag_that_is_not_known_to_be_free_determines_results(script):
    flags_of = load_script(script).get_args_parser().roles
    roles = {role: {name for name, its in flags_of.items() if its == role} for role in (FREE, CONTENT)}
    assert roles[FREE] == FREE_FLAGS[script]
    words = {"labels"} if script == "infer.py" else set()  # there it is `given` or `predicted`
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
    args = parser.parse_args(["--name", "n", "--experiment", "e", "--voc12_root", "my set"])
    command = shlex.split(next_command("x.py", args))
    assert command == ["python", "x.py", "--name", "n", "--experiment", "e", "--voc12_root", "my set"]
    (tmp_path / "e" / "n").mkdir(parents=True)
    (tmp_path / "e" / "n" / "settings.json").write_text(json.dumps({"voc12_root": "my set"}))
    assert shlex.split(next_command("x.py", args)) == command[:-2]


def test_results_of_vocs_training_images_are_scored_where_masks_are():
    assert scored_list("voc12/train_aug.txt") == "voc12/train.txt" and scored_list("x.txt") == "x.txt"
