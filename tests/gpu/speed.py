"""`make gpu`: time and memory of each stage at full width against the published formulation; what a step waits for."""

import statistics
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from engine.distributed import World
from engine.training import build_optimizer, train_step
from models.aeft import AEFTNet
from models.affinity import AffinityNet, affinity_loss
from models.deeplab import DeepLab, multi_scale_loss
from models.resnet38d import ResNet38d
from models.triplet import TripletErasing
from tests.bench.reference import cam_of_views, gathered_pair_affinity
from tests.gpu.same import autocast, calibrated, light, placed, values
from tool.affinity_labels import pair_masks
from tool.cam import multi_scale_cam

HEADER = ("step", "`--amp`", "float32", "published", "`--amp` faster", "float32 faster")
INTRO = """Medians of five after two; random weights, ResNet-38 at full width; memory is the step's peak. Published: the
plain formulation (tests/bench/reference.py; of losses the same one) in float32, contiguous. float32 convolves with
TF32 in all columns, as torch does unless told otherwise. lite0: tf_efficientnet_lite0 at stride 16."""
SYNC_HEADER = ("step, `--amp`", "synchronisations", "where")
SYNC_INTRO = (
    "Operations for which the CPU waits until the GPU is done (`torch.cuda.set_sync_debug_mode`), at full width."
)
CLASSES, REPETITIONS = 20, 5
STAGES = {  # step: (images, side of their crops)
    "train.py, warm-up": (8, 320),
    "train.py, triplet": (32, 320),
    "train_aff.py": (8, 448),
    "train_seg.py, three scales": (10, 321),
    "train.py, warm-up, lite0": (8, 320),
    "train.py, triplet, lite0": (32, 320),
}


def network(stage, setting):
    """The network of a stage at full width, on the CPU."""

    def make():
        if "aff" in stage:
            return AffinityNet(ResNet38d(setting.width))
        trunk = light() if "lite0" in stage else ResNet38d(setting.width)
        return DeepLab(trunk) if "seg" in stage else AEFTNet(trunk, CLASSES)

    return calibrated(make, values(2, 3, 160, 160).to(setting.device))


