"""Score files of ours and of others: what is read, what is refused, hand-made attacks."""

import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from golden_inputs import load
from hypothesis import given, settings
from hypothesis import strategies as st

from tool.crf import crf_with_alphas
from tool.io import scores as scores_module
from tool.io.files import UserError
from tool.io.scores import file_origin, read_scores, write_scores
from tool.metrics import ThresholdSweep

# ---------------------------------------------------------------- score files


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 2**31), min_size=1, max_size=5), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_score_files_round_trip(tmp_path_factory, seeds, side):
    path = tmp_path_factory.mktemp("scores") / "x.npy"
    scores = {k: np.random.default_rng(seed).random((side, side + 1), np.float32) for k, seed in seeds.items()}
    write_scores(path, scores)
    ours, numpys = read_scores(path), np.load(path, allow_pickle=True).item()  # other tools read it with np.load
    for result in (ours, numpys):
        assert list(result) == list(scores)
        for key in scores:
            assert result[key].dtype == np.float32 and np.array_equal(result[key], scores[key])


def test_score_files_of_other_tools_are_read(tmp_path):
    """numpy keys, float64, Fortran order, and pickles of the oldest protocol that np.save ever used."""
    transposed = np.asfortranarray(np.random.default_rng(0).random((4, 5)))
    maps = {np.int64(3): transposed, np.uint8(7): np.ones((4, 5), np.float16)}
    np.save(tmp_path / "x.npy", maps)
    result = read_scores(tmp_path / "x.npy")
    assert set(result) == {3, 7} and np.array_equal(result[3], maps[3])


MAPS = np.random.default_rng(5).random((2, 4, 5), np.float32)
PADDED = np.array([0, 4, 8])


@pytest.mark.parametrize(
    "value",
    [
        {"keys": np.array([3, 7]), "attn_highres": MAPS},
        {"keys": np.array([3, 7]), "highres": MAPS * 0, "attn_highres": MAPS, "strided_cam": MAPS[:, :2]},
        {"keys": PADDED, "cam": MAPS[:, ::2], "hr_cam": MAPS},
        {"hr_cam": MAPS, "cam": np.ones((2, 9, 9)), "keys": PADDED},  # known names go before large maps
        {"keys": [3, 7], "cam": torch.from_numpy(MAPS)},
        {"keys": PADDED, "cam": MAPS},
        {"keys": PADDED, "cam": MAPS[:, ::2], "rw": MAPS},
        {"cam": np.concatenate([MAPS[:0], *([MAPS[:1] * 0] * 3), MAPS[:1], *([MAPS[:1] * 0] * 3), MAPS[1:]])},
        {"keys": [3, 7], "cam": MAPS[None]},
    ],
)
def test_stacks_of_other_methods(tmp_path, value):
    np.save(tmp_path / "x.npy", value)
    result = read_scores(tmp_path / "x.npy")
    assert list(result) == [3, 7] and np.array_equal([result[3], result[7]], MAPS)


