"""What ablation.py shows of a study: tables, curves and a picture of all that is done."""

import shutil

import numpy as np

from engine.experiment import Experiment
from engine.report.comparison import class_table, curve_table, filled, gather, masks_table, row_table, stage_table
from engine.studies import CRF, GPP, MEAN, METHOD, SURE, TRUTH
from tool.io.files import atomic, write_text
from tool.io.images import (
    IGNORE,
    classes_in,
    contact_sheet,
    heat_overlay,
    label_overlay,
    open_image,
    open_mask,
    save_image,
    tagged,
)
from tool.io.scores import read_scores
from tool.results import image_iou
from voc12.classes import load_classes
from voc12.paths import image_path, mask_path

ROWS, DRAWN = 3, 50  # photographs in the picture, and of how many the last one is the worst
TITLES = ["photograph, label", "activation", "mask", "truth"]


def make_parts(study, folder):
    """{part of the pages: its table}; parts are called after the set. folder: of all experiments."""
    cam, crf = (METHOD, "maps", "report"), {"dense CRF of the last": (METHOD, "crf", "crf")}
    crf["dense CRF of the mean of the seeds' maps"] = (MEAN, "crf", "crf")
    networks = {
        "network on the CRF's labels": (CRF, "segmentation", "seg"),
        "network on labels that two powers agree on": (SURE, "segmentation", "seg"),
        "network on such labels of the mean of the seeds' maps": (MEAN, "segmentation", "seg"),
        "network on pseudo labels": (METHOD, "segmentation", "seg"),
        "network on true masks": (TRUTH, "segmentation", "seg"),
    }
    shown = {title: stage for title, stage in networks.items() if stage[0] in (SURE, MEAN, TRUTH)}
    shown = {f"CAM, {study.rows[METHOD].title}": cam} | crf | shown
    tried = {row.title: (name, "maps", "tune") for name, row in ({GPP: study.rows[GPP]} | study.tried).items()}
    parts = {part: row_table(folder, rows) for part, rows in study.tables.items()} | {
        "summary": stage_table(folder, shown, of="network on true masks", whole=False),
        "stages": stage_table(
            folder, {"CAM": cam} | crf | {"pseudo labels: AffinityNet, walk, CRF": (METHOD, "labels", "labels")}
        ),
        "segmentation": stage_table(folder, networks, of="network on true masks"),
        "classes": class_table(folder, networks),
        "masks": masks_table(folder, METHOD),
        "curves": curve_table(folder, study.rows),
        "tried": stage_table(folder, tried),
    }
    return {f"{study.name} {part}": text for part, text in parts.items()}


def write_pages(study, runs, pages, ids):
    """Fill the places that pages have; beside the first, log.jsonl of the method and a picture of some of `ids`."""
    parts = make_parts(study, runs.folder)
    for part, text in parts.items():
        print(f"\n{part}\n{text}")
    for page in pages:
        write_text(page, filled(page, parts))
        print(f"wrote {page}")
    for seed in gather(runs.folder, METHOD, "maps"):
        with atomic(pages[0].with_name(f"{study.name}_seed{seed}.jsonl")) as temporary:
            shutil.copyfile(runs.folder / f"{METHOD}_seed{seed}" / "log.jsonl", temporary)
    if seeds := gather(runs.folder, METHOD, "crf"):
        draw_picture(study, runs, ids, min(seeds), pages[0].with_name(f"{study.name}.jpg"))


def pick_photographs(truth, labels):
    """Of photographs in a drawn order the first ones without a common class, ROWS of them, the last one instead the one
    whose labels are the worst -> ([ID], IoU of that one in percent). truth, labels: {ID: H x W ids}."""
    ious = {image_id: image_iou(truth[image_id], labels[image_id], IGNORE) for image_id in truth}
    worst = min(ious, key=ious.get)
    picked, seen = [], set()
    for image_id in truth:
        present = classes_in(truth[image_id])
        if image_id != worst and not present & seen and len(picked) < ROWS - 1:
            picked, seen = [*picked, image_id], seen | present
    return [*picked, worst], ious[worst]


def what_went_wrong(truth, labels):
    """The commonest kind of wrong pixel, in words. truth, labels: H x W ids."""
    known, true, found = truth != IGNORE, truth > 0, labels > 0
    kinds = {
        "{:.0f} % of what is labelled is background": (found & (truth == 0), found & known),
        "{:.0f} % of the objects is not found": (~found & true & known, true & known),
        "{:.0f} % of the objects has another class": (found & true & known & (labels != truth), true & known),
    }
    text, (wrong, of) = max(kinds.items(), key=lambda kind: kind[1][0].sum())
    return text.format(100 * wrong.sum() / max(1, of.sum()))


def draw_picture(study, runs, ids, seed, path):
    """Photographs with their classes, activation of the method, labels of its CRF, truth; the last one is a failure."""
    run, file = Experiment(runs.folder, f"{METHOD}_seed{seed}"), runs.data / "classes.txt"
    names = load_classes(file if file.is_file() else None)
    drawn = list(map(str, np.random.default_rng(0).permutation(ids)[:DRAWN]))
    truth = {i: open_mask(mask_path(runs.data, i), len(names) + 1) for i in drawn}
    folder = run.crf_labels(study.powers[2:])
    labels = {i: open_mask(folder / f"{i}.png", len(names) + 1) for i in drawn}
    (picked, iou), rows = pick_photographs(truth, labels), []
    for image_id in picked:
        photo = open_image(image_path(runs.data, image_id))
        heat = np.max(list(read_scores(run.maps / f"{image_id}.npy").values()), axis=0)
        tag = tagged(photo, ", ".join(names[k - 1] for k in sorted(classes_in(truth[image_id]))))
        rows.append([tag, heat_overlay(photo, heat), *(label_overlay(photo, one[image_id]) for one in (labels, truth))])
    wrong = what_went_wrong(truth[picked[-1]], labels[picked[-1]])
    note = f"last row: the worst of {len(drawn)} drawn photographs, IoU {iou:.0f}: {wrong}"
    save_image(path, contact_sheet(rows, TITLES, cell=(152, 114), note=note), quality=85)
