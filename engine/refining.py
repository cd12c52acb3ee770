"""The dense CRF of a stage: its flags, what its results say of them, and the job that makes them of maps."""

from argparse import ArgumentTypeError
from functools import partial

from engine.flags import FREE, always
from engine.jobs import refine_maps
from engine.labelling import Job
from engine.outputs import Output
from engine.recipes import OTHERS
from tool.cli import natural, positive, power
from tool.crf import ITERATIONS, RELEASED

WIDTHS = ("srgb", "sxy_side")


def add_crf(parser):
    """--alphas, --png and the widths: the CRF of maps."""
    text = "background powers for CRF, 1 to 99: the larger, the more is object"
    own = {"role": FREE, "chosen": refines, "type": power, "nargs": "+"}  # each power has a folder
    parser.method("--alphas", **own, default=[2, 19, 21], help=text)
    parser.add_other({"alphas": OTHERS["alphas"]}, data=True)
    add_widths(parser, refines)
    text = (
        "write what the CRF labels as palette PNGs, of these powers; LOW_HIGH: what two give the same label, 255 "
        "elsewhere; without a number that in the middle of --alphas"
    )
    parser.run("--png", type=powers, nargs="*", default=None, metavar="ALPHA", help=text)


def powers(text):
    """4 -> (4,); 2_12 -> (2, 12)."""
    alphas = tuple(map(power, text.split("_")))
    if len(alphas) > 2:
        raise ArgumentTypeError(f"{text!r} is neither a background power nor two, LOW_HIGH")
    return alphas


def refines(first):
    """Whether infer.py is to make a CRF, by the arguments that it was given."""
    return bool(first.crf or first.images or first.png is not None)


def add_widths(parser, chosen=always):
    """--sxy, --srgb, --sxy_side: widths of the kernels. chosen: see Parser."""
    add = partial(parser.method, role=FREE, chosen=chosen)  # of what is made with others than released it is said
    text = "CRF: width in space of the kernel of place and colour, pixels"
    add("--sxy", type=positive, default=RELEASED.bilateral_sxy, help=text)
    add("--srgb", type=positive, default=RELEASED.srgb, help="CRF: width in colour of that kernel, of 255 levels")
    text = (
        "CRF: the longer side in pixels that widths in space are meant for, they follow that of each photograph; 0: all"
    )
    add("--sxy_side", type=natural, default=RELEASED.side, help=text)
    parser.add_other({name: OTHERS[name] for name in WIDTHS}, data=True)


def pairwise(args):
    """The kernels by `add_widths`, and what the settings of results say of them: nothing of the released."""
    kernels = RELEASED._replace(bilateral_sxy=args.sxy, srgb=args.srgb, side=args.sxy_side)
    return kernels, {} if kernels == RELEASED else {name: getattr(args, name) for name in ("sxy", *WIDTHS)}


def crf_job(args, place, settings, pixel_bytes):
    """The job that refines maps with --alphas and --png, and says of its results what made them.

    place: the Experiment. settings: those of the maps. pixel_bytes: of a score of a pixel.
    """
    kernels, widths = pairwise(args)
    own, outputs = settings | widths | {"iterations": ITERATIONS}, {}
    for alpha in args.alphas if args.crf else ():
        outputs[alpha] = Output(place.crf(alpha), own | {"alpha": alpha}, ".npy", bytes_a_pixel=(pixel_bytes,) * 2)
    for alphas in args.png or ():
        made = {"png": alphas[0] if len(alphas) == 1 else list(alphas)}
        outputs[alphas] = Output(place.crf_labels(alphas), own | made)
    refine = partial(refine_maps, compressed=args.compress, max_side=args.max_side, pairwise=kernels)
    return Job(outputs, refine, crf=True)
