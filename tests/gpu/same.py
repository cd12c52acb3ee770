"""`make gpu`, first table: what is computed on the GPU is what the CPU computes, at small widths."""

import contextlib
import copy
from functools import partial

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from engine.distributed import memory_format
from models.aeft import AEFTNet
from models.affinity import AffinityNet, affinity_loss
from models.deeplab import DeepLab, multi_scale_loss
from models.resnet38d import ResNet38d
from models.triplet import TripletErasing
from models.trunks import make_trunk
from tool.affinity_labels import pair_masks
from tool.cam import multi_scale_cam, predict_label
from tool.pseudo_labels import walk_scores
from tool.segmentation import MERGES, multi_scale_scores

HEADER = ("computed", "results", "gradients", "results, `--amp`", "CPU's, `--amp`", "within tolerance")
TOLERANCES = (1e-4, 5e-2, 1e-1)
INTRO = """Relative differences from float32 on the CPU (norm of the difference over the norm, largest of all results):
of float32 without TF32, and of bfloat16 (`--amp`), on this device and on the CPU. ResNet-38 has a 16th of its width.
Tolerances: 1e-4, gradients 0.05 (in so small a network one ReLU that turns is a hundredth), `--amp` 0.1 or twice the
CPU's."""
CPU = torch.device("cpu")
CLASSES, SIZE = 5, (65, 81)


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def calibrated(make, image, frozen=True):
    """A random network, frozen as fine-tuning does, its running statistics being this batch's; drops no value.

    Without them activations would grow from block to block, beyond what class maps are.
    """
    torch.manual_seed(0)
    net = make().to(image.device).train()
    net.start("none", dropout=False)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None
    with torch.no_grad():
        net(image)
    return net.freeze().cpu() if frozen else net.cpu()


def placed(net, device, amp):
    return copy.deepcopy(net).to(device, memory_format=memory_format(net, device, amp))


def autocast(device, amp):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp)


@contextlib.contextmanager
def float32_alone():
    """No TF32 inside: torch lets convolutions of a GPU use it unless told otherwise."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.allow_tf32 = value


def largest(ours, theirs):
    """The largest relative difference of two {name: tensor} with the same names; inf where a value is not finite."""
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"{sorted(ours)} and {sorted(theirs)}")
    pairs = [[torch.as_tensor(x[k]).detach().cpu().double() for x in (ours, theirs)] for k in theirs]
    found = [((a - b).norm() / b.norm().clamp(min=1e-30)).item() for a, b in pairs]
    return max((x if np.isfinite(x) else np.inf for x in found), default=None)


def evaluate(net, work, device, amp):
    """({name: result}, {"all": gradient}) of work(network, device); without "total" that of the results' squares."""
    own = placed(net, device, amp)
    with autocast(device, amp):
        results = work(own, device)
    if not any(torch.is_tensor(x) and x.requires_grad for x in results.values()):
        return results, {}
    total = results["total"] if "total" in results else sum(x.square().mean() for x in results.values())
    total.backward()
    return results, {"all": torch.cat([p.grad.flatten() for p in own.parameters() if p.grad is not None])}


# ---------------------------------------------------------------- cases: (network, work(network, device) -> results)


def wide():
    return ResNet38d(1 / 16)


def light():
    return make_trunk("timm:tf_efficientnet_lite0", output_stride=16)


def classifier(trunk=wide, frozen=True):
    image = values(6, 3, 64, 72)
    net = calibrated(lambda: AEFTNet(trunk(), CLASSES), image, frozen)
    return net, lambda own, device: dict(zip(("cam", "logits", "gpp"), own(image.to(device))))


def triplet(attract):
    image, label = values(6, 3, 64, 64), torch.eye(CLASSES)[[0, 1, 2, 3, 4, 0]]

    def work(own, device):
        losses, negatives = TripletErasing(margin=50, attract=attract), torch.Generator().manual_seed(0)
        return losses(own, image.to(device), label.to(device), generator=negatives)

    return calibrated(lambda: AEFTNet(wide(), CLASSES), image), work


