r"""Stage 4: pseudo labels, by a random walk of the class activation maps along AffinityNet's affinities.

reads   experiment/NAME/dict/ID.npy (infer.py --dict), ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/best.pth, --voc12_root
writes  experiment/NAME/rw/{low:02d}_{high:02d}{dup:02d}/ID.png: class ids 0..K, palette PNG with the VOC colours
        python infer_aff.py --name N --low 2 --high 21 --dup 19 --train_list voc12/train_aug.txt

Images that are done are skipped; those whose photographs or maps changed are done again (inputs.tsv). Results of other
weights or settings are refused, or replaced with --overwrite. Under torchrun each process takes its share of the list;
where one dies, the next run does its images.
"""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from models.affinity import AffinityNet
from models.checkpoint import load_weights
from models.trunks import make_trunk
from tool.crf import load_crf
from tool.io.files import UserError, read_list
from tool.pseudo_labels import refine_labels, stack_scores, walk_scores
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_crf_workers_argument,
    add_data_arguments,
    add_trunk_arguments,
    add_walk_arguments,
    check_alphas,
    flag,
    next_command,
    positive,
    positive_int,
)
from tool.run.background import Background
from tool.run.check import Check, timed
from tool.run.device import choose_device, memory_format, one_thread
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.inputs import Inputs
from tool.run.lock import locked
from tool.run.outputs import Output, Outputs, label_job
from tool.run.record import file_hash, folder_settings, this_run
from tool.run.script import run_script
from tool.run.summary import Summary
from voc12.classes import load_classes
from voc12.data import Broken, WalkSet, check_images, check_scores, image_path, image_paths, inference_loader
from voc12.inference import in_range, scorable_list
from voc12.transforms import look_of


def get_args_parser():
    parser = Parser("infer_aff.py", "AEFT stage 4: pseudo labels by a random walk.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    parser.add_list(parser.data, "--train_list", "voc12/train_aug.txt", "train", "list of images to label")
    add = parser.network.add_argument
    add("--weights", type=str, default=None, help="an AffinityNet checkpoint, instead of best.pth")
    add_trunk_arguments(parser)
    add_walk_arguments(parser)
    add = parser.method.add_argument
    add("--beta", type=positive, default=8.0, help="power on the affinities")
    add("--steps", type=positive_int, default=64, help="length of the random walk")
    add = parser.run.add_argument
    add("--vis", action="store_true", help="also write colour overlays to rw_vis/")
    add_crf_workers_argument(parser)
    parser.ignore("val_list", "crop_size")
    return parser


# ---------------------------------------------------------------- plan: what is asked, what is there


def load_net(args, experiment, powers, device):
    """AffinityNet with the weights of --weights or best.pth -> (network, path)."""
    weights = Path(args.weights or experiment / "ckpt_aff" / f"aff{powers.replace('_', '')}" / "best.pth")
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such checkpoint; run train_aff.py --name {args.name} --low {args.low} "
            f"--high {args.high} --dup {args.dup}"
        )
    net = AffinityNet(make_trunk(args.trunk, args.width, args.output_stride))
    load_weights(net, weights, part="all")
    return net.to(device, memory_format=memory_format(device, args.amp)).eval(), weights


def output_folders(args, experiment, powers, weights, classes):
    """The folder of the pseudo labels, and with --vis that of their overlays."""
    settings = {
        "weights": file_hash(weights),
        "width": args.width,
        "trunk": args.trunk,
        "output_stride": args.output_stride,
        "dup": args.dup,
        "scale": args.scale,
        "beta": args.beta,
        "steps": args.steps,
        "amp": args.amp,
        "classes": list(classes),
        "maps": folder_settings(experiment / "dict"),
    }
    names = ("rw", "rw_vis") if args.vis else ("rw",)
    return [Output(experiment / name / powers, settings, ".png") for name in names]


