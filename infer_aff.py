r"""Stage 4: pseudo labels, by a random walk of the class activation maps along AffinityNet's affinities.

reads   experiment/NAME/dict/ID.npy (infer.py --dict), ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/best.pth, --voc12_root
writes  experiment/NAME/rw/{low:02d}_{high:02d}{dup:02d}/ID.png: class ids 0..K, palette PNG with the VOC colours
        python infer_aff.py --name N --low 2 --high 21 --dup 19 --train_list voc12/train_aug.txt

Images that are done are skipped; results of other weights or settings are refused, or replaced with --overwrite. Under
torchrun each process takes its share of the list; where one dies, the next run does its images.
"""

from pathlib import Path

import torch
from tqdm import tqdm

from models.affinity import AffinityNet
from models.checkpoint import load_weights
from tool.io.files import UserError, read_list
from tool.pseudo_labels import refine_labels, stack_scores, walk_scores
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_crf_workers_argument,
    add_data_arguments,
    add_walk_arguments,
    add_width_argument,
    check_alphas,
    flag,
    next_command,
    positive,
    positive_int,
    scored_list,
)
from tool.run.background import Background
from tool.run.check import Check, timed
from tool.run.device import choose_device, memory_format
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.outputs import label_job
from tool.run.record import check_claim, claim_folder, file_hash, folder_settings, this_run
from tool.run.script import run_script
from tool.run.summary import Summary
from voc12.classes import load_classes
from voc12.data import WalkSet, check_images, check_scores, image_paths


def get_args_parser():
    parser = Parser("infer_aff.py", "AEFT stage 4: pseudo labels by a random walk.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    parser.add_list(parser.data, "--train_list", "voc12/train_aug.txt", "train", "list of images to label")
    add = parser.network.add_argument
    add("--weights", type=str, default=None, help="an AffinityNet checkpoint, instead of best.pth")
    add_width_argument(parser)
    add_walk_arguments(parser)
    add = parser.method.add_argument
    add("--beta", type=positive, default=8.0, help="power on the affinities")
    add("--steps", type=positive_int, default=64, help="length of the random walk")
    add = parser.run.add_argument
    add("--vis", action="store_true", help="also write colour overlays to rw_vis/")
    add_crf_workers_argument(parser)
    parser.ignore("val_list", "crop_size")
    return parser


def images_left(ids, folders):
    return [i for i in ids if not all((folder / f"{i}.png").is_file() for folder in folders.values())]


def check_run(check, net, ids, folders, settings, classes, dict_dir, args, device):
    """--check: images, maps, disk, and one image through the walk."""
    same = [check_claim(folder, settings, "*.png", args.overwrite) for folder in folders.values()]
    todo = images_left(ids, folders) if all(same) else ids
    sizes = check.images(image_paths(args.voc12_root, todo))
    for folder in folders.values():
        check.disk(folder, sum(w * h / 4 for w, h in sizes.values()))  # palette PNGs take less, overlays about this
    if not sizes:
        return check.end(0, 0, "nothing to do")
    first = walk_all(net, list(sizes)[:1], dict_dir, len(classes), args, device, Failures("stop", ""))
    (_, photo, keys, walked), seconds = timed(next, first)
    _, crf_seconds = timed(refine_labels, photo, keys, walked)
    check.end(
        len(todo) * (seconds + crf_seconds / args.crf_workers),
        len(todo),
        f"walk {seconds:.2f} s an image, CRF {crf_seconds:.2f} s",
    )


def walk_all(net, todo, dict_dir, num_classes, args, device, failures):
    """Walk the maps of all images -> (ID, photo H x W x 3 uint8, keys, scores K x H x W) of each."""
    walks = WalkSet(args.voc12_root, todo, dict_dir, num_classes, args.scale)
    for index, image_id in enumerate(tqdm(todo, "walk", unit="image", disable=None)):
        try:
            _, photo, view, maps = walks[index]
        except UserError as error:
            failures.add(image_id, error)
            continue
        keys, scores = stack_scores(maps, args.dup)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
            walked = walk_scores(net, view, scores, device, args.beta, args.steps)
        yield image_id, photo, keys, walked


def load_net(args, experiment, powers, device):
    """AffinityNet with the weights of --weights or best.pth -> (network, path)."""
    weights = Path(args.weights or experiment / "ckpt_aff" / f"aff{powers.replace('_', '')}" / "best.pth")
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such checkpoint; run train_aff.py --name {args.name} --low {args.low} "
            f"--high {args.high} --dup {args.dup}"
        )
    net = AffinityNet(width=args.width)
    load_weights(net, weights, part="all")
    return net.to(device, memory_format=memory_format(device, args.amp)).eval(), weights


def main(args):
    check_alphas(args)
    with Background(0 if args.check else args.crf_workers) as crf:  # first: it forks, before torch has threads
        world, device = join_world(choose_device(args.device))
        summary = Summary(device)
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
        net, weights = load_net(args, experiment, powers, device)
        folders = {"labels": experiment / "rw" / powers} | ({"vis": experiment / "rw_vis" / powers} if args.vis else {})
        settings = {
            "weights": file_hash(weights),
            "width": args.width,
            "dup": args.dup,
            "scale": args.scale,
            "beta": args.beta,
            "steps": args.steps,
            "amp": args.amp,
            "classes": list(classes),
            "maps": folder_settings(dict_dir),
        }
        ids = world.share(ids)
        if args.check:
            check = Check(world, f"{device} works, images and maps are there, weights fit")
            return check_run(check, net, ids, folders, settings, classes, dict_dir, args, device)
        run = this_run(args, device, world.size, [args.train_list], weights)

        def claim():
            failures.clear()
            return [claim_folder(folder, settings, "*.png", args.overwrite, run) for folder in folders.values()]

        origin = world.first(claim)[0]
        todo = images_left(ids, folders)
        print(
            f"infer_aff.py: {weights}, {device}, process {world.rank} of {world.size}: {len(ids)} images, "
            f"{len(ids) - len(todo)} done before",
            flush=True,
        )
        with summary.stage("walk") as stage:
            for image_id, *job in walk_all(net, todo, dict_dir, len(classes), args, device, failures):
                crf.submit(label_job, *job, [folder / f"{image_id}.png" for folder in folders.values()], origin)
                stage["images"] += 1
    summary.counts |= {"done": stage["images"], "skipped": len(ids) - len(todo)}
    summary.add("crf", crf)
    folder = ("--dict_dir", f"rw/{powers}")
    summary.end(
        "infer_aff.py",
        world,
        folders.values(),
        failures,
        next_command("evaluation.py", args, "--task", "png", *folder, *flag("--list", scored_list(args.train_list))),
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