def test_irn_files_are_read_without_torch_loading_them(tmp_path, monkeypatch):
    label = torch.zeros(20)
    label[[3, 7]] = 1
    tensors = torch.nonzero(label)[:, 0]  # as make_cam.py does
    turned = torch.from_numpy(MAPS.transpose(2, 1, 0).copy()).permute(2, 1, 0)
    files = {
        "tensors": {"keys": tensors, "cam": torch.rand(2, 2, 2), "high_res": MAPS},
        "a tensor of maps": {"keys": tensors, "high_res": torch.from_numpy(MAPS)},
        "a transposed one": {"keys": tensors, "high_res": turned},
        "a part of one": {"keys": tensors, "high_res": torch.from_numpy(np.concatenate([MAPS, MAPS]))[2:]},
        "arrays": {"keys": np.array([3, 7]), "cam": np.ones((2, 2, 2)), "high_res": MAPS},
        "numbers": {"keys": [3, 7], "high_res": MAPS},
        "padded keys": {"keys": np.pad(np.array([3, 7]) + 1, (1, 0)), "high_res": MAPS},
    }
    for name, value in files.items():
        np.save(tmp_path / f"{name}.npy", value)
    np.save(tmp_path / "half.npy", {"keys": [3, 7], "high_res": torch.from_numpy(MAPS).half()})
    np.save(tmp_path / "crf.npy", {"keys": np.array([0, 8]), "high_res": MAPS})
    monkeypatch.setattr(torch.storage, "_load_from_bytes", None)  # it unpickles whatever is in there
    for name in files:
        result = read_scores(tmp_path / f"{name}.npy")
        assert list(result) == [3, 7], name
        assert np.array_equal([result[3], result[7]], MAPS), name
    assert list(read_scores(tmp_path / "crf.npy")) == [0, 8]  # as many maps as keys: background has one of its own
    half = read_scores(tmp_path / "half.npy")
    assert half[3].dtype == np.float32 and np.array_equal(half[3], MAPS[0].astype(np.float16))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"keys": [3, 7]}, "no high_res"),
        ({"keys": [3, 7], "high_res": MAPS[0]}, "no high_res of K x height x width"),
        ({"keys": [3], "high_res": MAPS}, "not as many as its 2 maps"),
        ({"keys": [1, 3, 7], "high_res": MAPS}, "not as many"),
        ({"keys": [3, 3], "high_res": MAPS}, "not all different"),
        ({"keys": [3, 300], "high_res": MAPS}, "300 is not a class index"),
        ({"keys": [0.0, 1.0], "high_res": MAPS}, "not class indices"),
        ({"keys": "37", "high_res": MAPS}, "not class indices"),
        ({"keys": [3, 7], "high_res": MAPS * np.nan}, "not finite"),
        ({"keys": [3, 7], "high_res": torch.from_numpy(MAPS).bfloat16()}, r"BFloat16Storage, save tensor\.numpy\(\)"),
        ({"keys": [3, 7], "high_res": torch.nn.Parameter(torch.from_numpy(MAPS))}, r"save tensor\.numpy\(\)"),
    ],
)
def test_irn_files_of_other_shape_are_refused(tmp_path, value, reason):
    np.save(tmp_path / "x.npy", value)
    with pytest.raises(UserError, match=rf"x\.npy: not a score file of ours .*{reason}"):
        read_scores(tmp_path / "x.npy")


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    np.save(tmp_path / "x.npy", {"keys": [3], "high_res": torch.ones(1, 3, 4)})
    data = (tmp_path / "x.npy").read_bytes()
    size, strides = b"K\x01K\x03K\x04\x87", b"K\x0cK\x04K\x01\x87"
    assert data.count(size) == data.count(strides) == 1
    wider = size, b"K\x01K\x04K\x04\x87"
    steeper = strides, b"K\x0cK\x05K\x01\x87"
    backwards = strides, b"K\x0cK\x00J\xff\xff\xff\xff\x87"
    for old, new in (wider, steeper, backwards):
        (tmp_path / "x.npy").write_bytes(data.replace(old, new))
        with pytest.raises(UserError, match=r"x\.npy: not a score file"):
            read_scores(tmp_path / "x.npy")


def test_code_in_the_storage_of_a_tensor_is_refused_and_does_not_run(tmp_path):
    """torch.load of what a tensor's pickle holds would run it."""
    marker = tmp_path / "ran"

    class Tensor:
        def __init__(self, content):
            self.content = content

        def __reduce__(self):
            return torch.storage._load_from_bytes, (self.content,)

    for content in (pickle.dumps(Runs(marker), 2), pickle.dumps(Runs(marker), 4), b"", b"\x80\x02."):
        np.save(tmp_path / "x.npy", {"keys": [3], "high_res": Tensor(content)})
        with pytest.raises(UserError, match=r"x\.npy: not a score file"):
            read_scores(tmp_path / "x.npy")
    assert not marker.exists()
    np.save(tmp_path / "x.npy", {"keys": [3], "high_res": Tensor(pickle.dumps(Runs(marker), 2))})
    with contextlib.suppress(Exception):  # what it unpickles is no storage
        np.load(tmp_path / "x.npy", allow_pickle=True)
    assert marker.exists()


