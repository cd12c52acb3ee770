"""The images of the page: which ones, and for each its photograph, what every stage made of it, and the truth."""

import contextlib
import random

from engine.report.page import shrink_labels, shrink_map
from engine.report.scoring import image_disagreements, image_scores, images_of
from tool.io.files import UserError
from tool.io.images import COLOURS, classes_in, fit_mask, heat_overlay, label_overlay, open_image, open_mask
from tool.results import image_iou, labels_of, read_result


def pick(ids, ious, disputed, count, rng):
    """{ID: "worst", "best", "disputed" or "random"} of up to `count` images, those to be looked at first in front.

    A third each are the worst and the best of those with an IoU; of what is left, two thirds are the most disputed of
    those without, and the rest is random. ious, disputed: {ID: percent}.
    """
    ranked = sorted((i for i in ids if i in ious), key=lambda i: (ious[i], i))
    share = min(count // 3, len(ranked) // 2)
    picked = dict.fromkeys(ranked[:share], "worst") | dict.fromkeys(reversed(ranked[len(ranked) - share :]), "best")
    first = sorted((i for i in ids if i in disputed), key=lambda i: (-disputed[i], i))
    picked = dict.fromkeys(first[: -(-2 * (count - len(picked)) // 3)], "disputed") | picked
    rest = [i for i in ids if i not in picked]
    return picked | dict.fromkeys(rng.sample(rest, min(count - len(picked), len(rest))), "random")


def pick_images(entries, data, count, threshold, seed, cache):
    """{ID: (list, why, disagreement or None)} of up to `count` images.

    Lists that no other list holds the images of get equal parts. Ranked by the IoU in the last stage that has results
    of the list; images without a mask by how much the stages disagree. entries: what `pick_folders` gives.
    """
    groups, seen = {}, set()
    for path, ids in data.lists.items():
        own = [image_id for image_id in ids if image_id not in seen]
        seen.update(own)
        there = [(entry, found) for entry in entries if (found := images_of(entry.stage, own))]
        if there:
            groups[path] = there
    rng, picked = random.Random(seed), {}
    for left, (path, there) in zip(range(len(groups), 0, -1), groups.items()):
        last = there[-1][0]
        every = list(dict.fromkeys(i for _, found in there for i in found))
        unmasked = [image_id for image_id in every if image_id not in data.masked]
        ious, disputed = {}, {}
        with contextlib.suppress(UserError, FileNotFoundError):  # it is said beside the stage
            ious = image_scores(last.stage, every, data, last.threshold(threshold), cache)
        with contextlib.suppress(FileNotFoundError):  # made again at this moment
            disputed = image_disagreements([entry for entry, _ in there], unmasked, data, threshold, cache)
        share = -(-(count - len(picked)) // left)
        chosen = pick(every, ious, disputed, share, rng)
        picked |= {image_id: (path, why, disputed.get(image_id)) for image_id, why in chosen.items()}
    return picked


class Gallery:
    """Makes the small pictures of single images. entries: as in `pick_images`; threshold: where no mask chose one."""

    def __init__(self, entries, data, pictures, threshold):
        self.entries, self.data, self.pictures, self.threshold = entries, data, pictures, threshold

    def card(self, number, image_id, path, why, disputed):
        """What the page shows of one image: its classes, IoU by stage, and panels, each with the file that it shows."""
        names = self.data.names
        source, truth = self.data.photo(image_id), None
        photo = open_image(source)
        if image_id in self.data.masked:
            truth = fit_mask(open_mask(self.data.mask(image_id), len(names)), photo.size[::-1], source)
        photo = self.pictures.fit(photo)
        card = {"id": image_id, "list": path, "why": why, "disputed": disputed, "ious": {}, "shown": classes_in(truth)}
        card["panels"] = [self.panel("Photograph", source, photo, f"{number:04d}_photo", "the photograph")]
        for k, entry in enumerate(self.entries):
            if entry.stage.path(image_id).is_file():
                card["panels"] += self.panels(entry, k, image_id, photo, truth, card)
        if truth is not None:
            picture = label_overlay(photo, shrink_labels(truth, photo))
            mask = self.data.mask(image_id)
            card["panels"].append(self.panel("Truth", mask, picture, f"{number:04d}_truth", self.describe(truth)))
        card["classes"] = [{"name": names[k], "colour": COLOURS[k].tolist()} for k in sorted(card.pop("shown"))]
        return card

    def panels(self, entry, k, image_id, photo, truth, card):
        """One panel, or, of class activation maps, one a class; notes IoU and classes in `card`."""
        stage, task, names = entry.stage, entry.stage.kind.task, self.data.names
        name = card["panels"][0]["src"].split("/")[-1][:5] + str(k)
        path = stage.path(image_id)
        try:
            result = read_result(path, task, len(names))
            size = (0, 0) if truth is None else truth.shape
            labels = labels_of(result, task, entry.threshold(self.threshold), size)
            if truth is not None and truth.shape == labels.shape:
                card["ious"][k] = image_iou(truth, labels, len(names))
        except UserError as error:  # made again at this moment, or broken
            about = {"title": stage.title, "detail": stage.name, "file": self.pictures.link(path)}
            return [about | {"missing": str(error)}]
        iou = card["ious"].get(k)
        if task != "cam":
            if truth is None:
                card["shown"] |= classes_in(labels)
            picture = label_overlay(photo, shrink_labels(labels, photo))
            return [self.panel(stage.title, path, picture, name, self.describe(labels), stage.name, iou)]
        card["shown"] |= {c + 1 for c in result}
        if not result:
            return [{"title": "Activation", "detail": "", "missing": "shows none of the classes"}]
        panels = []
        for c in sorted(result):
            picture, shown, first = heat_overlay(photo, shrink_map(result[c], photo)), names[c + 1], c == min(result)
            about = f"class activation map of {shown}", shown, iou if first else None
            panels.append(self.panel("Activation", path, picture, f"{name}_{c}", *about))
        return panels

    def panel(self, title, source, picture, name, alt, detail="", iou=None):
        """source: the file that the picture shows."""
        about = {"title": title, "alt": alt, "detail": detail, "iou": iou, "file": self.pictures.link(source)}
        return self.pictures.add(picture, name) | about

    def describe(self, labels):
        """The classes of a label image in words."""
        return f"labels: {', '.join(self.data.names[k] for k in sorted(classes_in(labels))) or 'background only'}"
