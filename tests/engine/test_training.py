"""engine/training.py on a network of a few numbers: steps, phases, the schedule, and which weights are the best."""

import copy
from types import SimpleNamespace

import pytest
import torch
from stage_runs import read_log
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.backends import cudnn

import engine.training
from engine import flags
from engine.distributed import World
from engine.experiment import place_with_best
from engine.training import (
    Phase,
    Plan,
    Training,
    Validation,
    build_optimizer,
    check_finite,
    numbers,
    poly_factor,
    set_learning_rate,
    train_one_epoch,
    train_step,
)
from models.aeft import AEFTNet
from models.affinity import AffinityNet, affinity_loss
from models.deeplab import DeepLab, multi_scale_loss
from models.network import TrunkNet
from models.resnet38d import ResNet38d
from models.triplet import TripletErasing
from models.trunks import make_trunk
from tool.io.files import UserError
from tool.io.torch_files import read_torch

IMAGES = 7


class Tiny(TrunkNet):
    """Mean colours -> two numbers."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
        self.head = nn.Linear(4, 2)

    def forward(self, image):
        return self.head(self.trunk(image).mean((2, 3)))


class Colours(torch.utils.data.Dataset):
    """Samples (ID, image 3 x 4 x 4, target), of each epoch others."""

    ids = [f"image{k}" for k in range(IMAGES)]

    def __len__(self):
        return IMAGES

    def __getitem__(self, key):
        random = torch.Generator().manual_seed(100 * key[0] + key[1])
        return self.ids[key[1]], torch.randn(3, 4, 4, generator=random), torch.randn(2, generator=random)


def tiny():
    torch.manual_seed(0)
    return Tiny()


def light():
    return AEFTNet(make_trunk("timm:tf_efficientnet_lite0"), 4)


def squares(model, image, target, run):
    """A criterion: `total` is what is minimised."""
    error = (model(image) - target).square()
    return error.mean(), {"total": error.mean(), "largest": error.max()}


def arguments(folder, *words):
    parser = flags.Parser("tiny.py", "")
    flags.add_common(parser)
    flags.add_data(parser, labels=False)
    parser.add_list("--val_list", "none", "val", "")
    flags.add_training(parser, epochs=3, crop_size=4, jitter=[0.0] * 4, scratch_lr_mult=10.0)
    common = ["--name", "n", "--experiment", folder, "--device", "cpu", "--num_workers", 0, "--batch_size", 2]
    return parser.parse_args([*map(str, [*common, "--train_list", "none", *words])])


def training(folder, phases, validation=None, criterion=squares, words=(), weights="none"):
    """A Training of `Tiny` -> (it, its Place)."""
    place = place_with_best(folder / "n" / "ckpt_tiny", "log_tiny")
    plan = Plan(place, ("next.py", {"load_epo": "{last}"}), {}, weights, "tiny: {}", phases)
    args = arguments(folder, "--lr", 0.1, "--wt_dec", 0, "--momentum", 0.9, *words)
    return Training(args, tiny(), criterion, Colours(), plan, validation), place


def go(run):
    with run:
        for _ in run.epochs():
            run.finish_epoch(train_one_epoch(run))


def same(one, other):
    one, other = read_torch(one), read_torch(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- a step


@pytest.mark.parametrize("size", [1, 3])
def test_a_step_is_a_plain_step(size):
    """Its gradient is multiplied by the number of processes, over which DistributedDataParallel takes the mean."""
    net, plain = tiny(), tiny()
    run = SimpleNamespace(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        criterion=squares,
        args=SimpleNamespace(amp=False),
        world=World(size=size),
        scaler=World().scaler(amp=False),
    )
    image, target = torch.randn(5, 3, 4, 4), torch.randn(5, 2)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)  # of an earlier step
    found = []
    run.criterion = lambda *inputs: found.append(cudnn.benchmark) or squares(*inputs)
    losses = train_step(run, (["a"] * 5, image, target))
    assert found == [True] and not cudnn.benchmark  # sizes are alike in a step, and not elsewhere
    loss, terms = squares(plain, image, target, run)
    loss.backward()
    assert numbers([losses]) == [{name: pytest.approx(term.item()) for name, term in terms.items()}]
    for ours, theirs in zip(net.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, size * theirs.grad)
        torch.testing.assert_close(ours, theirs - 0.1 * size * theirs.grad)


def triplet(model, image, target, run):
    terms = TripletErasing()(model, image, target)
    return terms["total"], terms


def pairs(model, image, target, run):
    terms = affinity_loss(model(image), *target.unbind(1))
    return terms["total"], terms


def cross_entropy(model, image, target, run):
    loss = multi_scale_loss(model, image, target)
    return loss, {"total": loss}


@pytest.mark.parametrize(
    ("network", "criterion", "target"),
    [
        (lambda: AEFTNet(ResNet38d(width=1 / 16), 5), triplet, lambda: torch.eye(5).repeat(2, 1)),
        (lambda: AffinityNet(ResNet38d(width=1 / 16)), pairs, lambda: torch.ones(10, 3, 1, 1, dtype=torch.uint8)),
        (lambda: DeepLab(ResNet38d(width=1 / 16)), cross_entropy, lambda: torch.ones(10, 64, 64, dtype=torch.uint8)),
    ],
)
def test_a_step_never_waits_for_a_gpu(network, criterion, target):
    """Fake tensors have no values: what asks for one, as `.item()`, `if x > 0` or `x[mask]` do, fails."""
    with FakeTensorMode():
        net = network().freeze().train()
        run = SimpleNamespace(model=net, criterion=criterion, args=SimpleNamespace(amp=True), world=World())
        run.optimizer, run.scaler = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), World().scaler(amp=False)
        losses = train_step(run, ("", torch.rand(10, 3, 64, 64), target()))
        with pytest.raises(RuntimeError):
            numbers([losses])  # this does


def test_losses_are_read_every_so_many_steps_and_add_up_to_the_same(tmp_path, monkeypatch):
    phases, seen = [Phase("", 0, 3, 2)], []
    monkeypatch.setattr(engine.training, "numbers", lambda steps: seen.append(len(steps)) or numbers(steps))
    for folder, words in (("each", []), ("second", ["--log_every", 2])):
        go(training(tmp_path / folder, phases, scored(iter([1.0, 2.0, 3.0]), every=3), words=words)[0])
    assert [size for size in seen if size] == [1] * 9 + [2, 1] * 3  # before a validation all are
    logs = [read_log(tmp_path / folder / "n" / "log_tiny.jsonl") for folder in ("each", "second")]
    assert [[r["total"], r["largest"]] for r in logs[0]] == [[r["total"], r["largest"]] for r in logs[1]]


def test_a_loss_that_is_not_finite_ends_a_run_before_anything_is_written(tmp_path):
    values = iter([1.0, float("nan"), 3.0])

    def criterion(model, image, target, run):
        return model(image).sum(), {"total": torch.tensor(next(values))}

    run, place = training(tmp_path, [Phase("", 0, 1, 2)], criterion=criterion, words=["--log_every", 9])
    with pytest.raises(UserError, match=r"not finite at step 1 \(total nan\), images image\d image\d;"):
        go(run)
    assert next(values, None) is None and not list(place.folder.glob("*.pth"))


def test_a_loss_that_is_not_finite_names_step_terms_and_images():
    check_finite({"total": 3.0, "cls": 1.0}, 7, ["a", "b"])
    for value in (float("nan"), float("inf")):
        with pytest.raises(
            UserError, match=rf"not finite at step 7 \(total {value}, cls 1\), images a b; .*lower --lr"
        ):
            check_finite({"total": value, "cls": 1.0}, 7, ["a", "b"])


def test_the_schedule_by_hand():
    assert [poly_factor(step, 10) for step in (0, 5, 10, 11)] == [1, pytest.approx(0.5**0.9), 0, 0]
    net = tiny()
    optimizer = build_optimizer("sgd", net.param_groups(0.1, 5e-4, 10.0), 0.25)
    for step in (5, 2):  # of the first rates each time, not of the last
        assert set_learning_rate(optimizer, step, 10) == pytest.approx(0.1 * (1 - step / 10) ** 0.9)
    rates = {group["name"]: group["lr"] / (1 - 2 / 10) ** 0.9 for group in optimizer.param_groups}
    assert rates == {name: pytest.approx(0.1 if "trunk" in name else 1.0) for name in rates} and len(rates) == 4
    assert {group["momentum"] for group in optimizer.param_groups} == {0.25}
    assert isinstance(build_optimizer("adamw", net.param_groups(0.1, 5e-4, 10.0), 0.25), torch.optim.AdamW)


def test_dropout_differs_from_rank_to_rank_and_not_from_run_to_run():
    def drawn(rank, seed):
        World(rank).prepare(tiny(), amp=False, seed=seed, compiled=False)
        return torch.rand(1).item()

    assert drawn(0, 3) == drawn(0, 3) and len({drawn(0, 3), drawn(1, 3), drawn(0, 4)}) == 3


@pytest.mark.parametrize(("amp", "make", "last"), [(False, tiny, False), (True, tiny, True), (False, light, True)])
def test_channels_come_last_where_that_is_faster_and_change_nothing(amp, make, last):
    net, image = make().eval(), torch.randn(2, 3, 40, 48)
    plain, seen = net.trunk(image), World().prepare(net, amp, 0, compiled=False).trunk(image)
    torch.testing.assert_close(seen, plain, rtol=1e-4, atol=1e-4)
    assert seen.is_contiguous(memory_format=torch.channels_last) == last != seen.is_contiguous()


# ---------------------------------------------------------------- an epoch, phases


def test_steps_of_a_phase():
    assert Phase("", 2, 5, 3).steps(8) == 3 * 2  # whole batches
    assert Phase("", 5, 5, 3).steps(8) == Phase("", 6, 5, 3).steps(8) == 0


def test_a_run_is_a_loop_over_phases_batches_and_rates(tmp_path):
    """Against the loop written plainly: two epochs of batches of 2, one of batches of 3."""
    seen = []

    def criterion(model, image, target, run):
        seen.append((run.phase.name, run.phase.erase, len(image)))
        return squares(model, image, target, run)

    phases = [Phase("warm-up", 0, 2, 2), Phase("none", 2, 2, 99), Phase("late", 2, 9, 3, erase=True)]
    run, place = training(tmp_path, phases, criterion=criterion)
    planned = 2 * 3 + 7 * 2
    net, batches = copy.deepcopy(run.net), []
    optimizer = build_optimizer("sgd", net.param_groups(0.1, 0.0, 10.0), 0.9)
    go(run)
    assert seen == [("warm-up", False, 2)] * 6 + [("late", True, 3)] * 2
    for epoch, size in ((0, 2), (1, 2), (2, 3)):
        run.sampler.start(epoch, size)
        batches += [[run.dataset[key] for key in keys] for keys in run.sampler]
    assert len({image_id for batch in batches[:3] for image_id, _, _ in batch}) == 6  # none twice in an epoch
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - step / planned) ** 0.9
        optimizer.zero_grad()
        squares(net, *(torch.stack([sample[k] for sample in batch]) for k in (1, 2)), None)[0].backward()
        optimizer.step()
    for ours, theirs in zip(run.net.parameters(), net.parameters()):
        torch.testing.assert_close(ours, theirs)
    log = read_log(tmp_path / "n" / "log_tiny.jsonl")
    assert [(r["phase"], r["steps"], r["global_step"]) for r in log] == [
        ("warm-up", 3, 3),
        ("warm-up", 3, 6),
        ("late", 2, 8),
    ]
    assert {r["planned_steps"] for r in log} == {planned} and log[-1]["lr"] == pytest.approx(
        0.1 * (1 - 7 / planned) ** 0.9
    )
    assert [path.name for path in sorted(place.folder.glob("*.pth"))] == [
        "00.pth",
        "01.pth",
        "02.pth",
        "best.pth",
        "resume.pth",
    ]


def test_losses_of_an_epoch_are_means_over_its_steps(tmp_path):
    values = iter([1.0, 2.0, 6.0])

    def criterion(model, image, target, run):
        value = torch.tensor(next(values))
        return 0 * model(image).sum(), {"total": value, "twice": 2 * value}

    run, _ = training(tmp_path, [Phase("", 0, 1, 2)], criterion=criterion)
    with run:
        assert train_one_epoch(run) == {"total": 3.0, "twice": 6.0}


@pytest.mark.parametrize(
    ("size", "processes", "says"), [(8, 1, "not fill one batch of 8; lower --batch_size$"), (2, 3, "for 3 processes")]
)
def test_batches_that_cannot_be(tmp_path, monkeypatch, size, processes, says):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(UserError, match=says):
        training(tmp_path, [Phase("", 0, 3, size)])


# ---------------------------------------------------------------- validation


def scored(values, **options):
    """A Validation that gives these mIoU one after the other, and looks at how it is called."""

    def score(net, world):
        assert not net.training and not torch.is_grad_enabled()
        return {"miou": next(values)}

    return Validation(score, Colours.ids, "score", "mIoU {miou:.1f}", **options)


@pytest.mark.parametrize(("select", "best"), [(True, 1), (False, 2)])
def test_best_is_the_best_or_the_last(tmp_path, select, best):
    run, place = training(tmp_path, [Phase("", 0, 3, 2)], scored(iter([10.0, 30.0, 30.0]), select=select))
    go(run)
    assert [same(place.best, place.checkpoint(epoch)) for epoch in range(3)] == [epoch == best for epoch in range(3)]
    log = read_log(tmp_path / "n" / "log_tiny.jsonl")
    assert [record["miou"] for record in log] == [10, 30, 30]
    assert [record.get("best") for record in log] == ([10, 30, 30] if select else [None] * 3)
    assert (tmp_path / "n" / "log_tiny.txt").read_text().count("best so far") == (2 if select else 0)


def test_a_training_that_is_stopped_between_names_no_next_stage(tmp_path, capsys):
    for words, left in (["--stop_epoch", 2], True), (["--resume"], False):
        go(training(tmp_path, [Phase("", 0, 3, 2)], words=words)[0])
        said = capsys.readouterr().out
        assert ("1 are left, --resume goes on" in said) == left and ("next.py" in said) != left


def test_the_best_of_an_earlier_part_stays(tmp_path):
    phases = [Phase("", 0, 3, 2)]
    run, place = training(tmp_path, phases, scored(iter([20.0, 10.0]), select=True), words=["--stop_epoch", 2])
    go(run)
    run, _ = training(tmp_path, phases, scored(iter([15.0]), select=True), words=["--resume"])
    go(run)
    assert same(place.best, place.checkpoint(0)) and read_log(tmp_path / "n" / "log_tiny.jsonl")[-1]["best"] == 20


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, [3, 6, 9]), ({"first": 1}, [6, 9]), ({"every": 2}, [2, 4, 6, 8, 9]), ({"every": 3}, [3, 6, 9])],
)
def test_when_a_network_is_scored(tmp_path, options, steps):
    """Three steps an epoch; the end of the run is scored, once."""
    done = []

    def score(net, world):
        done.append(run.progress.global_step)
        return {"miou": 1.0}

    run, _ = training(tmp_path, [Phase("", 0, 3, 2)], Validation(score, Colours.ids, "score", "{miou}", **options))
    go(run)
    assert done == steps and run.net.training


def test_without_masks_the_last_weights_are_best_and_the_next_command_needs_no_file(tmp_path, capsys):
    run, place = training(tmp_path, [Phase("", 0, 3, 2)])
    go(run)
    assert same(place.best, place.checkpoint(2)) and "--weights" not in run.next_command()
    assert f"next: python next.py --name n --experiment {tmp_path} --load_epo 2\n" in capsys.readouterr().out
    place.best.unlink()
    command = run.next_command()
    assert f" --weights {place.checkpoint(2)}" in command and " --load_epo 2" in command


def test_a_run_goes_on_with_the_same_start_weights_wherever_they_lie(tmp_path):
    first, moved = tmp_path / "first.pth", tmp_path / "moved.pth"
    first.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    go(training(tmp_path, [Phase("", 0, 3, 2)], words=["--stop_epoch", 1], weights=first)[0])
    go(training(tmp_path, [Phase("", 0, 3, 2)], words=["--stop_epoch", 2, "--resume"], weights=moved)[0])
    state = read_torch(tmp_path / "n" / "ckpt_tiny" / "resume.pth")
    assert state["progress"]["epoch"] == 2
    moved.write_bytes(b"others")
    for weights in (moved, "none"):
        with pytest.raises(UserError, match="not the weights of --pretrained that the run was started with"):
            training(tmp_path, [Phase("", 0, 3, 2)], words=["--resume"], weights=weights)
    del state["data"]["weights of --pretrained"]  # an earlier version
    torch.save(state, tmp_path / "n" / "ckpt_tiny" / "resume.pth")
    go(training(tmp_path, [Phase("", 0, 3, 2)], words=["--resume"], weights=moved)[0])
