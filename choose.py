"""Settings from a handful of masks: what the stages after the classifier take where no flag says otherwise.

reads   experiment/NAME/dict/ID.npy (infer.py --dict), photographs and masks of --list;
        once train_aff.py has run with what was chosen also ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/best.pth
writes  experiment/NAME/settings.json: "chosen", defaults of infer.py --crf and --png, train_aff.py, infer_aff.py and of
        the threshold of evaluation.py; with --curve experiment/NAME/curve.json instead
        python choose.py --name N --list few.txt

Chosen are the background threshold of the maps, the widths of the CRF's kernels and the power whose CRF labels are best
(--dup), the powers with the surest objects (--low) and the surest background (--high), and, where its AffinityNet is
there, the power on the affinities (--beta). What is printed is no oracle: each fold of the masks is scored with what is
best on the others; the settings that are kept are best on all of them.
"""

from functools import partial
from itertools import product

import numpy as np
import torch

from engine import flags
from engine.choosing import Masked, by_fold, count_all, count_walks
from engine.distributed import join_world
from engine.experiment import Experiment, describe_chosen, next_command, write_chosen
from engine.networks import affinity_net
from engine.recipes import OTHERS
from tool.cli import natural, positive, positive_int, power, run_script, several
from tool.crf import RELEASED, crf_of_large, load_crf
from tool.io.files import UserError, folder_settings, read_list, require_files, write_json
from tool.metrics import choice, choice_of_few, split_folds, sure_powers, thresholds_between
from tool.par import par_of_large
from tool.tables import few_table
from tool.workers import usable_cores
from voc12.classes import load_classes
from voc12.data import WalkSet
from voc12.paths import check_images, check_scores, mask_path
from voc12.transforms import look_of

THRESHOLDS = thresholds_between(0.02, 0.90)
DRAWS = 20  # of a few masks, for --curve


