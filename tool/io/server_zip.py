"""The zip file that VOC's evaluation server takes, for the masks of its test list."""

import zipfile
from pathlib import Path

from tool.io.files import UserError, atomic, remove_stale, require_files
from tool.io.images import check_size, header_size, open_mask

SERVER_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # one date for all: the same masks give the same bytes


def check_server_path(path):
    """UserError where a file of this name would not be taken for a zip."""
    if Path(path).suffix.lower() != ".zip":
        raise UserError(f"--server {path}: the server takes a .zip; choose that ending")


def write_server_zip(path, masks, photos, num_labels):
    """Write the zip of palette PNGs, all or none: UserError names one that is missing, broken or of another size.

    masks, photos: {ID: path}; a mask has its photograph's size.
    """
    require_files(masks, "mask", "run infer_seg.py on the whole list; no zip is written")
    for image_id, mask in masks.items():
        check_size(open_mask(mask, num_labels), header_size(photos[image_id])[::-1], photos[image_id])
    remove_stale(Path(path).parent, Path(path).name)
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for image_id, mask in masks.items():
            entry = zipfile.ZipInfo(f"{SERVER_FOLDER}/{image_id}.png", LONG_AGO)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every operating system
            archive.writestr(entry, Path(mask).read_bytes())
    print(f"packed {len(masks)} masks for VOC's evaluation server: {path}", flush=True)
