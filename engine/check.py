"""--check: what a run will need, verified in seconds before the long work. Nothing is written.

A check collects what is wrong and goes on, so that all of it can be mended at once.
"""

import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from tool.io.files import UserError
from tool.io.images import image_size
from tool.workers import usable_cores


class Check:
    """The lines and problems of one --check."""

    def __init__(self, world, fine):
        """fine: what the script has verified before it makes a Check."""
        if world.size > 1:
            raise UserError("--check runs as one process; leave torchrun away")
        self.problems = 0
        self.fine(fine)

    def fine(self, text):
        print(f"check: {text}", flush=True)

    def problem(self, text):
        self.problems += 1
        print(f"check: PROBLEM: {text}", file=sys.stderr, flush=True)

    def attempt(self, work, *arguments):
        """work(*arguments), whose UserError is noted."""
        try:
            work(*arguments)
        except UserError as error:
            self.problem(str(error))

    def try_all(self, work, items, what):
        """[work(item) or None where it raises UserError, which is noted; the first ten are printed]."""

        def one(item):
            try:
                return work(item), None
            except UserError as error:
                return None, str(error)

        with ThreadPoolExecutor(usable_cores()) as pool:
            results = list(tqdm(pool.map(one, items), what, total=len(items), unit="image", disable=None))
        errors = [error for _, error in results if error]
        for error in errors[:10]:
            self.problem(error)
        if len(errors) > 10:
            self.problem(f"{len(errors) - 10} more of this kind")
        if items and not errors:
            self.fine(f"{what}: all {len(items)} can be read")
        return [result for result, _ in results]

    def images(self, paths):
        """Open every photograph of {ID: path} -> {ID: (width, height)} of those that can be read."""
        sizes = self.try_all(image_size, list(paths.values()), "images")
        return {i: size for i, size in zip(paths, sizes) if size}

    def disk(self, needed):
        """Whether everything of {folder: bytes} can be written: each file system must hold all that goes to it."""
        shared = {}  # {device: {folder: its parent that exists}}
        for folder in needed:
            parent = existing_parent(folder)
            try:
                with tempfile.TemporaryFile(dir=parent):
                    pass
            except OSError as error:
                self.problem(f"{parent}: cannot be written to ({error.strerror})")
                continue
            shared.setdefault(os.stat(parent).st_dev, {})[folder] = parent
        for folders in shared.values():
            total = sum(needed[folder] for folder in folders)
            free = shutil.disk_usage(next(iter(folders.values()))).free
            parts = ", ".join(f"{folder} {size(needed[folder])}" for folder in folders)
            text = f"about {size(total)} will be written ({parts}), {size(free)} are free there"
            if total > free:
                self.problem(text)
            else:
                self.fine(text)

    def end(self, seconds, images, per_image):
        """The estimate, then how to go on; UserError where anything was wrong. seconds: what all of it takes."""
        self.fine(f"about {duration(seconds)} for {images} ({per_image}), by one step that was timed")
        if self.problems:
            raise UserError(f"--check found {self.problems} problem{'s' if self.problems > 1 else ''}, listed above")
        self.fine("all is well; run it again without --check")


def existing_parent(path):
    path = Path(path).absolute()
    return path if path.is_dir() else existing_parent(path.parent)


def size(count):
    """Bytes in a unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds):
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def timed(work, *arguments):
    """(result, seconds) of work(*arguments)."""
    started = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - started