def get_args_parser():
    parser = flags.Parser("choose.py", "Settings of the later stages from a handful of masks.")
    flags.add_experiment(parser)
    flags.add_data(parser, labels=False)
    parser.add_list("--list", "voc12/train.txt", "train", "list of photographs with masks")
    flags.add_trunk(parser)
    add = partial(parser.method, nargs="+")
    text = "background powers of the CRF to try, 1 to 99"
    add("--alphas", type=power, default=[1, 2, 3, 4, 6, 8, 12, 16, 20, 26], help=text)
    flags.add_refine(parser)
    text = "widths in space to try, of the CRF's kernel of place and colour"
    add("--sxy", type=positive, default=[40.0, 80.0], help=text)
    add("--srgb", type=positive, default=[5.0, 13.0], help="widths in colour to try, of that kernel")
    add("--betas", type=positive, default=[4.0, 8.0, 16.0, 32.0], help="powers on affinities to try")
    text = "longer side in pixels that widths in space are meant for; they follow that of each photograph; 0: any"
    parser.method("--sxy_side", type=natural, default=RELEASED.side, help=text)
    parser.add_other({"sxy_side": OTHERS["sxy_side"]}, data=True)
    flags.add_max_side(parser)
    text = "parts of the list; each is scored with what is best on the others; with fewer masks one a mask"
    parser.method("--folds", type=several, default=5, help=text)
    text = "choose nothing, but say how many masks are enough: on so many, drawn 20 times, scored on the others"
    add("--curve", type=positive_int, default=None, metavar="MASKS", help=text)
    parser.method("--seed", type=natural, default=0, help="seed of the parts and draws")
    parser.run("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.run("--crf_workers", type=positive_int, default=usable_cores(), help="processes for CRF")
    return parser


def read_masked(args, experiment):
    """IDs of --list; UserError where photographs, masks or maps are missing, or there are too few."""
    ids = read_list(args.list)
    if len(ids) < 2:
        raise UserError(
            f"{args.list}: one mask; two at least, so that one can be scored with what is best on the other"
        )
    if args.curve and max(args.curve) >= len(ids):
        raise UserError(f"--curve {max(args.curve)}: {args.list} has {len(ids)} masks, and some must be left to score")
    if len(set(args.alphas)) < 2:
        raise UserError("--alphas: two at least, since --low is below --high")
    check_images(ids, args.voc12_root)
    require_files({i: mask_path(args.voc12_root, i) for i in ids}, "mask", f"list in {args.list} what has one")
    epochs = [path.name[:3] for path in experiment.classifier.newest()[:1]]
    words = {"load_epo": int(epochs[0]) if epochs else "EPOCH", "dict": True, "infer_list": args.list}
    check_scores(ids, experiment.maps, args.list, f"run {next_command('infer.py', args, **words)}")
    return ids


def count_crf(args, ids, masked):
    """What is tried, and how it does -> (alphas, kernels, [(ID, counts of maps and CRF, see `count_settings`)])."""
    alphas = sorted(set(args.alphas))
    kernels = [RELEASED._replace(bilateral_sxy=a, srgb=b, side=args.sxy_side) for a, b in product(args.sxy, args.srgb)]
    refine = [partial(crf_of_large, max_side=args.max_side, pairwise=kernel) for kernel in kernels]
    if args.refine == "par":
        kernels, refine = [None], [par_of_large]
    counted = count_all(ids, args.crf_workers, masked, thresholds=THRESHOLDS, alphas=alphas, refine=refine)
    return alphas, kernels, list(counted)


def widths(kernel):
    """The flags of a kernel of the CRF; of None, which stands for PAR, that it was this."""
    if kernel is None:
        return {"refine": "par"}
    return {"sxy": kernel.bilateral_sxy, "srgb": kernel.srgb, "sxy_side": kernel.side}


def choose_crf(alphas, kernels, counted, parts):
    """-> ({flag: value}, {stage: figures}, kernel) of maps and CRF."""
    threshold, cam = choice(by_fold(((i, counts[0]) for i, counts in counted), parts), THRESHOLDS)
    refined = by_fold(((i, counts[1]) for i, counts in counted), parts)  # folds x kernels x alphas x L x L
    (kernel, dup), crf = choice(refined.reshape(len(refined), -1, *refined.shape[3:]), list(product(kernels, alphas)))
    low, high = sure_powers(refined.sum(0)[kernels.index(kernel)], alphas, dup)
    chosen = {"threshold": threshold, "low": low, "high": high, "dup": dup, "alphas": [low, dup, high]}
    crf["folds"] = [widths(k) | {"dup": alpha} for k, alpha in crf["folds"]]
    return chosen | widths(kernel), {"cam": cam, "par" if kernel is None else "crf": crf}, kernel


def write_curve(args, path, alphas, kernels, counted):
    """How good the settings are that a few masks choose: the mIoU on the others, as a table and in `path`."""
    cams, refined = (np.stack(counts) for counts in zip(*(counts for _, counts in counted)))
    refined = refined.reshape(len(refined), -1, *refined.shape[3:])
    names = [
        ", ".join([str(alpha), *(f"{k} {v}".removesuffix(".0") for k, v in widths(one).items() if k != "sxy_side")])
        for one, alpha in product(kernels, alphas)
    ]
    draw = partial(choice_of_few, draws=DRAWS, seed=args.seed)
    curve = [
        {"masks": few, "draws": DRAWS, "cam": draw(cams, THRESHOLDS, few), "crf": draw(refined, names, few)}
        for few in args.curve
    ]
    write_json(path, {"of": f"{len(counted)} masks of {args.list}", "curve": curve})
    print(few_table(curve), f"choose.py: wrote {path}", sep="\n")


def choose_walk(args, ids, parts, masked, chosen, kernel):
    """The same of the walk, ({}, {}) where AffinityNet was not trained with the powers that are chosen."""
    place = Experiment.of(args).affinity((chosen["low"], chosen["high"], chosen["dup"]))
    if not place.best.is_file():
        print(f"{place.best}: not there, so no power of the walk is chosen; run this again after train_aff.py")
        return {}, {}
    net = affinity_net(args, place.best).to(join_world(args.device).device).eval()
    scale = (folder_settings(place.folder) or {}).get("scale", 1.0)
    look, classes = look_of(net.trunk), masked.num_labels - 1
    walks = WalkSet(args.voc12_root, ids, masked.maps, classes, scale, look, args.max_side)
    beta, walk = choice(by_fold(count_walks(net, walks, masked, chosen["dup"], args.betas, kernel), parts), args.betas)
    return {"beta": beta}, {"walk": walk}


def main(args):
    if args.refine == "crf":
        load_crf(", or give --refine par")
    torch.manual_seed(args.seed)
    experiment, classes = Experiment.of(args), load_classes(args.classes)
    ids = read_masked(args, experiment)
    parts = split_folds(ids, min(args.folds, len(ids)), args.seed)
    masked = Masked(args.voc12_root, experiment.maps, len(classes) + 1, args.max_side)
    alphas, kernels, counted = count_crf(args, ids, masked)
    if args.curve:
        return write_curve(args, experiment.curve, alphas, kernels, counted)
    chosen, figures, kernel = choose_crf(alphas, kernels, counted, parts)
    kernel = kernel or RELEASED._replace(side=args.sxy_side)  # the walk ends in a CRF
    beta, walk = choose_walk(args, ids, parts, masked, chosen, kernel)
    chosen, figures, about = chosen | beta, figures | walk, f"{len(ids)} masks of {args.list}"
    folds = max(parts.values()) + 1
    print(f"mIoU on {about}, each of {folds} folds with what is best on the others; deviation of the folds")
    for stage, one in figures.items():
        print(f"  {stage:<5}{one['miou']:6.1f} ± {one['std']:.1f}")
    for name, tried in (("threshold", THRESHOLDS), ("dup", sorted(set(args.alphas)))):
        if chosen[name] in (tried[0], tried[-1]):
            print(f"--{name} {chosen[name]} is the end of what was tried, {tried[0]} to {tried[-1]}")
    write_chosen(experiment, chosen, about, figures)
    print(describe_chosen(chosen, about), f"choose.py: wrote {experiment.settings}", sep="\n")
    following = next_command("infer_aff.py", args) if beta else next_command("infer.py", args, crf=True)
    print(f"next: {following}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
