"""--on_error: whether a broken image ends a run, or is left out and listed in failed.txt."""

import sys
from pathlib import Path

from tool.io.files import UserError


class Failures:
    """Images that could not be used. Processes of a run may share one file: each adds whole lines to its end.

    skip: False = the first failure ends the run. path: failed.txt, one "ID<tab>reason" a line. held: whether nothing is
    written before `begin`.
    """

    def __init__(self, on_error, path, held=False):
        self.skip = on_error == "skip"
        self.path = Path(path)
        self.held, self.noted = held, {}

    def begin(self, world):
        """Forget an earlier run's failures, since this one tries these images again; write what was held back."""
        world.first(lambda: self.path.unlink(missing_ok=True))
        self.held = False
        for image_id, error in self.noted.items():
            self._write(image_id, error)

    def add(self, image_id, error):
        """Raise `error`, or note the image and go on."""
        if not self.skip:
            raise UserError(str(error))
        if image_id in self.noted or not self.held and image_id in self.ids():
            return
        print(f"warning: left out {image_id}: {error}", file=sys.stderr)
        self.noted[image_id] = error
        if not self.held:
            self._write(image_id, error)

    def _write(self, image_id, error):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(f"{image_id}\t{' '.join(str(error).split())}\n")

    def ids(self):
        """IDs noted so far, by this and other processes."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if self.path.is_file() else []
        return {line.split("\t")[0] for line in lines}

    def usable(self, ids, check):
        """The IDs for which check(id) raises no UserError; the others are noted."""
        usable, reason = [], None
        for image_id in ids:
            try:
                check(image_id)
            except UserError as error:
                reason = error
                self.add(image_id, error)
            else:
                usable.append(image_id)
        if not usable:
            raise UserError(f"no image is left: all {len(ids)} failed, the last with: {reason}")
        return usable

    def report(self):
        """Say at the end of a run how many images are missing from its results."""
        if count := len(self.ids()):
            print(f"warning: {count} images could not be used and are left out; see {self.path}", file=sys.stderr)
