"""run.json: what made the files of an output folder, so that results of two origins are never mixed in silence."""

import hashlib
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tool.files import UserError, read_json, remove_stale, write_json
from tool.log import VERSION

RUN_FILE = "run.json"


def file_hash(path):
    """SHA-256 of a file, hex."""
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def claim_folder(folder, settings, pattern, overwrite=False):
    """Make `folder` the place of results of `settings`, or check that it is.

    settings: what determines the results, plain values. pattern: glob of the result files. UserError where the folder
    holds results of other settings or of unknown origin; with `overwrite` they are deleted instead.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    record_path = folder / RUN_FILE
    old = folder_settings(folder)
    if old == settings:
        return
    if any(folder.glob(pattern)):
        if not overwrite:
            raise UserError(f"{folder}: holds results of {difference(old, settings)}; "
                            "--overwrite replaces them, another --name keeps both")
        for path in folder.glob(pattern):
            path.unlink()
    write_json(record_path, {
        "settings": settings,
        "command": sys.argv,
        "version": VERSION,
        "packages": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    })


def folder_settings(folder):
    """The settings that made a folder's results; None where it has no run.json (files of another tool)."""
    path = Path(folder) / RUN_FILE
    record = read_json(path) if path.is_file() else None
    return record.get("settings") if isinstance(record, dict) else None


def describe_origin(folder):
    """One line: what made a folder's results, as its run.json says."""
    path = Path(folder) / RUN_FILE
    record = read_json(path) if path.is_file() else None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        return f"origin: unknown, {folder} has no {RUN_FILE}"
    settings = ", ".join(f"{k} {str(v)[:12] if k == 'weights' else v}" for k, v in record["settings"].items()
                         if k not in ("classes", "maps"))
    return (f"origin: {Path(str((record.get('command') or ['?'])[0])).name} of AEFT {record.get('version')}, "
            f"{record.get('started')}: {settings}")


def difference(old, new):
    """How two settings differ, in words, for a message."""
    if not isinstance(old, dict):
        return "unknown origin (it has no run.json)"
    changed = [f"{k} {old.get(k)}, not {new.get(k)}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return "other settings: " + "; ".join(changed)
