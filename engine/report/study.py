"""What ablation.py shows of a study: tables, curves and a picture of all that is done."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.report.comparison import class_table, curve_table, filled, gather, row_table, stage_table
from engine.studies import CRF, GPP, METHOD, SURE, TRUTH, Study
from tool.io.files import atomic, write_text
from tool.io.images import classes_in, contact_sheet, heat_overlay, label_overlay, open_image, open_mask, save_image
from tool.io.scores import read_scores
from voc12.paths import image_path, mask_path

PICTURES = 4  # photographs in the picture


class Done(NamedTuple):
    """Runs of a study. name: of the set; folder: of all experiments; data: the set."""

    name: str
    study: Study
    folder: Path
    data: Path


def make_parts(done):
    """{part of the pages: its table}; parts are called after the set."""
    folder, study = done.folder, done.study
    cams = {f"CAM, {study.rows[row].title}": (row, "maps", "report") for row in ("gap", GPP, METHOD)}
    behind = {
        "dense CRF of the last": (METHOD, "crf", "crf"),
        "pseudo labels: AffinityNet, walk, CRF": (METHOD, "labels", "labels"),
    }
    networks = {
        "network on the CRF's labels": (CRF, "segmentation", "seg"),
        "network on labels that two powers agree on": (SURE, "segmentation", "seg"),
        "network on pseudo labels": (METHOD, "segmentation", "seg"),
        "network on true masks": (TRUTH, "segmentation", "seg"),
    }
    tried = {row.title: (name, "maps", "tune") for name, row in ({GPP: study.rows[GPP]} | study.tried).items()}
    parts = {part: row_table(folder, rows) for part, rows in study.tables.items()} | {
        "summary": stage_table(folder, cams | behind | networks, of="network on true masks"),
        "stages": stage_table(folder, {"CAM": (METHOD, "maps", "report")} | behind),
        "segmentation": stage_table(folder, networks, of="network on true masks"),
        "classes": class_table(folder, networks),
        "curves": curve_table(folder, study.rows),
        "tried": stage_table(folder, tried),
    }
    return {f"{done.name} {part}": text for part, text in parts.items()}


def write_pages(done, pages, ids):
    """Fill the places that pages have; beside the first, log.jsonl of the method and a picture of some of `ids`."""
    parts = make_parts(done)
    for part, text in parts.items():
        print(f"\n{part}\n{text}")
    for page in pages:
        write_text(page, filled(page, parts))
        print(f"wrote {page}")
    for seed in gather(done.folder, METHOD, "maps"):
        with atomic(pages[0].with_name(f"{done.name}_seed{seed}.jsonl")) as temporary:
            shutil.copyfile(done.folder / f"{METHOD}_seed{seed}" / "log.jsonl", temporary)
    if seeds := gather(done.folder, METHOD, "crf"):
        draw_picture(done, pick_photographs(done.data, ids), min(seeds), pages[0].with_name(f"{done.name}.jpg"))


def pick_photographs(data, ids):
    """Up to PICTURES IDs in a drawn order, each with a class that the ones before do not show."""
    picked, seen = [], set()
    for image_id in np.random.default_rng(0).permutation(ids):
        present = classes_in(open_mask(mask_path(data, image_id), 21))
        if not present & seen:
            picked, seen = [*picked, str(image_id)], seen | present
    return picked[:PICTURES]


def draw_picture(done, ids, seed, path):
    """Photograph, CAM of GAP, of GPP and of AEFT, CRF, pseudo label and truth of some photographs, as far as done."""

    def folder(row, kind):
        return done.folder / f"{row}_seed{seed}" if seed in gather(done.folder, row, kind) else None

    cams = {
        "CAM of GAP": folder("gap", "maps"),
        "CAM of GPP": folder(GPP, "maps"),
        "CAM of AEFT": folder(METHOD, "maps"),
    }
    labels = {"CRF": folder(METHOD, "crf"), "pseudo label": folder(METHOD, "labels")}
    cams, labels = ({title: run for title, run in some.items() if run} for some in (cams, labels))
    places, rows = {"CRF": done.study.crf_labels, "pseudo label": done.study.labels}, []
    for image_id in ids:
        photo = open_image(image_path(done.data, image_id))
        heat = [np.max(list(read_scores(run / "dict" / f"{image_id}.npy").values()), axis=0) for run in cams.values()]
        masks = [run / places[title] / f"{image_id}.png" for title, run in labels.items()]
        masks = [open_mask(mask, 21) for mask in (*masks, mask_path(done.data, image_id))]
        rows.append(
            [photo, *(heat_overlay(photo, cam) for cam in heat), *(label_overlay(photo, mask) for mask in masks)]
        )
    save_image(path, contact_sheet(rows, ["image", *cams, *labels, "truth"], cell=(160, 107)), quality=85)
