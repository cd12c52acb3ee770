"""The whole method on drawn images, with the real scripts: data, all stages, scores, the page of report.py.

writes  data/toy, experiment/NAME (every stage), experiment/NAME/report/index.html
        make demo

The settings are tuned for the drawings, as the released ones are for VOC: a trunk of an eighth of the width, from
scratch, AdamW, small crops, a few epochs. AffinityNet sees the drawings at twice their size: at their own, an object is
a few cells of 8 pixels, too few for pairs of one class. So does the segmentation network, which is scored on drawings
that no stage saw.
"""

import time
from pathlib import Path

from engine import flags
from engine.children import Stages
from engine.experiment import BELOW, Experiment
from tool.cli import natural, run_script
from tool.crf import load_crf
from tool.io.files import read_json, read_list

EPOCHS = 18
ALPHAS = (2, 4, 8, 16)
LOW, HIGH, DUP = 2, 16, 8
LABELS = str(BELOW.walk((LOW, HIGH, DUP)))  # below any experiment
TRAIN = (
    f"--val_list none --pretrained none --width 0.125 --epochs {EPOCHS} --T 15 --batch_size 8 --batch_size_triplet 16 "
    "--crop_size 128 --resize 128 224 --jitter 0.1 0.1 0.1 0.02 --W 1.0 0.2 0.02 --optimizer adamw --lr 5e-4"
)
INFER = f"--load_epo {EPOCHS - 1} --scales 0.5 1 1.5 --dict --crf --alphas {' '.join(map(str, ALPHAS))}"
POWERS = f"--low {LOW} --high {HIGH} --dup {DUP} --scale 2"
TRAIN_AFF = (
    f"{POWERS} --select last --epochs 2 --batch_size 8 --crop_size 224 --jitter 0.1 0.1 0.1 0.02 "
    "--optimizer adamw --lr 1e-3 --scratch_lr_mult 1"
)
ARCH = "deeplab_resnet38d"
TRAIN_SEG = (
    f"--labels {LABELS} --val_list none --no-msc --epochs 5 --batch_size 5 --crop_size 161 "
    "--random_scale 1 2 --jitter 0.1 0.1 0.1 0.02 --optimizer adamw --lr 5e-4 --scratch_lr_mult 1"
)
INFER_SEG = "--scales 1 1.5 --no-mirror"


def get_args_parser():
    parser = flags.Parser("demo.py", "Run every stage on drawn images and make a page of the results.")
    flags.add_experiment(parser, name="toy")
    parser.data("--data", type=Path, default=Path("data/toy"), help="folder of the drawn images")
    parser.run("--seed", type=natural, default=0, help="seed of drawing and training")
    return parser


def score(stages, common, place, task, folder, *more):
    """evaluation.py on one folder -> its JSON result."""
    path = place.folder / f"score_{folder.replace('/', '_')}.json"
    stages.run("evaluation", "evaluation.py", *common, "--task", task, "--dict_dir", folder, "--json", path, *more)
    return read_json(path)


def make_labels(stages, common, data, checkpoint, seed):
    """Classifier, class activation maps and CRF, AffinityNet from the classifier's trunk, walk."""
    own = ["--seed", seed, "--num_workers", 1, "--overwrite"]
    stages.run("train", "train.py", *common, "--voc12_root", data, *TRAIN.split(), *own)
    stages.run("infer", "infer.py", *common, *INFER.split(), "--overwrite")
    stages.run("train_aff", "train_aff.py", *common, *TRAIN_AFF.split(), "--pretrained", checkpoint, *own)
    stages.run("infer_aff", "infer_aff.py", *common, *POWERS.split(), "--overwrite")


def segment(stages, common, place, unseen, seed):
    """The segmentation network on the pseudo labels -> its score on a list of images that no stage saw."""
    own = ["--seed", seed, "--num_workers", 1, "--overwrite"]
    stages.run("train_seg", "train_seg.py", *common, *TRAIN_SEG.split(), *own)
    stages.run("infer_seg", "infer_seg.py", *common, *INFER_SEG.split(), "--infer_list", unseen, "--overwrite")
    return score(stages, common, place, "png", f"seg/{ARCH}", "--list", unseen)


def main(args):
    load_crf()
    started = time.time()
    stages, data = Stages(), args.data
    place = Experiment.of(args)
    common = [f"--name={args.name}", f"--experiment={args.experiment}"]
    stages.run("data", "voc12/make_toy.py", "--out", data, "--seed", args.seed)
    make_labels(stages, common, data, place.classifier.checkpoint(EPOCHS - 1), args.seed)
    cam = score(stages, common, place, "cam", "dict")
    crf = {a: score(stages, common, place, "crf", str(BELOW.crf(a))) for a in ALPHAS}
    pseudo = score(stages, common, place, "png", LABELS)
    segmentation = segment(stages, common, place, data / "val.txt", args.seed)
    best = max(crf, key=lambda a: crf[a]["miou_present"])
    stages.run("report", "report.py", *common)
    print_table(stages, cam, crf, pseudo, segmentation, best)
    images, unseen = (len(read_list(data / f"{name}.txt")) for name in ("train", "val"))
    print(f"{'all':<34}{'':>8}{time.time() - started:>10.0f}")
    print(
        f"mIoU over the present classes, on {images} images whose masks no training saw; the CAM threshold and the "
        f"best CRF alpha are\nchosen on these masks; low {LOW}, high {HIGH} and dup {DUP} of the pseudo labels were "
        f"chosen once, on the drawings of seed 1.\nThe segmentation network is scored on {unseen} images that no stage "
        f"saw.\nA page to look at: {place.report / 'index.html'}"
    )


def print_table(stages, cam, crf, pseudo, segmentation, best):
    """Scores and seconds of every stage. crf: {alpha: result}; best: the alpha of the highest."""
    rows = [("train.py", None, "train"), ("infer.py: CAM (oracle threshold)", cam, "infer")]
    rows += [(f"  CRF, alpha {a}{' (best)' if a == best else ''}", crf[a], None) for a in ALPHAS]
    rows += [("train_aff.py", None, "train_aff"), ("infer_aff.py: pseudo labels", pseudo, "infer_aff")]
    rows += [("train_seg.py", None, "train_seg"), ("segmentation, unseen images", segmentation, "infer_seg")]
    rows += [("evaluation.py, seven times", None, "evaluation"), ("report.py", None, "report")]
    print(f"\n{'stage':<34}{'mIoU':>8}{'seconds':>10}")
    for name, result, stage in rows:
        miou = f"{result['miou_present']:.2f}" if result else ""
        print(f"{name:<34}{miou:>8}{f'{stages.seconds[stage]:.0f}' if stage else '':>10}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