class Runs:
    """A pickle of this would run a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_score_files_with_code_are_refused_and_nothing_runs(tmp_path):
    marker = tmp_path / "ran"
    np.save(tmp_path / "x.npy", {0: Runs(marker)})
    with pytest.raises(UserError, match=r"x\.npy: not a score file of ours \(it wants to load .*system"):
        read_scores(tmp_path / "x.npy")
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {"a": np.ones((2, 2))},
        {0: np.ones(3)},
        {0: np.ones((2, 2), int)},
        {0: np.full((2, 2), np.nan)},
        {-1: np.ones((2, 2))},
        {0: np.ones((2, 2)), 1: np.ones((2, 3))},
        {0: [[1.0]]},
        {0: np.ones((0, 2))},
    ],
)
def test_score_files_of_other_shape_are_refused(tmp_path, value):
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    with pytest.raises(UserError, match=r"x\.npy: not a score file"):
        read_scores(tmp_path / "x.npy")


@pytest.mark.parametrize("compressed", [False, True])
def test_maps_of_an_image_without_any_class(tmp_path, compressed):
    path = tmp_path / "x.npy"
    write_scores(path, {}, compressed, "0123456789abcdef")
    assert read_scores(path) == {} and file_origin(path) == "0123456789abcdef"
    theirs = np.load(path, allow_pickle=True)  # as docs/outputs.md says that others read them
    assert ({k: theirs[k] for k in theirs} if compressed else theirs.item()) == {}
    with pytest.raises(UserError, match=r"x\.npy: not a score file of ours \(no maps\)"):
        read_scores(path, empty=False)  # CRF scores have a background


def test_an_archive_that_lost_its_members_is_none_of_an_image_without_any_class(tmp_path):
    write_scores(tmp_path / "x.npy", {3: np.ones((2, 2))}, compressed=True)
    write_scores(tmp_path / "empty.npy", {}, compressed=True)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes() + (tmp_path / "empty.npy").read_bytes())
    with pytest.raises(UserError, match=r"x\.npy: not a score file of ours"):
        read_scores(tmp_path / "x.npy")


def test_irn_files_of_an_image_without_any_class(tmp_path):
    np.save(tmp_path / "x.npy", {"keys": np.array([], int), "high_res": MAPS[:0]})
    assert read_scores(tmp_path / "x.npy") == {}


def test_without_any_class_all_is_background():
    image = np.zeros((3, 5, 3), np.uint8)
    for alpha, scores in crf_with_alphas(image, {}, [2, 21]).items():
        assert list(scores) == [0] and scores[0].dtype == np.float32, alpha
        assert np.array_equal(scores[0], np.ones((3, 5)))
    truth = np.array([[0, 0, 1], [1, 255, 0]], np.uint8)
    sweep = ThresholdSweep(2, (0.0, 0.3), boundaries=True)
    sweep.add(truth, {})
    assert sweep.confusions().tolist() == [[[3, 0], [2, 0]]] * 2
    zeros = ThresholdSweep(2, (0.0, 0.3), boundaries=True)
    zeros.add(truth, {0: np.zeros(truth.shape, np.float32)})  # as an image of the class whose map is empty
    assert np.array_equal(sweep.boundary, zeros.boundary)


def test_plain_arrays_pickles_and_text_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.ones((3, 3)))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({0: np.ones((2, 2))}))
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("array", "text", "pickle", "empty"):
        with pytest.raises(UserError, match=rf"{name}\.npy") as error:
            read_scores(tmp_path / f"{name}.npy")
        assert "remove" not in str(error.value) and "again" not in str(error.value)  # it may be another method's


# ---------------------------------------------------------------- compressed score files


@given(st.dictionaries(st.integers(0, 255), st.integers(0, 2**31), min_size=1, max_size=5), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_compressed_score_files_round_trip_in_half_precision(tmp_path_factory, seeds, side):
    path = tmp_path_factory.mktemp("scores") / "x.npy"
    scores = {k: np.random.default_rng(seed).random((side, side + 1), np.float32) for k, seed in seeds.items()}
    next(iter(scores.values())).flat[:2] = 0, 1
    write_scores(path, scores, compressed=True)
    ours = read_scores(path)
    numpys = {int(k): v for k, v in np.load(path).items()}  # what the docstring tells other tools
    assert list(ours) == list(numpys) == list(scores)
    for key, score in scores.items():
        assert ours[key].dtype == np.float32 and np.array_equal(ours[key], numpys[key])
        # half a step of 1/4096; above 0.5 half a step of 1/2048 more
        assert (np.abs(ours[key] - score) <= np.where(score <= 0.5, 2**-13, 3 * 2**-13)).all()
        assert ours[key].min() >= 0 and ours[key].max() <= 1
        assert np.array_equal(ours[key] == 0, score < 2**-13) and (ours[key][score == 1] == 1).all()
    again = path.with_name("y.npy")
    write_scores(again, ours, compressed=True)
    assert again.read_bytes() == path.read_bytes()  # nothing more is lost, and the same maps give the same bytes


def test_compressed_crf_scores_still_sum_to_one_and_keep_their_labels(tmp_path):
    golden = load("crf")
    scores = crf_with_alphas(golden["img"], dict(zip(golden["keys"].tolist(), golden["cams"])), [2])[2]
    write_scores(tmp_path / "x.npy", scores, compressed=True)
    write_scores(tmp_path / "plain.npy", scores)
    ours = read_scores(tmp_path / "x.npy")
    np.testing.assert_allclose(sum(ours.values()), 1, atol=len(ours) * 2**-12)
    labels = [np.argmax(list(s.values()), axis=0) for s in (scores, ours)]
    assert np.mean(labels[0] != labels[1]) < 0.002
    assert (tmp_path / "x.npy").stat().st_size < (tmp_path / "plain.npy").stat().st_size / 4


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    """A zip file of {name: bytes or array}; arrays as .npy."""
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                buffer = io.BytesIO()
                np.save(buffer, content, allow_pickle=True)
                content = buffer.getvalue()
            target.writestr(name, content)


HALF = np.ones((2, 3), np.float16)


@pytest.mark.parametrize(
    "members",
    [
        {"a.npy": HALF},
        {"0": HALF.tobytes()},
        {"-1.npy": HALF},
        {"256.npy": HALF},
        {"0000.npy": HALF},
        {"\u0663.npy": HALF},
        {"../0.npy": HALF},
        {"0.npy": HALF, "00.npy": HALF},
        {"0.npy": HALF, "1.npy": HALF.T.copy()},
        {"0.npy": HALF.astype(np.float32)},
        {"0.npy": HALF.astype(int)},
        {"0.npy": np.float16([1, 2])},
        {"0.npy": np.array({0: HALF})},
        {"0.npy": np.asfortranarray(HALF)},
        {"0.npy": np.ones((0, 3), np.float16)},
        {"0.npy": HALF * np.float16(np.nan)},
        {"0.npy": b""},
        {"0.npy": b"\x93NUMPY\x01\x00"},
    ],
)
def test_archives_of_other_things_are_refused(tmp_path, members):
    archive(tmp_path / "x.npy", members)
    with pytest.raises(UserError, match=r"x\.npy: not a score file of ours"):
        read_scores(tmp_path / "x.npy")


def test_archives_in_a_compression_that_inflates_further_are_refused(tmp_path):
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(tmp_path / "x.npy", {"0.npy": HALF}, compression)
        with pytest.raises(UserError, match="compressed in another way"):
            read_scores(tmp_path / "x.npy")


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(scores_module, "COMPRESSED_LIMIT", 2**20)
    archive(tmp_path / "x.npy", {f"{k}.npy": np.zeros((256, 512), np.float16) for k in range(5)})
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_scores(tmp_path / "x.npy")


def test_an_archive_that_understates_its_size_is_unpacked_no_further(tmp_path):
    """The size in both headers of the zip is forged; the memory that reading takes follows the forged one."""
    archive(tmp_path / "x.npy", {"0.npy": np.zeros((4096, 4096), np.float16)})
    data = bytearray((tmp_path / "x.npy").read_bytes())
    claimed = (2 * 4096**2 + 128).to_bytes(4, "little")
    assert data.count(claimed) == 2
    (tmp_path / "x.npy").write_bytes(data.replace(claimed, (1000).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"x\.npy: not a score file of ours"):
            read_scores(tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_maps_too_large_for_compression_are_written_plainly(tmp_path, monkeypatch):
    monkeypatch.setattr(scores_module, "COMPRESSED_LIMIT", 1000)
    scores = {3: np.random.default_rng(0).random((30, 30), np.float32)}
    write_scores(tmp_path / "x.npy", scores, compressed=True)
    assert np.array_equal(read_scores(tmp_path / "x.npy")[3], scores[3])  # nothing rounded
