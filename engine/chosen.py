"""What choose.py chose on masks: kept in an experiment's settings.json, the defaults of its later stages."""

from engine.experiment import CHOSEN, read_settings
from tool.cli import shown
from tool.io.files import UserError, read_json, write_json

NUMBER = int | float
KINDS = {"threshold": NUMBER, "low": int, "high": int, "dup": int, "alphas": list, "beta": NUMBER}
KINDS |= {"sxy": NUMBER, "srgb": NUMBER, "sxy_side": int}


def read_chosen(experiment):
    """({flag's dest: value}, "20 masks of few.txt"); ({}, "") where nothing was chosen. UserError: damaged."""
    kept = read_settings(experiment.settings, {CHOSEN: dict}).get(CHOSEN)
    if kept is None:
        return {}, ""
    values = {name: kept[name] for name in KINDS if name in kept}
    for name, value in values.items():
        if not isinstance(value, KINDS[name]) or (name == "alphas" and not all(isinstance(a, int) for a in value)):
            raise UserError(f"{experiment.settings}: {name} is {str(value)[:50]!r}; run choose.py again")
    return values, str(kept.get("of"))


def write_chosen(experiment, values, about, figures):
    """Keep what was chosen, and how it scored. values: {flag's dest: value}; about: of how many masks of which list."""
    path = experiment.settings
    settings = read_json(path) if path.is_file() else {}
    write_json(path, settings | {CHOSEN: values | {"of": about, "figures": figures}})


def describe_chosen(values, about):
    """The line of a stage that takes them as defaults."""
    return f"choose.py chose on {about}: {' '.join(f'--{name} {shown(value)}' for name, value in values.items())}"
