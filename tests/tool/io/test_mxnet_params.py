"""tool/mxnet_params.py: files made by hand, every truncation, mutated bytes, and both directions of the names."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from golden_inputs import state_shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mxnet_files import CODES, FORMS, mxnet_name, params_file, record, write_params

from tool.io.files import UserError
from tool.io.mxnet_params import read_params, to_state_dict, torch_name

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
MIXED = params_file(
    [record(np.float32([[1.5, -2]]), form) for form in FORMS] + [record(np.int8([3, -4]))],
    [b"conv1a_weight", b"arg:b", b"aux:c", b"d", "é".encode()],
)


def write(folder, data):
    path = folder / "x.params"
    path.write_bytes(data)
    return path


def refused(path, *words):
    with pytest.raises(UserError) as error:
        read_params(path)
    message = str(error.value)
    for word in (str(path), *words):
        assert word in message
    assert "\n" not in message


# ---------------------------------------------------------------- the file format


def test_file_written_out_byte_by_byte(tmp_path):
    data = bytes.fromhex(
        "1201000000000000 0000000000000000 0200000000000000"
        # V1: magic, 2 dimensions, 1 x 2, CPU 0, f32, 1.0 and -2.0
        "c8fa93f9 02000000 0100000000000000 0200000000000000 01000000 00000000 00000000 0000803f 000000c0"
        # the oldest form: 1 dimension, 3, CPU 0, u8, 7 8 9
        "01000000 03000000 01000000 00000000 03000000 070809"
        "0200000000000000 0100000000000000 77 0500000000000000 6172673a76"
    )
    arrays = read_params(write(tmp_path, data))
    assert list(arrays) == ["w", "arg:v"]
    assert arrays["w"].dtype == np.float32 and arrays["w"].tolist() == [[1.0, -2.0]]
    assert arrays["arg:v"].dtype == np.uint8 and arrays["arg:v"].tolist() == [7, 8, 9]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("code", CODES)
def test_every_form_and_dtype(tmp_path, form, code):
    want = {
        "a": (np.arange(24).reshape(2, 3, 1, 4) * 5 - 3).astype(code),
        "arg:b": np.array([[7]], code),
        "aux:c": np.arange(5).astype(code),
    }
    got = read_params(write_params(tmp_path / "x.params", want, form))
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes() and got[name].flags.writeable


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(FORMS)),
            st.sampled_from(list(CODES)),
            st.lists(st.integers(1, 4), min_size=1, max_size=5),
            st.integers(0, 2**32 - 1),
        ),
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
@SHARED_FOLDER
def test_round_trip(tmp_path, specs, random):
    want = []
    for _, code, shape, seed in specs:
        raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(code).itemsize)
        want.append(np.frombuffer(raw, code).reshape(shape))
    names = [f"{random.choice(['', 'arg:', 'aux:'])}n{k}" for k in range(len(want))]
    records = [record(array, spec[0]) for array, spec in zip(want, specs)]
    got = read_params(write(tmp_path, params_file(records, [n.encode() for n in names])))
    assert list(got) == names
    for name, array in zip(names, want):
        assert got[name].shape == array.shape and got[name].tobytes() == array.tobytes()


def test_scalar_of_form_v3(tmp_path):
    assert read_params(write_params(tmp_path / "x.params", {"s": np.float32(2.5)}, "v3"))["s"] == np.float32(2.5)


def test_every_truncation_is_refused(tmp_path):
    for length in range(len(MIXED)):
        refused(write(tmp_path, MIXED[:length]), "byte")
    assert len(read_params(write(tmp_path, MIXED))) == 5


def test_message_names_the_byte(tmp_path):
    data = params_file([record(np.zeros(2, "f4"), "v1")], [b"a"])
    # 24 header + 4 magic + 4 ndim + 8 dim + 12 device, dtype = values from byte 52 to 60
    refused(write(tmp_path, data[:55]), "at byte 52", "values of array 1 of 1", "8 bytes needed, 3 left")
    refused(write(tmp_path, data + b"!"), f"at byte {len(data)}", "1 bytes follow")


@pytest.mark.parametrize(
    ("at", "replacement", "words"),
    [
        (0, b"\x50\x4b\x03\x04", ["at byte 0", "begins with"]),
        (8, b"\x01", ["at byte 8", "second number"]),
        (16, struct.pack("<Q", 2**63), ["at byte 16", "arrays announced"]),
        (24, struct.pack("<I", 33), ["at byte 24", "known form"]),
        (28, struct.pack("<i", 1), ["at byte 28", "storage type 1", "dense"]),
        (28, struct.pack("<i", -1), ["at byte 28", "storage type -1"]),
        (32, struct.pack("<I", 0), ["at byte 32", "no dimensions"]),
        (32, struct.pack("<I", 2**32 - 1), ["at byte 32", "number of dimensions"]),
        (36, struct.pack("<q", 0), ["at byte 32", "shape 0"]),
        (36, struct.pack("<q", -2), ["at byte 32", "shape -2"]),
        (36, struct.pack("<q", 2**62), ["at byte 56", "ends inside"]),
        (52, struct.pack("<i", 7), ["at byte 52", "dtype 7"]),
        (52, struct.pack("<i", -1), ["at byte 52", "dtype -1"]),
        (64, struct.pack("<Q", 2), ["at byte 64", "1 arrays but 2 names"]),
        (64, struct.pack("<Q", 2**64 - 1), ["at byte 64", "names announced"]),
        (72, struct.pack("<Q", 2**64 - 1), ["at byte 72", "bytes of name 1"]),
        (80, b"\xff", ["at byte 72", "not text"]),
    ],
)
def test_corrupt_fields_say_what_and_where(tmp_path, at, replacement, words):
    # header 0..24; V2 magic 24, storage 28, ndim 32, dim 36, device 44..52, dtype 52, values 56..64, names 64, name 72
    data = bytearray(params_file([record(np.float32([1, 2]), "v2")], [b"abcdefghijkl"]))
    data[at : at + len(replacement)] = replacement
    refused(write(tmp_path, bytes(data)), *words)


def test_name_that_comes_twice(tmp_path):
    refused(write(tmp_path, params_file([record(np.ones(1, "f4"))] * 2, [b"a", b"a"])), "'a' comes twice")


@given(st.data())
@SHARED_FOLDER
def test_mutated_bytes_give_an_error_or_arrays(tmp_path, data):
    mutated = bytearray(MIXED)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    mutated[cut:cut] = data.draw(st.binary(max_size=4))
    try:
        arrays = read_params(write(tmp_path, bytes(mutated)))
    except UserError as error:
        assert "byte" in str(error)
    else:
        assert len(arrays) == 5 and sum(a.nbytes for a in arrays.values()) < len(mutated)


@given(st.binary(max_size=200))
@SHARED_FOLDER
def test_foreign_bytes_are_refused(tmp_path, data):
    refused(write(tmp_path, data))
    refused(write(tmp_path, struct.pack("<QQ", 0x112, 0) + b"\xff" + data))


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_not_taken_on_the_files_word(tmp_path, form):
    small = record(np.zeros((1, 1), "f4"), form)
    dim = "<II" if form == "oldest" else "<qq"
    shape_at = len(small) - 16 - struct.calcsize(dim)
    huge = small[:shape_at] + struct.pack(dim, 2**15, 2**15) + small[shape_at + struct.calcsize(dim) :]  # 4 GiB
    path = write(tmp_path, params_file([huge], [b"a"]))
    many = tmp_path / "many.params"
    many.write_bytes(struct.pack("<QQQ", 0x112, 0, 2**40) + small)
    tracemalloc.start()
    try:
        refused(path, "4294967296 bytes needed")
        refused(many, "1099511627776 arrays announced")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_missing_folder_and_special_files(tmp_path):
    refused(tmp_path / "none.params", "no such file")
    refused(tmp_path, "is a folder")
    refused(tmp_path / ("n" * 300), "cannot be read")
    os.mkfifo(tmp_path / "pipe.params")
    refused(tmp_path / "pipe.params", "not a regular file")


# ---------------------------------------------------------------- names


def trunk_entries(name):
    """Entries of a released state that MXNet's file has: no head, no num_batches_tracked."""
    heads = ("fc8", "bn8", "fc9", "gconv1", "gconv2", "gconv3", "f8_3", "f8_4", "f8_5", "f9")
    return [k for k in state_shapes(name) if k.split(".")[0] not in heads and not k.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", ["aeft_gpp", "affinity"])
def test_every_trunk_entry_is_reached_once(name):
    entries = trunk_entries(name)
    assert len(entries) == 191  # 43 convolutions, 37 batch norms of 4 entries each
    assert [torch_name(mxnet_name(entry)) for entry in entries] == entries
    for prefix in ("arg:", "aux:"):
        assert [torch_name(prefix + mxnet_name(entry)) for entry in entries] == entries


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("conv1a_weight", "conv1a.weight"),
        ("res2a_branch1_weight", "b2.conv_branch1.weight"),
        ("res2b1_branch2a_weight", "b2_1.conv_branch2a.weight"),
        ("arg:res4b5_branch2b1_weight", "b4_5.conv_branch2b1.weight"),
        ("res7a_branch2b2_weight", "b7.conv_branch2b2.weight"),
        ("bn3b2_branch2a_gamma", "b3_2.bn_branch2a.weight"),
        ("arg:bn6a_branch2b2_beta", "b6.bn_branch2b2.bias"),
        ("aux:bn5a_branch2b1_moving_mean", "b5.bn_branch2b1.running_mean"),
        ("aux:bn7_moving_var", "bn7.running_var"),
        ("linear1000_weight", None),
        ("res2b0_branch1_weight", None),
        ("res2c_branch1_weight", None),
        ("bn2a_branch1_gamma", None),
        ("res2a_branch2a_gamma", None),
        ("arg:arg:conv1a_weight", None),
        ("conv1a_weight ", None),
        ("bn7_gamma\n", None),
    ],
)
def test_names_by_hand(name, entry):
    assert torch_name(name) == entry


