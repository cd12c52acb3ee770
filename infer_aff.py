r"""Stage 4: pseudo labels, by a random walk of the class activation maps along AffinityNet's affinities.

reads   experiment/NAME/dict/ID.npy (infer.py --dict), ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/best.pth, --voc12_root
writes  experiment/NAME/rw/{low:02d}_{high:02d}{dup:02d}/ID.png: class ids 0..K, palette PNG with the VOC colours
        python infer_aff.py --name N --low 2 --high 21 --dup 19 --train_list voc12/train_aug.txt

Images that are done are skipped; results of other weights or settings are refused, or replaced with --overwrite. Under
torchrun each process takes its share of the list; where one dies, the next run does its images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.affinity import AffinityNet
from models.checkpoint import load_weights
from tool.arguments import (
    add_common_arguments,
    add_data_arguments,
    add_walk_arguments,
    check_alphas,
    positive,
    positive_int,
)
from tool.distributed import join_world
from tool.failures import Failures, add_failure_argument
from tool.files import UserError, read_list, run_script
from tool.images import label_image, label_overlay, save_image
from tool.pseudo_labels import refine_labels, walk_image
from tool.record import claim_folder, file_hash, folder_settings
from tool.training import choose_device, memory_format
from voc12.classes import load_classes
from voc12.data import check_images, check_scores


def get_args_parser():
    parser = argparse.ArgumentParser("infer_aff.py", description="AEFT stage 4: pseudo labels by a random walk.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    add_walk_arguments(parser)
    parser.add_argument("--train_list", type=str, default="voc12/train_aug.txt", help="list of images to label")
    parser.add_argument("--weights", type=str, default=None, help="an AffinityNet checkpoint, instead of best.pth")
    parser.add_argument("--width", type=positive, default=1.0, help="factor on the trunk's channels, as trained")
    parser.add_argument("--beta", type=positive, default=8.0, help="power on the affinities")
    parser.add_argument("--steps", type=positive_int, default=64, help="length of the random walk")
    parser.add_argument("--vis", action="store_true", help="also write colour overlays to rw_vis/")
    add_failure_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="delete results of other settings")
    return parser


def main(args):
    check_alphas(args)
    world, device = join_world(choose_device(args.device))
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    ids = read_list(args.train_list)
    experiment = Path(args.experiment) / args.name
    dict_dir = experiment / "dict"
    powers = f"{args.low:02d}_{args.high:02d}{args.dup:02d}"
    failures = Failures(args.on_error, experiment / "rw" / powers / "failed.txt")
    if not failures.skip:
        check_images(ids, args.voc12_root)
        check_scores(ids, dict_dir, args.train_list, "infer.py --dict")
    weights = Path(args.weights or experiment / "ckpt_aff" / f"aff{powers.replace('_', '')}" / "best.pth")
    if not weights.is_file():
        raise UserError(f"{weights}: no such checkpoint; run train_aff.py --name {args.name} --low {args.low} "
                        f"--high {args.high} --dup {args.dup}")
    net = AffinityNet(args.width)
    load_weights(net, weights, part="all")
    net = net.to(device, memory_format=memory_format(device, args.amp)).eval()
    folders = {"labels": experiment / "rw" / powers} | ({"vis": experiment / "rw_vis" / powers} if args.vis else {})
    settings = {"weights": file_hash(weights), "width": args.width, "dup": args.dup, "scale": args.scale,
                "beta": args.beta, "steps": args.steps, "amp": args.amp, "classes": list(classes),
                "maps": folder_settings(dict_dir)}

    def claim():
        failures.clear()
        for folder in folders.values():
            claim_folder(folder, settings, "*.png", args.overwrite)

    world.first(claim)
    ids = world.share(ids)
    todo = [i for i in ids if not all((folder / f"{i}.png").is_file() for folder in folders.values())]
    print(f"infer_aff.py: {weights}, {device}, process {world.rank} of {world.size}: {len(ids)} images, "
          f"{len(ids) - len(todo)} done before", flush=True)
    for image_id in tqdm(todo, "walk", unit="image", disable=None):
        try:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
                keys, walked, photo = walk_image(net, args.voc12_root, image_id, dict_dir, len(classes), args.dup,
                                                 device, args.scale, args.beta, args.steps)
        except UserError as error:
            failures.add(image_id, error)
            continue
        labels = refine_labels(np.array(photo), keys, walked)
        save_image(folders["labels"] / f"{image_id}.png", label_image(labels))
        if args.vis:
            save_image(folders["vis"] / f"{image_id}.png", label_overlay(photo, labels))
    world.leave()
    if not world.main:
        return
    for folder in folders.values():
        print(f"infer_aff.py: wrote {folder}")
    failures.report()
    print(f"next: python evaluation.py --name {args.name} --task png --dict_dir rw/{powers}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
