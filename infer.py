r"""Stage 2: class activation maps of a trained classifier ("seeds"), refined by dense CRF.

reads   --voc12_root, --infer_list, experiment/NAME/ckpt/{load_epo:03d}net_main.pth (or --weights)
writes  experiment/NAME/dict/ID.npy (--dict), crf/{alpha:02d}/ID.npy (--crf), vis/ID_CLASS.png (--vis)
        python infer.py --name N --model aeft_gpp --load_epo E --dict --crf --alphas 2 19 21 \
            --infer_list voc12/train_aug.txt

Images that are done are skipped, so a run that was cut off goes on when it is started again. Each output folder has a
run.json; results of another epoch or other settings are refused, or replaced with --overwrite. Under torchrun each
process takes its share of the list; where one dies, the next run does its images. While the network sees one image,
processes refine those before it and a thread writes.
"""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.aeft import AEFTNet
from models.checkpoint import load_weights
from models.resnet38d import ResNet38d
from tool.cam import multi_scale_cam
from tool.crf import crf_with_alphas
from tool.io.files import UserError, read_list
from tool.io.images import open_image
from tool.pseudo_labels import CRF_ITERATIONS
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_crf_workers_argument,
    add_data_arguments,
    add_width_argument,
    flag,
    natural,
    next_command,
    positive,
    power,
    scored_list,
)
from tool.run.background import Background
from tool.run.check import Check, timed
from tool.run.device import choose_device, memory_format
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.outputs import Outputs
from tool.run.record import check_claim, claim_folder, file_hash, this_run
from tool.run.script import run_script
from tool.run.summary import Summary
from voc12.classes import load_classes
from voc12.data import Broken, InferenceSet, check_images, image_path, image_paths, inference_loader, read_maps
from voc12.labels import load_labels
from voc12.transforms import InferenceViews


def get_args_parser():
    parser = Parser("infer.py", "AEFT stage 2: class activation maps and dense CRF.")
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_list(parser.data, "--infer_list", "voc12/train_aug.txt", "train", "list of images")
    add = parser.network.add_argument
    add("--model", type=str, default="aeft_gpp", choices=["aeft_gpp"], help="network to load")
    add_width_argument(parser)
    add("--load_epo", type=natural, default=None, help="epoch of the checkpoint, from 0")
    add("--weights", type=str, default=None, help="a checkpoint file, instead of --load_epo")
    add = parser.method.add_argument
    text = "powers of the background score for CRF, 1 to 99"
    add("--alphas", type=power, nargs="+", default=[2, 19, 21], help=text)
    text = "sizes at which an image is seen, relative to its own"
    add("--scales", type=positive, nargs="+", default=[0.5, 1.0, 1.5, 2.0], help=text)
    add = parser.run.add_argument
    add("--dict", action="store_true", help="write the class activation maps")
    add("--crf", action="store_true", help="write CRF scores, one folder an alpha")
    add("--vis", action="store_true", help="write an overlay PNG for every class of an image")
    text = "write scores as compressed half floats, about a tenth of the disk; all scripts read both"
    add("--compress", action="store_true", help=text)
    add_crf_workers_argument(parser)
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


def stored_maps(stored, outputs, voc12_root, failures):
    """Images whose maps were written before: CRF and overlays need no network. Yields as `network_maps`."""
    for image_id in tqdm(stored, "from dict", unit="image", disable=None):
        try:
            image = np.array(open_image(image_path(voc12_root, image_id)))
            cams = read_maps(outputs.folders["dict"] / f"{image_id}.npy", image.shape[:2], len(outputs.classes))
        except UserError as error:
            failures.add(image_id, error)
            continue
        yield image_id, image, cams


def network_maps(net, todo, labels, args, device, num_workers, failures=None):
    """Images without maps: run the network on every view -> (ID, H x W x 3 uint8, {class: H x W float32}) of each."""
    if not todo:
        return
    form = memory_format(device, args.amp)
    net = net.to(device, memory_format=form).eval()
    dataset = InferenceSet(args.voc12_root, todo, labels, InferenceViews(args.scales))
    loader = inference_loader(dataset, num_workers, pin_memory=device.type == "cuda")
    for sample in tqdm(loader, "maps", unit="image", disable=None):
        if isinstance(sample, Broken):
            failures.add(sample.image_id, sample.reason)
            continue
        image_id, image, views, label = sample
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
            views = [view.to(device, non_blocking=True).contiguous(memory_format=form) for view in views]
            cam = multi_scale_cam(net, views, label, image.shape[:2]).cpu().numpy()
        yield image_id, image.numpy(), {int(c): cam[c] for c in np.flatnonzero(label.numpy())}


