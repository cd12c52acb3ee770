"""The whole method on drawn images, with the real scripts: data, all five stages, scores, a report picture.

writes  data/toy, experiment/NAME (every stage), experiment/NAME/report.png
        make demo

The settings are tuned for the drawings, as the released ones are for VOC: a trunk of an eighth of the width, from
scratch, AdamW, small crops, a few epochs. AffinityNet sees the drawings at twice their size: at their own, an object is
a few cells of 8 pixels, too few for pairs of one class.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tool.io.files import UserError, read_json, read_list
from tool.io.images import contact_sheet, heat_overlay, label_overlay, open_image, open_mask, save_image
from tool.io.scores import read_scores
from tool.run.arguments import experiment_name, natural
from tool.run.script import run_script
from voc12.data import image_path, mask_path

ROOT = Path(__file__).resolve().parent
EPOCHS, T = 18, 15
ALPHAS = (2, 4, 8, 16)
LOW, HIGH, DUP = 2, 16, 8
AFF_EPOCHS = 2
WIDTH = 0.125


def get_args_parser():
    parser = argparse.ArgumentParser("demo.py", description="Run every stage on drawn images and make a report.")
    parser.add_argument("--name", type=experiment_name, default="toy", help="name of the experiment")
    parser.add_argument("--experiment", type=str, default="experiment", help="folder of all experiments")
    parser.add_argument("--data", type=Path, default=Path("data/toy"), help="folder of the drawn images")
    parser.add_argument("--seed", type=natural, default=0, help="seed of drawing and training")
    return parser


class Stages:
    """Runs the scripts and keeps how long each took."""

    def __init__(self):
        self.seconds = {}

    def run(self, stage, script, *flags):
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        print("$ python", script, *map(str, flags), flush=True)
        started = time.time()
        code = subprocess.call(command)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.time() - started
        if code:
            raise UserError(f"{script}: stopped with exit code {code}; its message is above")


def score(stages, common, data, experiment, task, folder):
    """evaluation.py on one folder -> its JSON result."""
    path = experiment / f"score_{folder.replace('/', '_')}.json"
    stages.run(
        "evaluation",
        "evaluation.py",
        *common,
        "--list",
        data / "train.txt",
        "--task",
        task,
        "--dict_dir",
        folder,
        "--json",
        path,
    )
    return read_json(path)


def pick_images(data, count=8):
    """The first images that show two classes, then the first of the others, for the report."""
    ids = read_list(data / "train.txt")
    several = [i for i in ids[:60] if len(np.unique(open_mask(mask_path(data, i), 21))) > 3]
    return (several[: count // 2] + [i for i in ids if i not in several])[:count]


def report(data, experiment, alpha, labels_dir, path):
    """Photo, best class map, CRF result, pseudo label and ground truth side by side, eight images."""
    rows = []
    for image_id in pick_images(data):
        photo = open_image(image_path(data, image_id))
        maps = read_scores(experiment / "dict" / f"{image_id}.npy")
        crf = read_scores(experiment / "crf" / f"{alpha:02d}" / f"{image_id}.npy")
        keys = np.array(sorted(crf))
        labels = keys[np.argmax([crf[k] for k in keys], axis=0)]
        pseudo = open_mask(labels_dir / f"{image_id}.png", 21)
        truth = open_mask(mask_path(data, image_id), 21)
        rows.append(
            [
                photo,
                heat_overlay(photo, np.max(list(maps.values()), axis=0)),
                *(label_overlay(photo, picture) for picture in (labels, pseudo, truth)),
            ]
        )
    halves = [a + b for a, b in zip(rows[::2], rows[1::2])]
    titles = ["image", "CAM", f"CRF (alpha {alpha})", "pseudo label", "ground truth"]
    save_image(path, contact_sheet(halves, titles * 2, cell=(140, 109)))


def make_seeds(stages, common, data, seed):
    """Stages 1 and 2: classifier, class activation maps, CRF."""
    stages.run(
        "train",
        "train.py",
        *common,
        "--train_list",
        data / "train.txt",
        "--val_list",
        "none",
        "--pretrained",
        "none",
        "--width",
        WIDTH,
        "--epochs",
        EPOCHS,
        "--T",
        T,
        "--batch_size",
        8,
        "--batch_size_triplet",
        16,
        "--crop_size",
        128,
        "--resize",
        128,
        224,
        "--jitter",
        0.1,
        0.1,
        0.1,
        0.02,
        "--W",
        1.0,
        0.2,
        0.02,
        "--optimizer",
        "adamw",
        "--lr",
        5e-4,
        "--seed",
        seed,
        "--num_workers",
        1,
        "--overwrite",
    )
    stages.run(
        "infer",
        "infer.py",
        *common,
        "--infer_list",
        data / "train.txt",
        "--width",
        WIDTH,
        "--load_epo",
        EPOCHS - 1,
        "--scales",
        0.5,
        1,
        1.5,
        "--dict",
        "--crf",
        "--alphas",
        *ALPHAS,
        "--overwrite",
    )


def make_labels(stages, common, data, experiment, seed):
    """Stages 3 and 4: AffinityNet from the classifier's weights, random walk; returns the folder of pseudo labels."""
    powers = ["--low", LOW, "--high", HIGH, "--dup", DUP, "--scale", 2, "--width", WIDTH]
    stages.run(
        "train_aff",
        "train_aff.py",
        *common,
        *powers,
        "--train_list",
        data / "train.txt",
        "--select",
        "last",
        "--pretrained",
        experiment / "ckpt" / f"{EPOCHS - 1:03d}net_main.pth",
        "--epochs",
        AFF_EPOCHS,
        "--batch_size",
        8,
        "--crop_size",
        224,
        "--jitter",
        0.1,
        0.1,
        0.1,
        0.02,
        "--optimizer",
        "adamw",
        "--lr",
        1e-3,
        "--scratch_lr_mult",
        1,
        "--seed",
        seed,
        "--num_workers",
        1,
        "--overwrite",
    )
    stages.run("infer_aff", "infer_aff.py", *common, *powers, "--train_list", data / "train.txt", "--overwrite")
    return f"rw/{LOW:02d}_{HIGH:02d}{DUP:02d}"


