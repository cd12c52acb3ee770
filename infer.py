r"""Stage 2: class activation maps of a trained classifier ("seeds"), refined by dense CRF.

reads   --voc12_root, --infer_list, experiment/NAME/ckpt/{load_epo:03d}net_main.pth (or --weights)
writes  experiment/NAME/dict/ID.npy (--dict), crf/{alpha:02d}/ID.npy (--crf), vis/ID_CLASS.png (--vis)
        python infer.py --name N --model aeft_gpp --load_epo E --dict --crf --alphas 2 19 21 \
            --infer_list voc12/train_aug.txt

Images that are done are skipped, so a run that was cut off goes on when it is started again. Each output folder has a
run.json; results of another epoch or other settings are refused, or replaced with --overwrite. Under torchrun each
process takes its share of the list; where one dies, the next run does its images.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.aeft import AEFTNet
from models.checkpoint import load_weights
from models.resnet38d import ResNet38d
from tool.arguments import add_common_arguments, add_data_arguments, natural, positive, positive_int, power
from tool.cam import multi_scale_cam
from tool.crf_pool import CrfPool
from tool.distributed import join_world, local_processes
from tool.failures import Failures, add_failure_argument
from tool.files import UserError, read_list, run_script, write_scores
from tool.images import heat_overlay, open_image, save_image
from tool.record import claim_folder, file_hash
from tool.training import choose_device, memory_format
from voc12.classes import load_classes
from voc12.data import InferenceSet, check_images, image_path, inference_loader, read_maps
from voc12.labels import load_labels
from voc12.transforms import InferenceViews

CRF_ITERATIONS = 10


def get_args_parser():
    parser = argparse.ArgumentParser("infer.py", description="AEFT stage 2: class activation maps and dense CRF.")
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--model", type=str, default="aeft_gpp", choices=["aeft_gpp"], help="network to load")
    parser.add_argument("--width", type=positive, default=1.0, help="factor on the trunk's channels, as trained")
    parser.add_argument("--load_epo", type=natural, default=None, help="epoch of the checkpoint, from 0")
    parser.add_argument("--weights", type=str, default=None, help="a checkpoint file, instead of --load_epo")
    parser.add_argument("--infer_list", type=str, default="voc12/train_aug.txt", help="list of images")
    parser.add_argument("--dict", action="store_true", help="write the class activation maps")
    parser.add_argument("--crf", action="store_true", help="write CRF scores, one folder an alpha")
    parser.add_argument("--vis", action="store_true", help="write an overlay PNG for every class of an image")
    parser.add_argument("--alphas", type=power, nargs="+", default=[2, 19, 21],
                        help="powers of the background score for CRF, 1 to 99")
    parser.add_argument("--scales", type=positive, nargs="+", default=[0.5, 1.0, 1.5, 2.0],
                        help="sizes at which an image is seen, relative to its own")
    parser.add_argument("--crf_workers", type=positive_int, default=max(1, (os.cpu_count() or 1) // local_processes()),
                        help="processes for CRF, of each process that torchrun starts")
    add_failure_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="delete results of other settings")
    return parser


def find_checkpoint(args, experiment):
    """Path of the weights; UserError says which epochs there are."""
    if (args.load_epo is None) == (args.weights is None):
        raise UserError("give one of --load_epo EPOCH and --weights FILE")
    if args.weights:
        return Path(args.weights)
    path = experiment / "ckpt" / f"{args.load_epo:03d}net_main.pth"
    if not path.is_file():
        epochs = sorted(int(p.name[:3]) for p in path.parent.glob("[0-9][0-9][0-9]net_main.pth"))
        there = f"epochs there: {' '.join(map(str, epochs))}" if epochs else "no epoch is there; run train.py first"
        raise UserError(f"{path}: no such checkpoint; {there}")
    return path


def usable_images(ids, args, classes, failures):
    """IDs that have an image and a label -> (IDs, labels); see --on_error for the others."""
    try:
        check_images(ids, args.voc12_root)
        return ids, load_labels(ids, args.voc12_root, classes, args.cls_labels)
    except UserError:
        if not failures.skip:
            raise
    labels = {}

    def check(image_id):
        check_images([image_id], args.voc12_root)
        labels.update(load_labels([image_id], args.voc12_root, classes, args.cls_labels))

    return failures.usable(ids, check), labels


def output_folders(args, experiment):
    """{"dict": path, "vis": path, alpha: path} of those that were asked for."""
    folders = {"dict": experiment / "dict"} if args.dict else {}
    folders |= {alpha: experiment / "crf" / f"{alpha:02d}" for alpha in args.alphas if args.crf}
    return folders | ({"vis": experiment / "vis"} if args.vis else {})


def claim_outputs(args, folders, weights):
    """Claim every output folder for results of these weights and settings."""
    settings = {"weights": file_hash(weights), "epoch": args.load_epo, "model": args.model, "width": args.width,
                "scales": args.scales, "amp": args.amp, "classes": list(load_classes(args.classes))}
    for key, folder in folders.items():
        more = {"alpha": key, "iterations": CRF_ITERATIONS} if isinstance(key, int) else {}
        claim_folder(folder, settings | more, "*.png" if key == "vis" else "*.npy", args.overwrite)


def outputs_missing(image_id, folders, classes, label):
    """Keys of `folders` that lack this image."""
    missing = []
    for key, folder in folders.items():
        if key == "vis":
            paths = [folder / f"{image_id}_{classes[c]}.png" for c in np.flatnonzero(label)]
        else:
            paths = [folder / f"{image_id}.npy"]
        if not all(path.is_file() for path in paths):
            missing.append(key)
    return missing


def write_outputs(image_id, image, cams, missing, folders, classes, pool):
    """Write what is missing for one image. image: H x W x 3 uint8; cams: {class: H x W float32}."""
    if "dict" in missing:
        write_scores(folders["dict"] / f"{image_id}.npy", cams)
    if "vis" in missing:
        for c, cam in cams.items():
            save_image(folders["vis"] / f"{image_id}_{classes[c]}.png", heat_overlay(image, cam))
    paths = {key: folders[key] / f"{image_id}.npy" for key in missing if isinstance(key, int)}
    if paths:
        pool.submit(image, cams, paths, CRF_ITERATIONS)


def from_stored_maps(stored, missing, args, folders, classes, pool, failures):
    """Images whose maps were written before: CRF and overlays need no network."""
    for image_id in tqdm(stored, "from dict", unit="image", disable=None):
        try:
            image = np.array(open_image(image_path(args.voc12_root, image_id)))
            cams = read_maps(folders["dict"] / f"{image_id}.npy", image.shape[:2], len(classes))
        except UserError as error:
            failures.add(image_id, error)
            continue
        write_outputs(image_id, image, cams, missing[image_id], folders, classes, pool)


def from_network(net, todo, missing, labels, args, folders, classes, pool, device, failures):
    """Images without maps: run the network on every view."""
    net = net.to(device, memory_format=memory_format(device, args.amp)).eval()
    form = memory_format(device, args.amp)
    dataset = InferenceSet(args.voc12_root, todo, labels, InferenceViews(args.scales))
    loader = inference_loader(dataset, args.num_workers, pin_memory=device.type == "cuda")
    for image_id, image, views, label in tqdm(loader, "maps", unit="image", disable=None):
        if image is None:
            failures.add(image_id, views)
            continue
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
            views = [view.to(device, non_blocking=True).contiguous(memory_format=form) for view in views]
            cam = multi_scale_cam(net, views, label, image.shape[:2]).cpu().numpy()
        cams = {int(c): cam[c] for c in np.flatnonzero(label.numpy())}
        write_outputs(image_id, image.numpy(), cams, missing[image_id], folders, classes, pool)


def main(args):
    if not (args.dict or args.crf or args.vis):
        raise UserError("nothing to write: give --dict, --crf or --vis")
    experiment = Path(args.experiment) / args.name
    classes = load_classes(args.classes)
    ids = read_list(args.infer_list)
    folders = output_folders(args, experiment)
    failures = Failures(args.on_error, next(iter(folders.values())) / "failed.txt")
    weights = find_checkpoint(args, experiment)
    with CrfPool(args.crf_workers if args.crf else 0) as pool:  # first: it forks, before torch has threads
        world, device = join_world(choose_device(args.device))
        torch.manual_seed(args.seed)
        net = AEFTNet(ResNet38d(args.width), len(classes))
        load_weights(net, weights, part="all")
        world.first(failures.clear)
        ids, labels = usable_images(world.share(ids), args, classes, failures)
        world.first(partial(claim_outputs, args, folders, weights))
        missing = {i: outputs_missing(i, folders, classes, labels[i]) for i in ids}
        left = [i for i in ids if missing[i]]
        stored = [i for i in left if "dict" in folders and "dict" not in missing[i]]
        has_maps = set(stored)
        todo = [i for i in left if i not in has_maps]
        print(f"infer.py: {weights}, {device}, process {world.rank} of {world.size}: {len(ids)} images, "
              f"{len(ids) - len(left)} done before, {len(stored)} from stored maps, {len(todo)} through the network",
              flush=True)
        from_stored_maps(stored, missing, args, folders, classes, pool, failures)
        if todo:
            from_network(net, todo, missing, labels, args, folders, classes, pool, device, failures)
    world.leave()
    if not world.main:
        return
    for folder in folders.values():
        print(f"infer.py: wrote {folder}")
    failures.report()
    next_task = f"crf --dict_dir crf/{args.alphas[0]:02d}" if args.crf else "cam --dict_dir dict"
    print(f"next: python evaluation.py --name {args.name} --task {next_task}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