def batch_of(stage, images, side):
    """(IDs, images, targets) in memory that a GPU fetches by itself."""
    rng = np.random.default_rng(0)
    target = torch.eye(CLASSES)[torch.arange(images) % CLASSES]
    if "seg" in stage:
        target = torch.tensor(rng.choice([0, 3, 20, 255], (images, side, side)).astype(np.uint8))
    elif "aff" in stage:
        cells = rng.choice([0, 0, 1, 2, 255], (images, side // 8, side // 8))
        target = torch.tensor(np.stack([np.stack(pair_masks(one)) for one in cells]))
    return "", *(x.pin_memory() if torch.cuda.is_available() else x for x in (values(images, 3, side, side), target))


def training(stage, form, net, batch, device):
    """A function that does one update: as the stage does it ("amp", "float32"), or as "published"."""
    published, triplet = form == "published", TripletErasing()

    def criterion(net, image, target, run=None):
        if "aff" in stage:
            pairs = gathered_pair_affinity(net.features(image)) if published else net(image)
            total = affinity_loss(pairs.float(), *target.unbind(1))["total"]
        elif "seg" in stage:
            total = multi_scale_loss(net, image, target)
        else:
            total = triplet(net, image, target, erase="triplet" in stage)["total"]
        return total, {"total": total}

    optimizer = build_optimizer("sgd", net.param_groups(1e-6, 5e-4, 1.0), 5e-4)  # so low that the net stays as it is
    run = SimpleNamespace(model=net, criterion=criterion, optimizer=optimizer, world=World(device=device))
    run.args = SimpleNamespace(amp=form == "amp")
    run.scaler = run.world.scaler(run.args.amp)

    def plain():
        optimizer.zero_grad()
        loss, _ = criterion(net, *(x.to(device) for x in batch[1:]))
        loss.backward()
        optimizer.step()
        return loss.item()

    return plain if published else lambda: train_step(run, batch)["total"]


def inference(form, net, views, device):
    """A function that gives the class maps of an image, on the CPU."""
    size, label = tuple(views[1].shape[-2:]), torch.eye(CLASSES)[0]
    single = [view[None] for pair in views for view in pair]

    def ours():
        with autocast(device, form == "amp"):
            seen = [view.to(device) for view in views]
            return multi_scale_cam(net, seen, label, size).cpu()

    def published():
        return cam_of_views(net, [view.to(device) for view in single], label.to(device), size).cpu()

    return published if form == "published" else ours


def measure(step, device):
    """(median seconds, peak GiB) of a step; None where it does not fit the memory."""
    on_gpu = device.type == "cuda"
    times = []
    try:
        for _ in range(2 + REPETITIONS):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            step()  # the GPU may still be at it
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    except torch.cuda.OutOfMemoryError:
        return None
    return statistics.median(times[2:]), torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else 0.0


def describe(measured, images):
    if measured is None:
        return "out of memory"
    seconds, memory = measured
    return f"{1000 * seconds:.0f} ms, {images / seconds:.1f} images/s, {memory:.1f} GiB"


def compared(net, images, make_step, device):
    """Cells of a row. make_step(form, network) -> step; one form after the other, each alone in the GPU's memory."""
    found = {}
    for form in ("amp", "float32", "published"):
        own = net if form == "published" else placed(net, device, form == "amp")
        found[form] = measure(make_step(form, own.to(device)), device)
        del own
        if device.type == "cuda":
            torch.cuda.empty_cache()
    plain = found["published"]
    texts = [
        f"{1000 * m[0]:.0f} ms, {images / m[0]:.1f} images/s, {m[1]:.1f} GiB" if m else "out of memory"
        for m in found.values()
    ]
    return texts + [f"{plain[0] / found[k][0]:.2f} times" if plain and found[k] else "-" for k in ("amp", "float32")]


def training_row(setting, stage, images, side):
    batch, device = batch_of(stage, images, side), setting.device
    return compared(
        network(stage, setting), images, lambda form, net: training(stage, form, net.train(), batch, device), device
    )


def inference_row(setting, height, width):
    sides = [(round(height * k), round(width * k)) for k in (0.5, 1, 1.5, 2)]
    views = [torch.stack([x, x.flip(-1)]) for x in (values(3, *side) for side in sides)]
    net, device = network("infer.py", setting).eval(), setting.device
    return compared(net, 1, lambda form, net: inference(form, net, views, device), device)


def steps(setting):
    all_of = [(name, (2, 48) if setting.tiny else size) for name, size in STAGES.items()]
    rows = [(f"{name}, {n} x {side}²", 20, partial(training_row, setting, name, n, side)) for name, (n, side) in all_of]
    height, width = (48, 64) if setting.tiny else (375, 500)
    return [*rows, (f"infer.py, 8 views of {width} x {height}", 15, partial(inference_row, setting, height, width))]


# ---------------------------------------------------------------- synchronisations


def synchronisations(step, set_mode=None):
    """What a step waits for: a Counter of file:line. set_mode: a stand-in for torch.cuda.set_sync_debug_mode."""
    set_mode = set_mode or torch.cuda.set_sync_debug_mode
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        set_mode("warn")
        try:
            step()
        finally:
            set_mode("default")
    found = [w for w in seen if "called a synchronizing" in str(w.message)]
    return Counter(f"{Path(w.filename).name}:{w.lineno}" for w in found)


def sync_row(setting, stage):
    if setting.device.type != "cuda":
        return ["-", "no GPU"]
    net = placed(network(stage, setting), setting.device, True).train()
    step = training(stage, "amp", net, batch_of(stage, 8, 320), setting.device)
    step()
    found = synchronisations(step)
    return [found.total(), ", ".join(f"{place} ({n} times)" if n > 1 else place for place, n in found.items()) or "-"]


def sync_steps(setting):
    return [(stage, 6, partial(sync_row, setting, stage)) for stage in list(STAGES)[:4]]