def main(args):
    started = time.time()
    stages, data = Stages(), args.data
    experiment = Path(args.experiment) / args.name
    common = ["--name", args.name, "--experiment", args.experiment, "--voc12_root", data]
    stages.run("data", "voc12/make_toy.py", "--out", data, "--seed", args.seed)
    make_seeds(stages, common, data, args.seed)
    labels = make_labels(stages, common, data, experiment, args.seed)
    cam = score(stages, common, data, experiment, "cam", "dict")
    crf = {a: score(stages, common, data, experiment, "crf", f"crf/{a:02d}") for a in ALPHAS}
    pseudo = score(stages, common, data, experiment, "png", labels)
    best = max(crf, key=lambda a: crf[a]["miou_present"])
    picture = experiment / "report.png"
    report(data, experiment, best, experiment / labels, picture)

    rows = [("train.py", None, "train"), ("infer.py: CAM (oracle threshold)", cam, "infer")]
    rows += [(f"  CRF, alpha {a}{' (best)' if a == best else ''}", crf[a], None) for a in ALPHAS]
    rows += [
        ("train_aff.py", None, "train_aff"),
        ("infer_aff.py: pseudo labels", pseudo, "infer_aff"),
        ("evaluation.py, six times", None, "evaluation"),
    ]
    print(f"\n{'stage':<34}{'mIoU':>8}{'seconds':>10}")
    for name, result, stage in rows:
        miou = f"{result['miou_present']:.2f}" if result else ""
        print(f"{name:<34}{miou:>8}{f'{stages.seconds[stage]:.0f}' if stage else '':>10}")
    print(f"{'all':<34}{'':>8}{time.time() - started:>10.0f}")
    images = len(read_list(data / "train.txt"))
    print(
        f"mIoU over the present classes, on {images} images whose masks no training saw; the CAM threshold and the "
        f"best CRF alpha are\nchosen on these masks; low {LOW}, high {HIGH} and dup {DUP} of the pseudo labels were "
        f"chosen once, on the drawings of seed 1.\nPicture: {picture}"
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