def test_to_state_dict_values_and_warning(capsys):
    arrays = {
        "arg:conv1a_weight": np.arange(4, dtype=np.float32),
        "aux:bn7_moving_mean": np.ones(2, np.float16),
        "linear1000_weight": np.ones((3, 3), np.float32),
        "arg:linear1000_bias": np.ones(3, np.float32),
    }
    state = to_state_dict(arrays)
    assert capsys.readouterr().err == ""
    assert list(state) == ["conv1a.weight", "bn7.running_mean"]
    assert torch.equal(state["conv1a.weight"], torch.arange(4.0)) and state["bn7.running_mean"].dtype == torch.float16
    assert list(to_state_dict(arrays | {"odd\nname": np.ones(1)}, "f.params")) == list(state)
    assert "f.params: 1 arrays not of ResNet-38 left out, first 'odd\\nname'" in capsys.readouterr().err


def test_to_state_dict_refuses_nothing_known_and_doubles():
    with pytest.raises(UserError, match="no array of ResNet-38"):
        to_state_dict({"linear1000_weight": np.ones(1), "x": np.ones(1)})
    with pytest.raises(UserError, match=r"two arrays stand for bn7\.weight"):
        to_state_dict({"arg:bn7_gamma": np.ones(1), "bn7_gamma": np.ones(1)})
