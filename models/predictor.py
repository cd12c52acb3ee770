"""Label photographs with what an experiment has trained, from a program of one's own; run it where this repository is.

    from models.predictor import Predictor

    predictor = Predictor.load("experiment/N")  # its segmentation network; which="cam": its classifier
    labels, scores = predictor(Image.open("photo.jpg"))  # H x W uint8 ids, L x H x W float32
    print([predictor.classes[k] for k in np.unique(labels)])  # classes[0] is "background"

An experiment needs only ckpt_seg/ (or ckpt/) and settings.json to be used elsewhere; no data set. Results are those of
infer_seg.py and of infer.py --labels predicted.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from models.deeplab import DEEPLAB
from models.trained import classifier_place, load_classifier, load_segmentation, segmentation_place, trained_side
from tool.cam import inner_size, maps_of, multi_scale_cam, predict_label
from tool.io.files import UserError, folder_settings, read_json
from tool.io.images import open_image
from tool.results import labels_of
from tool.segmentation import VIEWS, label_map, multi_scale_scores
from voc12.classes import BACKGROUND_NAME, CLASS_NAMES, load_classes
from voc12.transforms import InferenceViews, look_of

DEFAULTS = {"model": "aeft_gpp", "trunk": "resnet38d", "width": 1.0, "output_stride": None, "pool": "gpp"}


class Prediction(NamedTuple):
    """What is seen in one image.

    labels: H x W uint8, 0 background, k for `Predictor.classes[k]`. scores: L x h x w float32 in [0, 1], of each label;
    h x w is H x W, or smaller where the image's longer side is above `max_side`. At one size, labels are
    `scores.argmax(0)`.
    """

    labels: np.ndarray
    scores: np.ndarray


class Predictor:
    """A trained network, called with an image -> Prediction, or with a list of images -> list of them.

    An image: an RGB array H x W x 3 uint8 or a PIL image, both as they are, or a path; its photograph is turned as its
    EXIF says. An array of four dimensions is a list of images. classes: names of the labels, background first.
    max_side: pixels; images whose longer side is above it are seen at it, 0 = never; by default that which training
    saw. Made by `Predictor.load`.
    """

    def __init__(self, net, classes, device, scales, mirror, max_side):
        if not scales:
            raise UserError("scales: none; an image is seen at one at least")
        self.net, self.classes, self.device = net.to(device).eval(), (BACKGROUND_NAME, *classes), torch.device(device)
        self.views = InferenceViews(scales, mirror, look_of(net.trunk), max_side)

    @staticmethod
    def load(experiment, which=None, weights=None, device=None, **options):
        """The predictor of the folder of an experiment.

        which: "seg", its segmentation network, also by its --arch where there are several; "cam", its classifier;
        None: the first of these that is there. weights: a file instead of best.pth, or of the newest epoch. device:
        torch's name, by default cuda where there is one. options: of the class that is made, see below.
        UserError: no such network there, or files that do not fit.
        """
        folder = Path(experiment)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        stored = read_json(folder / "settings.json") if (folder / "settings.json").is_file() else {}
        if not isinstance(stored, dict):
            raise UserError(f"{folder / 'settings.json'}: not the settings of an experiment")
        own = CLASS_NAMES in stored
        classes = load_classes(folder / "settings.json" if own else stored.get("classes"))
        settings = DEFAULTS | {key: stored[key] for key in DEFAULTS if key in stored}
        if which is None:
            which = "seg" if any(folder.glob("ckpt_seg/*/best.pth")) else "cam"
        if which == "cam":
            newest = classifier_place(folder).newest()
            if not (weights or newest):
                raise UserError(f"{folder}: no network there, neither ckpt_seg/*/best.pth nor ckpt/*net_main.pth")
            weights = Path(weights or newest[0])
            trained = folder_settings(weights.parent) or {}
            settings |= {key: trained[key] for key in DEFAULTS if key in trained}
            options.setdefault("max_side", trained_side(weights))
            return CamPredictor(load_classifier(settings, weights, len(classes)), classes, device, **options)
        arch = find_arch(folder, settings) if which == "seg" else which
        weights = Path(weights or segmentation_place(folder, arch).best)
        if not weights.is_file():
            raise UserError(f"{weights}: no such checkpoint; which is 'seg', 'cam' or the --arch of a trained network")
        net, _ = load_segmentation(arch, settings, weights, len(classes) + 1)
        options.setdefault("max_side", trained_side(weights))
        return SegmentationPredictor(net, classes, device, **options)

    def __call__(self, image):
        if isinstance(image, list | tuple) or getattr(image, "ndim", 3) == 4:
            return [self(one) for one in image]
        photo = as_photo(image)
        views = [view.to(self.device) for view in self.views(photo)]
        size = photo.height, photo.width
        with torch.inference_mode():
            return self.predict(views, inner_size(size, self.views.max_side), size)


class SegmentationPredictor(Predictor):
    """As infer_seg.py: scores are probabilities. scales, mirror, merge: as its flags."""

    def __init__(self, net, classes, device, merge=VIEWS["merge"], **views):
        super().__init__(net, classes, device, **{name: VIEWS[name] for name in ("scales", "mirror")} | views)
        self.merge = merge

    def predict(self, views, seen, size):
        scores = multi_scale_scores(self.net, views, seen, self.merge).cpu().numpy()
        return Prediction(label_map(scores, size), scores)


class CamPredictor(Predictor):
    """As infer.py --labels predicted: scores are activations, 0 of classes not found, `threshold` of background.

    scales: as its flag. min_score: probability from which a class counts as found; the best one always does.
    threshold: activation up to which a pixel is background, as evaluation.py --threshold.
    """

    def __init__(self, net, classes, device, scales=(0.5, 1.0, 1.5, 2.0), threshold=0.2, min_score=0.5, **more):
        scales = (*scales, 1.0) if scales else ()  # the last one finds the classes
        super().__init__(net, classes, device, scales, True, **more)
        self.threshold, self.min_score = threshold, min_score

    def predict(self, views, seen, size):
        found, _ = predict_label(self.net(views.pop()[:1])[1][0], self.min_score)
        cam = multi_scale_cam(self.net, views, found, seen)
        shown = found.nonzero().flatten()
        labels = labels_of(maps_of(cam[shown], shown, size), "cam", self.threshold)
        background = cam.new_full((1, *seen), self.threshold)
        return Prediction(labels.astype(np.uint8), torch.cat([background, cam]).cpu().numpy())


def as_photo(image):
    """An image as a user has it -> PIL RGB; UserError where it is none."""
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise UserError(f"{image}: no such image")
        return open_image(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise UserError(f"an array {image.shape} of {image.dtype}; an image is H x W x 3 uint8, RGB")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"a {type(image).__name__} is no image; give a PIL image, an array or a path")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise UserError(f"a PIL image of mode {image.mode}, whose values are not 8-bit; give its path")
    try:
        return image.convert("RGB")
    except (OSError, ValueError) as error:  # cut off, closed, or of a mode that Pillow cannot turn
        raise UserError(f"a PIL image that cannot be read: {error}") from None


def find_arch(folder, settings):
    """The --arch of the experiment's segmentation network: the only one, or that on its own trunk."""
    own = DEEPLAB + settings["trunk"]
    trained = [(folder_settings(path.parent) or {}).get("arch") for path in folder.glob("ckpt_seg/*/best.pth")]
    if len(trained) == 1 and trained[0]:
        return trained[0]
    if len(trained) > 1 and not segmentation_place(folder, own).best.is_file():
        raise UserError(f"{folder}: several segmentation networks; choose by which: {', '.join(map(str, trained))}")
    return own
