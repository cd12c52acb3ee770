"""run.json: what made the files of an output folder, so that results of two origins are never mixed in silence.

{"origin": 16 hex digits of settings and version, "settings": what determines the results, and of the last run:
"command", "arguments", "version", "seed", "packages", "device", "processes", "lists", "weights", "started", "ended",
"summary" (null while it runs, and for ever where it was killed); "earlier": the same of runs before it}

Every score file and pseudo label carries its `origin` (tool/io/scores.py: file_origin), so that one copied from another
experiment is found.
"""

import importlib.metadata
import platform
import shlex
import sys
import time
from collections import Counter
from pathlib import Path

from tool import VERSION
from tool.io.files import RUN_FILE, UserError, file_hash, fingerprint, read_record, write_json
from tool.io.scores import file_origin

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydensecrf2")


def installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def this_run(args, world, lists=(), weights=None):
    """What a record says of the run that begins now. lists: paths of the lists it reads; weights: path of its weights.

    Lists may be none, and weights none or timm, which are no paths.
    """
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "arguments": vars(args),
        "version": VERSION,
        "seed": getattr(args, "seed", None),
        "packages": {"python": platform.python_version()} | {name: installed(name) for name in PACKAGES},
        "device": str(world.device),
        "processes": world.size,
        "lists": [hashed(path) for path in lists if path != "none"],
        "weights": hashed(weights) if weights and Path(weights).is_file() else None,
        "started": now(),
        "ended": None,
        "summary": None,
    }


def hashed(path):
    return {"path": str(path), "sha256": file_hash(path)}


def origin_of(settings):
    """16 hex digits that stand for settings and version."""
    return fingerprint([VERSION, settings])


def write_record(folder, settings, run, keep):
    """Write run.json at a run's beginning; returns the origin. keep: what is there goes to "earlier"."""
    record = read_record(folder) if keep else None
    earlier = [*record.pop("earlier", []), {k: v for k, v in record.items() if k in run}] if record else []
    origin = origin_of(settings)
    write_json(Path(folder) / RUN_FILE, {"origin": origin, "settings": settings} | run | {"earlier": earlier})
    return origin


def finish_record(folder, summary):
    """Write a run's end and summary to its run.json."""
    record = read_record(folder)
    if record is not None:
        write_json(Path(folder) / RUN_FILE, record | {"ended": now(), "summary": summary})


def origin(folder):
    """The origin of a folder's results; None where it has no run.json."""
    return (read_record(folder) or {}).get("origin")


def describe_origin(folder):
    """One line: what made a folder's results, as its run.json says."""
    record = read_record(folder)
    if record is None:
        return f"origin: unknown, {folder} has no {RUN_FILE}"
    settings = ", ".join(
        f"{k} {str(v)[:12] if k == 'weights' else v}"
        for k, v in record["settings"].items()
        if k not in ("classes", "maps")
    )
    versions = {str((run.get("packages") or {}).get("torch")) for run in (record, *record.get("earlier", []))}
    script = str(record.get("command") or "?").split()[0]
    return (
        f"origin: {script} of AEFT {record.get('version')}, torch {' and '.join(sorted(versions))}, "
        f"{record.get('started')}: {settings}"
    )


def check_origins(folder, paths):
    """UserError where the files were not all made by what the folder's run.json says, or by one and the same origin.

    Files without a mark, of another tool, are an origin too; a folder of nothing else is not mixed.
    """
    origins = {path: file_origin(path) for path in paths}
    counts = Counter(origins.values()).most_common()
    record = read_record(folder)
    stated = record.get("origin") if record and counts != [(None, len(origins))] else None
    main = stated or counts[0][0]
    foreign = [path for path, origin in origins.items() if origin != main]
    if foreign:
        whose = "another run of ours" if origins[foreign[0]] else "no run of ours"
        raise UserError(
            f"{folder}: mixed origins: {len(foreign)} of {len(origins)} files are not of the run in its "
            f"{RUN_FILE} (first {foreign[0].name}, of {whose}); move those to another folder, "
            "or --mixed_origins scores them all the same"
        )


def difference(old, new):
    """How two settings differ, in words, for a message."""
    if not isinstance(old, dict):
        return "unknown origin (it has no run.json)"
    changed = [f"{k} {old.get(k)}, not {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return "other settings: " + "; ".join(changed)