def walk_all(args, net, todo, dict_dir, num_classes, device, failures):
    """Walk the maps of all images -> (ID, photo H x W x 3 uint8, keys, scores K x H x W) of each."""
    walks = WalkSet(args.voc12_root, todo, dict_dir, num_classes, args.scale, look_of(net.trunk))
    loader = inference_loader(walks, min(args.num_workers, len(todo)), pin_memory=device.type == "cuda")
    said = set()
    for sample in tqdm(loader, "walk", unit="image", disable=None):
        if isinstance(sample, Broken):
            failures.add(sample.image_id, sample.reason)
            continue
        image_id, photo, view, maps = sample
        maps = {k: m.numpy() for k, m in maps.items()}
        keys, scores = stack_scores(in_range(maps, f"{dict_dir}/{image_id}.npy", said), args.dup)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
            walked = walk_scores(net, view, scores, device, args.beta, args.steps)
        yield image_id, photo.numpy(), keys, walked


# ---------------------------------------------------------------- check


def check_run(check, args, outputs, walk):
    """--check: images, maps, disk, and one image through the walk. walk: the function IDs -> what `walk_all` gives."""
    for output in outputs.surveys:
        output.check(args.overwrite)
    sizes = check.images(image_paths(args.voc12_root, outputs.left))
    pixels = sum(w * h for w, h in sizes.values())
    check.disks({output.folder: pixels / 4 for output in outputs.surveys})
    if not sizes:
        return check.end(0, 0, "nothing to do")
    (_, photo, keys, walked), seconds = timed(next, walk(list(sizes)[:1]))
    _, crf_seconds = timed(refine_labels, photo, keys, walked)
    text = f"walk {seconds:.2f} s an image, CRF {crf_seconds:.2f} s"
    check.end(len(outputs.left) * (seconds + crf_seconds / args.crf_workers), len(outputs.left), text)


# ---------------------------------------------------------------- run


def next_stage(args, powers, ids):
    """The command that scores the labels; None where there are no masks."""
    scored = scorable_list(args.train_list, ids, args.voc12_root)
    if scored is None:
        return None
    words = ("--task", "png", "--dict_dir", f"rw/{powers}", *flag("--list", scored))
    return next_command("evaluation.py", args, *words)


def main(args):
    check_alphas(args)
    load_crf()
    world, device = join_world(choose_device(args.device))
    summary = Summary(device)
    torch.manual_seed(args.seed)
    classes, everything = load_classes(args.classes), read_list(args.train_list)
    experiment = Path(args.experiment) / args.name
    dict_dir, powers = experiment / "dict", f"{args.low:02d}_{args.high:02d}{args.dup:02d}"
    failures = Failures(args.on_error, experiment / "rw" / powers / "failed.txt", held=True)
    if not failures.skip:
        check_images(everything, args.voc12_root)
        check_scores(everything, dict_dir, args.train_list, "run infer.py --dict")
    with one_thread():  # processes are forked below, and a fork does not copy torch's threads
        net, weights = load_net(args, experiment, powers, device)
    folders = output_folders(args, experiment, powers, weights, classes)
    ids = world.share(everything)
    inputs = Inputs(ids, partial(image_path, args.voc12_root), lambda image_id: f"{dict_dir}/{image_id}.npy")
    walk = partial(walk_all, args, net, dict_dir=dict_dir, num_classes=len(classes), device=device)
    if args.check:
        check = Check(world, f"{device} works, images and maps are there, weights fit")
        return check_run(check, args, Outputs(folders, inputs), partial(walk, failures=Failures("stop", "")))
    with ExitStack() as stack:
        stack.enter_context(locked([output.folder for output in folders], world))
        crf = stack.enter_context(Background(args.crf_workers))
        failures.begin(world)
        run = this_run(args, device, world.size, [args.train_list], weights)
        world.first(lambda: [output.claim(args.overwrite, run) for output in folders] and None)
        outputs = Outputs(folders, inputs)
        outputs.renew()
        print(
            f"infer_aff.py: {weights}, {device}, process {world.rank} of {world.size}: {outputs.describe()}", flush=True
        )
        with summary.stage("walk") as stage:
            for image_id, photo, keys, walked in walk(list(outputs.left), failures=failures):
                lacking = outputs.begin(image_id, keys[1:] - 1)
                files = [(output.path(image_id), output.origin) if output in lacking else None for output in folders]
                crf.submit(partial(label_job, names=classes), photo, keys, walked, *files)
                stage["images"] += 1
    summary.counts |= {"done": stage["images"], "skipped": len(ids) - len(outputs.left)}
    summary.add("crf", crf)
    summary.end(
        "infer_aff.py", world, [output.folder for output in folders], failures, next_stage(args, powers, everything)
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
