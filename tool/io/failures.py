"""--on_error: whether a broken image ends a run, or is left out and listed in failed.txt."""

import os
from pathlib import Path

from tool.io.files import UserError, print_warning

FAILED_FILE = "failed.txt"


class Failures:
    """Images that could not be used. Processes of a run may share one file: each adds whole lines to its end.

    skip: False = the first failure ends the run. path: failed.txt, one "ID<tab>reason" a line. held: whether nothing is
    written before `begin`; all processes look at the same images then, and one of them says what it finds.
    """

    def __init__(self, on_error, path, held=False):
        self.skip = on_error == "skip"
        self.path = Path(path)
        self.held, self.noted = held, []

    def begin(self, world):
        """Forget an earlier run's failures, since this one tries these images again; write what was held back."""
        world.first(lambda: self.path.unlink(missing_ok=True))
        self.held = False
        for line in self.noted if world.main else ():
            self._write(line)

    def add(self, image_id, error):
        """Raise `error`, or note the image and go on."""
        if not self.skip:
            raise UserError(str(error))
        line = f"{image_id}\t{' '.join(str(error).split())}"  # of an image that fails in two ways both are said
        if line in self.noted or not self.held and line in self.lines():
            return
        if not self.held or os.environ.get("RANK", "0") == "0":
            print_warning(f"left out {image_id}: {error}")
        self.noted.append(line)
        if not self.held:
            self._write(line)

    def _write(self, line):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")

    def lines(self):
        """What was noted so far, by this and other processes."""
        return self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if self.path.is_file() else []

    def ids(self):
        """IDs noted so far, by this and other processes."""
        return {line.split("\t")[0] for line in self.lines()}

    def usable(self, ids, check):
        """The IDs for which check(id) raises no UserError; the others are noted."""
        usable = []
        for image_id in ids:
            try:
                check(image_id)
            except UserError as error:
                self.add(image_id, error)
            else:
                usable.append(image_id)
        return usable

    def report(self):
        """Say at the end of a run how many images are missing from its results."""
        if count := len(self.ids()):
            print_warning(f"{count} images could not be used and are left out; see {self.path}")