def recomputation():
    """Sizes of logits and gradients by activations that are computed again, dropout on, over those of kept ones."""

    def work(own, device):
        found = []
        for recompute in (False, True):
            own.trunk.checkpoint_activations = recompute
            own.zero_grad()
            torch.manual_seed(1)
            logits = own(values(2, 3, 48, 40).to(device))[1]
            logits.square().sum().backward()
            parts = logits.detach(), own.fc8.weight.grad, own.trunk.b6.conv_branch1.weight.grad
            found.append(torch.stack([x.float().norm() for x in parts]))
        own.zero_grad()
        return {"ratios": found[1] / found[0]}

    torch.manual_seed(0)
    return AEFTNet(wide(), CLASSES).train(), work


def affinity():
    image = values(2, 3, 96, 104)
    label = np.random.default_rng(0).choice([0, 0, 1, 2, 255], (2, 12, 13))
    masks = torch.tensor(np.stack([pair_masks(one) for one in label]))

    def work(own, device):
        pairs = own(image.to(device)).float()
        return {"pairs": pairs} | affinity_loss(pairs, *masks.to(device).unbind(1))

    return calibrated(lambda: AffinityNet(wide()), image), work


def segmentation():
    image = values(2, 3, 97, 97)
    label = torch.tensor(np.random.default_rng(0).choice([0, 1, 2, 4, 255], (2, 97, 97)).astype(np.uint8))
    net = calibrated(lambda: DeepLab(wide(), CLASSES), image)
    return net, lambda own, device: {"total": multi_scale_loss(own, image.to(device), label.to(device))}


def inference(make, read):
    """read(network, views on the device, device), of an image at four scales and its mirror images."""
    sides = (33, 41), SIZE, (98, 122), (130, 162)
    views = [torch.stack([x, x.flip(-1)]) for x in (values(3, *side) for side in sides)]

    @torch.no_grad()
    def work(own, device):
        return read(own, [view.to(device) for view in views], device)

    return calibrated(make, views[1]).eval(), work


def maps(net, views, device):
    found, scores = predict_label(net(views[1][:1])[1][0], 0.5)
    given = torch.tensor([1.0, 0, 1, 0, 1])
    sums = {name: multi_scale_cam(net, views, label, SIZE) for name, label in (("given", given), ("found", found))}
    return sums | {"scores": scores}


def merged(net, views, device):
    return {merge: multi_scale_scores(net, views, SIZE, merge) for merge in MERGES}


def walk(net, views, device):
    return {"walked": walk_scores(net, views[1][0], np.random.default_rng(0).random((3, *SIZE), np.float32), device)}


CASES = {
    "classifier, fine-tuned": classifier,
    "classifier from scratch: BatchNorm trains": partial(classifier, frozen=False),
    "classifier on tf_efficientnet_lite0": partial(classifier, light),
    "triplet step": partial(triplet, "soft"),
    "triplet step, rigid": partial(triplet, "rigid"),
    "recomputed activations, dropout": recomputation,
    "AffinityNet and its loss": affinity,
    "DeepLab, loss at three scales": segmentation,
    "maps of 8 views; classes found": partial(inference, lambda: AEFTNet(wide(), CLASSES), maps),
    "segmentation scores of 8 views": partial(inference, lambda: DeepLab(wide(), CLASSES), merged),
    "pairs and random walk": partial(inference, lambda: AffinityNet(wide()), walk),
}


def row(case, device):
    """Cells of a case: differences of `device` from the CPU, and whether all are within the tolerances."""
    net, work = case()
    with float32_alone():
        results, grads = evaluate(net, work, CPU, False)
        ours, our_grads = evaluate(net, work, device, False)
    rounded = [largest(evaluate(net, work, kind, True)[0], results) for kind in (device, CPU)]
    found = [largest(ours, results), largest(our_grads, grads), *rounded]
    limits = *TOLERANCES[:2], max(TOLERANCES[2], 2 * rounded[1])
    good = all(value is None or value <= limit for value, limit in zip(found, limits))
    return [*("-" if value is None else f"{value:.1e}" for value in found), "yes" if good else "NO"]


def steps(setting):
    return [(name, 3, partial(row, case, setting.device)) for name, case in CASES.items()]
