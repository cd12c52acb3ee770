"""Flags: one spelling, every default shown; what is not known is refused in one line."""

import pytest
from conftest import ROOT, load_script, refused, run_here


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
