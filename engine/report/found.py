"""Which stages of an experiment are there, finished or not, read without disturbing one that runs (docs/outputs.md)."""

import json
from pathlib import Path
from typing import NamedTuple

from engine.experiment import SEGMENTED
from tool.io.files import RUN_FILE, UserError, portable, read_json
from tool.results import SUFFIX


class Kind(NamedTuple):
    """One stage of the method. folders: a pattern of its outputs, in the experiment; task: evaluation.py's.

    made_by: None of what is not missed where it is not there.
    """

    title: str
    made_by: str | None
    folders: str
    task: str | None = None
    logs: str | None = None  # pattern of its logs; {} is the name of the output folder

    @property
    def is_segmentation(self):
        return self.folders.split("/")[0] in SEGMENTED


KINDS = (
    Kind("Classifier", "train.py", "ckpt", logs="log.jsonl"),
    Kind("Class activation maps", "infer.py --dict", "dict", "cam"),
    Kind("Dense CRF", "infer.py --crf", "crf/*", "crf"),
    Kind(
        "Dense CRF, labels", None, "crf_png/[0-9][0-9]", "png"
    ),  # LOW_HIGH are no results: not every pixel has a label
    Kind("AffinityNet", "train_aff.py", "ckpt_aff/*", logs="log_{}.jsonl"),
    Kind("Pseudo labels", "infer_aff.py", "rw/*", "png"),
    Kind("Segmentation network", "train_seg.py", "ckpt_seg/*", logs="log_seg_{}.jsonl"),
    Kind("Segmentation", "infer_seg.py", f"{SEGMENTED[0]}/*", "png"),
    Kind("Segmentation, CRF", "infer_seg.py --crf", f"{SEGMENTED[1]}/*", "png"),
)


class Stage(NamedTuple):
    """One output folder. name: below the experiment; record: its run.json, {} where there is none that can be read."""

    kind: Kind
    name: str
    folder: Path
    record: dict
    epochs: list  # the lines of a training's log

    @property
    def title(self):
        """That of its kind; what --refine par made is no CRF's."""
        par = self.record.get("settings", {}).get("refine") == "par"
        return self.kind.title.replace("Dense CRF", "PAR") if par else self.kind.title

    def path(self, image_id):
        return self.folder / f"{image_id}.{SUFFIX[self.kind.task]}"

    def state(self):
        """How far it is, in words."""
        if self.kind.logs:
            planned = self.record.get("settings", {}).get("epochs")
            return f"{len(self.epochs)}{f' of {planned}' if planned else ''} epochs"
        if not self.record:
            return f"no {RUN_FILE}: files of another tool"
        return "finished" if self.record.get("ended") else "running, or stopped before its end"


def find_stages(experiment):
    """The stages whose outputs are there, in the method's order; UserError where there is none at all."""
    if not experiment.is_dir():
        raise UserError(f"{experiment}: no such experiment; check --name and --experiment, or run train.py")
    stages = stages_of(experiment, KINDS)
    if not stages:
        raise UserError(f"{experiment}: no result of any stage there; run train.py --name {experiment.name} first")
    return stages


def find_results_of(folder):
    """The stages that infer.py and infer_seg.py, with --images PATH --out FOLDER, left there; UserError without any."""
    kinds = [kind._replace(folders=kind.folders.removesuffix("/*" * kind.is_segmentation)) for kind in KINDS]
    stages = stages_of(folder, [kind for kind in kinds if kind.task])
    if not stages:
        raise UserError(f"{folder}: no results there; infer.py --images PATH --out {folder} makes some")
    return stages


def stages_of(place, kinds):
    folders = ((kind, folder) for kind in kinds for folder in sorted(place.glob(kind.folders)))
    there = {}
    for kind, folder in folders:
        log = place / kind.logs.format(folder.name) if kind.logs else None
        stage = Stage(kind, folder.relative_to(place).as_posix(), folder, record_of(folder), read_log(log))
        pattern = f"*.{SUFFIX[kind.task]}" if kind.task else "*.pth"
        if folder.is_dir() and (stage.record or stage.epochs or any(folder.rglob(pattern))):
            there[stage.name] = stage
    twice = {name.replace("crf/", "crf_png/") for name in there if name.startswith("crf/")}  # labels of these scores
    return [stage for name, stage in there.items() if name not in twice]


def record_of(folder):
    """run.json of a folder; {} where there is none, or none that can be read."""
    record = read_dict(folder / RUN_FILE)
    return record if isinstance(record.get("settings"), dict) else {}


def read_log(path):
    """The records of a log.jsonl, one an epoch; a line that is cut off, as a running or killed training leaves it, is
    passed over, and of two of one epoch the last counts."""
    records = {}
    if path is not None and path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                records[int(record["epoch"])] = record | {"epoch": int(record["epoch"])}
            except (ValueError, TypeError, KeyError, OverflowError):
                continue
    return [records[epoch] for epoch in sorted(records)]


def missing_kinds(stages):
    """The kinds without any output."""
    there = {stage.kind for stage in stages}
    return [kind for kind in KINDS if kind.made_by and kind not in there]


class Found(NamedTuple):
    """A result that evaluation.py wrote. same: whether its folder still holds what was scored; None: not known."""

    path: Path
    result: dict
    ended: str | None
    same: bool | None


def find_results(experiment):
    """JSON files of evaluation.py in the experiment's folder."""
    found = []
    for path in sorted(experiment.glob("*.json")):
        result, record = read_dict(path), read_dict(path.with_suffix(".run.json"))
        if {"task", "list", "dict_dir"} <= result.keys() and is_number(result.get("miou")):
            now = record_of(portable(experiment / str(result["dict_dir"]))).get("origin")
            origin = record.get("origin")
            scored = origin.get("origin") if isinstance(origin, dict) else None
            found.append(Found(path, result, record.get("ended"), now == scored if now and scored else None))
    return found


def read_dict(path):
    """A JSON file's dict; {} where it is none, or cannot be read."""
    try:
        value = read_json(path)
    except (UserError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
