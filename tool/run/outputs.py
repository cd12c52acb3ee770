"""The output folders of infer.py: class activation maps, CRF scores, overlays."""

import numpy as np

from tool.crf import crf_with_alphas
from tool.io.images import heat_overlay, label_image, label_overlay, save_image
from tool.io.scores import write_scores
from tool.pseudo_labels import refine_labels
from tool.run.background import WRITING

CRF_ITERATIONS = 10


class Outputs:
    """The output folders of a run: whose they are, what they lack, and how it gets there."""

    def __init__(self, folders, classes, settings, compress):
        """folders: of `output_folders`; settings: what determines the results."""
        self.folders, self.classes, self.settings, self.compress = folders, classes, settings, compress
        self.crf = self.writer = None  # Background, once a run begins
        self.origins = {}  # {key: hex digits}
        self.anew = ()  # keys whose files are of other settings and will be replaced

    def each(self, use, **more):
        """{key: use(folder, settings, pattern)} for every folder."""
        results = {}
        for key, folder in self.folders.items():
            settings = {"alpha": key, "iterations": CRF_ITERATIONS} if isinstance(key, int) else {}
            results[key] = use(folder, self.settings | settings, "*.png" if key == "vis" else "*.npy", **more)
        return results

    def missing(self, image_id, label):
        """Keys of the folders that lack this image."""
        missing = list(self.anew)
        for key, folder in self.folders.items():
            if key == "vis":
                paths = [folder / f"{image_id}_{self.classes[c]}.png" for c in np.flatnonzero(label)]
            else:
                paths = [folder / f"{image_id}.npy"]
            if key not in missing and not all(path.is_file() for path in paths):
                missing.append(key)
        return missing

    def write(self, image_id, image, cams, missing):
        """Write what is missing for one image. image: H x W x 3 uint8; cams: {class: H x W float32}."""
        self.writer.submit(self.write_maps, image_id, image, cams, missing)
        files = {
            key: (self.folders[key] / f"{image_id}.npy", self.origins[key]) for key in missing if isinstance(key, int)
        }
        if files:
            self.crf.submit(crf_job, image, cams, files, CRF_ITERATIONS, self.compress)

    def write_maps(self, image_id, image, cams, missing):
        if "dict" in missing:
            write_scores(self.folders["dict"] / f"{image_id}.npy", cams, self.compress, self.origins["dict"])
        if "vis" in missing:
            for c, cam in cams.items():
                path = self.folders["vis"] / f"{image_id}_{self.classes[c]}.png"
                save_image(path, heat_overlay(image, cam), self.origins["vis"])


def crf_job(image, cams, files, iterations, compressed=False):
    """Refine the maps of one image and write one file an alpha. files: {alpha: (path, origin)}."""
    for alpha, scores in crf_with_alphas(image, cams, list(files), iterations).items():
        path, origin = files[alpha]
        with WRITING:
            write_scores(path, scores, compressed, origin)


def label_job(image, keys, walked, paths, origin=""):
    """Refine walked scores (`refine_labels`), write the pseudo label. paths: of the label, and of an overlay or not."""
    labels = refine_labels(image, keys, walked)
    with WRITING:
        save_image(paths[0], label_image(labels), origin)
        for path in paths[1:]:
            save_image(path, label_overlay(image, labels), origin)
