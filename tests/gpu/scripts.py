"""`make gpu`: the scripts themselves on drawn images, resumed, as two processes on one GPU; infer.py at full width."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from engine.children import ROOT
from models.checkpoint import save_weights
from tests.bench.inputs import scene
from tests.gpu.speed import CLASSES, network
from tool.io.files import read_json, write_text
from tool.io.images import save_image

HEADER = ("script", "seconds", "outcome", "as expected")
INTRO = """Twelve drawn images, ResNet-38 of a 16th of the width, float32 without TF32 (`NVIDIA_TF32_OVERRIDE=0`), each
script as a user runs it. Several run at once: seconds are mostly those of starting. Losses may differ by a thousandth
of themselves, since sums on a GPU come in any order."""
RATE_HEADER = ("infer.py, `--amp`", "images/s", "outcome")
RATE_INTRO = """The script at full width on photographs of 500 x 375, from reading to writing, without its start: `maps`
by network, `crf` by all processes together, `writing` by its thread; they run side by side."""
TOLERANCE = 1e-3
EXACT = {"NVIDIA_TF32_OVERRIDE": "0", "OMP_NUM_THREADS": "1"}
TERMS = ("total", "cls", "attract", "repel")
TRAIN = """train.py --voc12_root {toy} --train_list {toy}/train.txt --val_list {toy}/train.txt --width 0.0625 --epochs 3
    --pretrained none --T 1 --batch_size 4 --batch_size_triplet 6 --crop_size 48 --resize 48 72 --num_workers 2"""
# no dropout, BatchNorm frozen, batches that two processes cannot halve, more than four hard pairs
FINE = f"""{TRAIN} --pretrained {{weights}} --no-dropout --batch_size 5 --batch_size_triplet 7 --cls_batch 3 --M 50
    --epochs 2 --lr 0.03"""
# the same with dropout and a third epoch: what a resumed run has to draw again
RESUMED = FINE.replace("--no-dropout", "").replace("--epochs 2", "--epochs 3")
AFF = "--voc12_root {toy} --train_list {toy}/train.txt --low 2 --high 19 --dup 19"
STAGES = {  # row: (command, files that it writes, how many)
    "infer.py --dict --crf --vis": (
        "infer.py --voc12_root {toy} --infer_list {toy}/train.txt --load_epo 2 --dict --vis {crf}",
        "n/dict/*.npy",
        12,
    ),
    "train_aff.py": (
        f"train_aff.py {AFF} --val_list {{toy}}/train.txt --val_every 2 --pretrained {{weights}} --epochs 2 "
        "--batch_size 4 --crop_size 64",
        "n/ckpt_aff/*/best.pth",
        1,
    ),
    "infer_aff.py": (f"infer_aff.py {AFF}", "n/rw/02_1919/*.png", 12),
    "train_seg.py": (
        "train_seg.py --voc12_root {toy} --train_list {toy}/train.txt --labels {labels} --val_list {toy}/val.txt "
        "--epochs 2 --batch_size 4 --crop_size 65 --num_workers 2",
        "n/ckpt_seg/*/best.pth",
        1,
    ),
    "infer_seg.py": ("infer_seg.py --voc12_root {toy} --infer_list {toy}/val.txt", "n/seg/*/*.png", 4),
    "export.py": ("export.py --voc12_root {toy} --out {root}/net.onnx", "net.onnx", 1),
    "evaluation.py": (
        "evaluation.py --voc12_root {toy} --list {toy}/train.txt --task cam --dict_dir dict --json {root}/score.json",
        "score.json",
        1,
    ),
}


def has(package):
    return importlib.util.find_spec(package) is not None


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def finish(processes, seconds):
    """Wait until all are done, one failed or the time is over; then none runs any more."""
    ends = time.time() + seconds
    while time.time() < ends and None in [process.poll() for process in processes]:
        if any(process.returncode for process in processes):
            break
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()


class Scripts:
    """Runs scripts on the experiments of one temporary folder. setting: of tests/gpu/run.py. env: is added to ours."""

    def __init__(self, setting, env=EXACT):
        self.env = env
        self.setting, self.root, self.crf = setting, setting.folder, has("pydensecrf")
        self.paths = {"root": self.root, "toy": self.root / "toy", "weights": self.root / "n/ckpt/002net_main.pth"}
        self.paths["crf"] = "--crf --alphas 2 19" if self.crf else ""
        self.paths["labels"] = "rw/02_1919" if self.crf else self.root / "toy/SegmentationClass"
        self.pool = ThreadPoolExecutor(3)

    def run(self, command, name="n", ranks=1):
        """Run a script, or `ranks` processes of it as torchrun would; returns seconds. RuntimeError: its last lines."""
        script, *flags = command.format(**self.paths).split()
        on_gpu = self.setting.device.type == "cuda"
        if "/" not in script:
            flags += ["--name", name, "--experiment", str(self.root)]
        if "/" not in script and script not in ("evaluation.py", "export.py"):
            flags += ["--device", "cuda:0" if on_gpu and ranks > 1 else str(self.setting.device)]
        env = os.environ | self.env
        if ranks > 1:
            env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            env |= {"MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        words, started = [sys.executable, str(ROOT / script), *flags], time.time()
        options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "text": True}
        with tempfile.TemporaryFile("w+") as errors:
            own = [env | {"RANK": str(k), "LOCAL_RANK": str(k)} if ranks > 1 else env for k in range(ranks)]
            processes = [subprocess.Popen(words, env=one, stderr=errors, **options) for one in own]
            finish(processes, min(self.setting.left(), 100 if on_gpu else 1000))
            errors.seek(0)
            lines = errors.read().splitlines()
        if codes := [process.returncode for process in processes if process.returncode]:
            said = [line for line in lines if "rror" in line] or lines
            raise RuntimeError(f"{script}: exit code {codes[0]}: {' / '.join(said[-3:])}")
        return time.time() - started

    def losses(self, name):
        lines = map(json.loads, (self.root / name / "log.jsonl").read_text().splitlines())
        return [line[term] for line in lines for term in TERMS]

    def same_losses(self, seconds, name, other):
        """Cells of two trainings that should be one and the same."""
        ours, theirs = self.losses(name), self.losses(other)
        found = max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(ours, theirs))
        good = len(ours) == len(theirs) and found <= TOLERANCE
        return [f"{seconds:.0f}", f"losses differ by {found:.1e}" if found else "equal losses", "yes" if good else "NO"]

    # ---------------------------------------------------------------- rows

    def begin(self):
        """Draw, train; what needs only that then runs beside the other stages."""
        self.run("voc12/make_toy.py --out {toy} --images 12 --val_images 4 --size 64 48")
        seconds = self.run(TRAIN)
        self.beside = [self.pool.submit(job) for job in (self.resumed, self.ranks, self.amp, self.again)]
        return [f"{seconds:.0f}", "an epoch without the triplet, two with it", "yes"]

    def resumed(self):
        seconds = self.run(RESUMED, "whole") + self.run(f"{RESUMED} --stop_epoch 2", "resumed")
        return self.same_losses(seconds + self.run(f"{RESUMED} --resume", "resumed"), "resumed", "whole")

    def again(self):
        """From random values BatchNorm trains, and a hinge may close or not: how far two runs of one command part."""
        seconds = self.run(TRAIN, "again")
        return [*self.same_losses(seconds, "again", "n")[:2], "figure only"]

    def ranks(self):
        return self.same_losses(self.run(FINE, "one") + self.run(FINE, "two", ranks=2), "two", "one")

    def amp(self):
        seconds = self.run(f"{TRAIN} --amp --checkpoint_activations --optimizer adamw --lr 1e-4", "amp")
        found = "infer.py --voc12_root {toy} --infer_list {toy}/val.txt --dict --labels predicted --load_epo 2 --amp"
        seconds += self.run(found, "amp")
        good = np.isfinite(self.losses("amp")).all() and len(list(self.root.glob("amp/dict/*.npy"))) == 4
        return [f"{seconds:.0f}", "finite losses, 4 files", "yes" if good else "NO"]

    def stage(self, command, pattern, wanted):
        seconds = self.run(command)
        found = len(list(self.root.glob(pattern)))
        return [f"{seconds:.0f}", f"{found} files", "yes" if found == wanted else "NO"]


def left_out(package):
    return ["-", f"left out: {package} is not installed"]


def steps(setting):
    one = Scripts(setting)
    lacking = {"--crf": "pydensecrf", "_aff": "pydensecrf", "export.py": "onnx"}
    rows = [("train.py", 30, one.begin)]
    for name, stage in STAGES.items():
        package = next((p for part, p in lacking.items() if part in name and not has(p)), None)
        if package and "--crf" in name:  # the maps are made without
            package, name = None, name.replace(" --crf", "")
        rows.append((name, 15, partial(left_out, package) if package else partial(one.stage, *stage)))
    beside = ["stopped after an epoch with the triplet, then --resume", "two processes on one GPU (gloo) and one"]
    beside += ["--amp --checkpoint_activations, infer.py --labels predicted --amp", "once more from random values"]
    return rows + [(f"train.py, {text}", 5, lambda k=k: one.beside[k].result()) for k, text in enumerate(beside)]


# ---------------------------------------------------------------- infer.py at full width


def photographs(folder, count, size):
    """A data set without masks: 8 drawings with a photograph's texture, again and again under other names."""
    ids, labels = [f"p{k:04d}" for k in range(count)], {}
    for k, image_id in enumerate(ids):
        path = folder / "JPEGImages" / f"{image_id}.jpg"
        if k < 8:
            image, _, cams = scene(k, *size)
            save_image(path, Image.fromarray(image), quality=92)
            labels[image_id] = np.isin(np.arange(CLASSES), list(cams)).astype(np.float32)
        else:
            shutil.copy(path.with_stem(ids[k % 8]), path)
            labels[image_id] = labels[ids[k % 8]]
    np.save(folder / "cls_labels.npy", labels)
    write_text(folder / "list.txt", "".join(f"{image_id}\n" for image_id in ids))


