"""The page's files: pictures named by their content, and index.html, replaced last, so that a page is always whole."""

import io
import json
import os
import shutil
from pathlib import Path

import cv2
import jinja2
import numpy as np
from PIL import Image

from tool.io.files import UserError, fingerprint, read_json, remove_stale, write_bytes, write_json

HERE = Path(__file__).resolve().parent
INDEX, PICTURES, CACHE = "index.html", "images", "scores.json"


def render(**values):
    """page.html with its style and script inside -> HTML. What is no Markup is shown as text, whatever it holds."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return environment.get_template("page.html").render(**values)


class Pictures:
    """Small JPEG files below `folder`. Their names hold a hash of their content: those of an older page stay valid."""

    def __init__(self, folder, size):
        """size: of their longer side, pixels."""
        self.folder, self.size = Path(folder) / PICTURES, size
        self.names = set()
        remove_stale(folder)

    def fit(self, photo):
        """A PIL RGB image, smaller where it is larger."""
        factor = min(1, self.size / max(photo.size))
        return photo.resize([max(1, round(side * factor)) for side in photo.size], Image.Resampling.BOX, reducing_gap=2)

    def add(self, image, name):
        """Write a PIL RGB image -> its file's name, size and place for the page."""
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=86, subsampling=0)
        data = stream.getvalue()
        name = f"{name}_{fingerprint(data)[:8]}.jpg"
        self.names.add(name)
        if not (self.folder / name).is_file():
            write_bytes(self.folder / name, data)
        return {"src": f"{PICTURES}/{name}", "width": image.width, "height": image.height}

    def link(self, path):
        """A path as the page links it: relative, so that page and files can be moved together."""
        return Path(os.path.relpath(path, self.folder.parent)).as_posix()

    def remove_others(self):
        """Remove what no page shows any more."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in self.names:
                    path.unlink()
            if not self.names:
                shutil.rmtree(self.folder)


def shrink_labels(labels, image):
    """H x W label ids at the size of a small picture."""
    return cv2.resize(labels.astype(np.uint8), image.size, interpolation=cv2.INTER_NEAREST)


def shrink_map(values, image):
    """H x W floats at the size of a small picture."""
    return cv2.resize(values.astype(np.float32), image.size, interpolation=cv2.INTER_AREA)


class Cache:
    """What was computed for the page before, so that only stages that changed are scored again."""

    def __init__(self, folder):
        self.path, self.entries = Path(folder) / CACHE, {}
        try:
            self.old = read_json(self.path)
        except UserError:
            self.old = {}

    def get(self, name, key, work):
        """work() under a name, or what it gave when the key was the same."""
        old = self.old.get(name) if isinstance(self.old, dict) else None
        same = isinstance(old, dict) and old.get("key") == key and "value" in old
        self.entries[name] = {"key": key, "value": old["value"] if same else work()}
        return self.entries[name]["value"]

    def write(self):
        write_json(self.path, self.entries)