def check_run(check, outputs, net, todo, stored, labels, args, device):
    """--check: images, disk, and one image through network and CRF."""
    sizes = check.images(image_paths(args.voc12_root, [*todo, *stored]))
    share = 1 / 8 if args.compress else 1
    per_map = {i: 4 * w * h * share for i, (w, h) in sizes.items()}
    present = {i: int(labels[i].sum()) for i in sizes}
    for key, folder in outputs.folders.items():
        maps = 0.5 if key == "vis" else 1
        check.disk(folder, sum(per_map[i] * maps * (present[i] + isinstance(key, int)) for i in sizes))
    usable = [i for i in todo if i in sizes]
    seconds, crf_seconds = 0.0, 0.0
    if usable:
        (_, image, cams), seconds = timed(next, network_maps(net, usable[:1], labels, args, device, 0))
        if args.crf:
            _, crf_seconds = timed(crf_with_alphas, image, cams, args.alphas, CRF_ITERATIONS)
    crf_seconds /= args.crf_workers
    both = seconds + crf_seconds if device.type == "cpu" else max(seconds, crf_seconds)  # they share the cores there
    check.end(
        both * len(todo) + crf_seconds * len(stored),
        len(todo),
        f"network {seconds:.2f} s an image, CRF {crf_seconds:.2f} s",
    )


def main(args):
    if not (args.dict or args.crf or args.vis):
        raise UserError("nothing to write: give --dict, --crf or --vis")
    experiment = Path(args.experiment) / args.name
    classes = load_classes(args.classes)
    ids = read_list(args.infer_list)
    folders = output_folders(args, experiment)
    failures = Failures(args.on_error, next(iter(folders.values())) / "failed.txt")
    weights = find_checkpoint(args, experiment)
    with ExitStack() as stack:
        # first: it forks, before torch has threads
        crf = stack.enter_context(Background(args.crf_workers if args.crf and not args.check else 0))
        world, device = join_world(choose_device(args.device))
        summary = Summary(device)
        torch.manual_seed(args.seed)
        net = AEFTNet(ResNet38d(args.width), len(classes))
        load_weights(net, weights, part="all")
        settings = {
            "weights": file_hash(weights),
            "epoch": args.load_epo,
            "model": args.model,
            "width": args.width,
            "scales": args.scales,
            "amp": args.amp,
            "compress": args.compress,
            "classes": list(classes),
        }
        outputs = Outputs(folders, classes, settings, args.compress)
        if args.check:
            check = Check(world, f"{device} works, list and labels are read, weights fit")
            outputs.anew = [k for k, same in outputs.each(check_claim, overwrite=args.overwrite).items() if not same]
        else:
            world.first(failures.clear)
        ids, labels = usable_images(world.share(ids), args, classes, failures)
        if not args.check:
            run = this_run(args, device, world.size, [args.infer_list], weights)
            outputs.origins = world.first(partial(outputs.each, claim_folder, overwrite=args.overwrite, run=run))
        missing = {i: outputs.missing(i, labels[i]) for i in ids}
        left = [i for i in ids if missing[i]]
        stored = [i for i in left if "dict" in folders and "dict" not in missing[i]]
        has_maps = set(stored)
        todo = [i for i in left if i not in has_maps]
        if args.check:
            return check_run(check, outputs, net, todo, stored, labels, args, device)
        print(
            f"infer.py: {weights}, {device}, process {world.rank} of {world.size}: {len(ids)} images, "
            f"{len(ids) - len(left)} done before, {len(stored)} from stored maps, {len(todo)} through the network",
            flush=True,
        )
        outputs.crf, outputs.writer = crf, stack.enter_context(Background())
        for name, maps in (
            ("from dict", stored_maps(stored, outputs, args.voc12_root, failures)),
            ("maps", network_maps(net, todo, labels, args, device, args.num_workers, failures)),
        ):
            with summary.stage(name) as stage:
                for image_id, image, cams in maps:
                    outputs.write(image_id, image, cams, missing[image_id])
                    stage["images"] += 1
    summary.counts |= {
        "done": sum(stage["images"] for stage in summary.stages.values()),
        "skipped": len(ids) - len(left),
    }
    summary.add("crf", crf)
    summary.add("writing", outputs.writer)
    next_task = ("crf", "--dict_dir", f"crf/{args.alphas[0]:02d}") if args.crf else ("cam", "--dict_dir", "dict")
    summary.end(
        "infer.py",
        world,
        folders.values(),
        failures,
        next_command("evaluation.py", args, "--task", *next_task, *flag("--list", scored_list(args.infer_list))),
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