def rate(setting, count, more=""):
    folder = setting.folder / "photographs"
    if not (folder / "wide.pth").exists():
        photographs(folder, count, (48, 64) if setting.tiny else (375, 500))
        save_weights(network("infer.py", setting), folder / "wide.pth")
    command = f"infer.py --voc12_root {folder} --infer_list {folder}/list.txt --cls_labels {folder}/cls_labels.npy "
    command += f"--weights {folder}/wide.pth --width {setting.width} --dict --amp {more}"
    Scripts(setting, {}).run(command, "wide")
    done = read_json(setting.folder / "wide/dict/run.json")["summary"]
    shutil.rmtree(setting.folder / "wide")
    stages = {name: stage for name, stage in done["stages"].items() if stage["images"]}
    rates = ", ".join(f"{name} {stage['images_per_second']}" for name, stage in stages.items())
    memory = f"GPU {done['peak_gpu_memory_mib']} MiB at its peak"
    return [rates, f"{count} images, {done['seconds']:.0f} s in all, {os.cpu_count()} cores, {memory}"]


def rate_steps(setting):
    count = 8 if setting.tiny else 128
    crf = (
        partial(rate, setting, count, "--crf --alphas 2 19 21")
        if has("pydensecrf")
        else partial(left_out, "pydensecrf")
    )
    return [("--dict", 45, partial(rate, setting, count)), ("--dict --crf, three alphas", 45, crf)]
