"""Pickled dicts: those of other years, tools and Python versions are read, hostile ones run nothing, and what we write
is read by the oldest numpy there is for this Python."""

import collections
import copyreg
import io
import json
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import Runs, npy, pickled_array, pickled_dtype, word

from tool.io import pickles
from tool.io.files import UserError
from tool.io.pickles import unpickle_dict
from tool.io.scores import file_origin, read_scores, write_scores
from voc12.classes import VOC_CLASSES
from voc12.labels import load_labels, read_cls_labels, write_cls_labels

IDS = ["2007_000032", "2012_004331"]
VECTORS = {image_id: np.float32(np.arange(20) % (3 + k) == 1) for k, image_id in enumerate(IDS)}
MAPS = {3: np.random.default_rng(0).random((4, 5), np.float32), 7: np.zeros((4, 5), np.float32)}


def file_of(value, protocol, numpy_1=False, shape=()):
    """bytes of `np.save` with a pickle of that protocol; numpy_1: under the names before numpy 2."""
    box = np.empty(shape, dtype=object)
    box[...] = value
    content = pickle.dumps(box, protocol)
    if numpy_1:
        assert protocol < 4
        content = content.replace(b"numpy._core.", b"numpy.core.")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


# ---------------------------------------------------------------- label tables and maps of other years


@pytest.mark.parametrize(("protocol", "numpy_1"), [*((p, True) for p in range(4)), *((p, False) for p in range(6))])
def test_pickles_of_every_protocol(tmp_path, protocol, numpy_1):
    (tmp_path / "t.npy").write_bytes(file_of(VECTORS, protocol, numpy_1))
    got = load_labels(IDS, tmp_path, VOC_CLASSES, tmp_path / "t.npy")
    assert all(np.array_equal(got[i], VECTORS[i]) for i in IDS)
    maps = {np.int64(3): np.asfortranarray(MAPS[3]), 7: MAPS[7].astype(np.float64)}
    (tmp_path / "m.npy").write_bytes(file_of(maps, protocol, numpy_1))
    scores = read_scores(tmp_path / "m.npy")
    assert list(scores) == [3, 7] and all(np.array_equal(scores[k], MAPS[k]) for k in MAPS)
    assert all(score.flags.writeable for score in scores.values())


def python_2(array):
    """Opcodes of an array as Python 2 pickles it, where bytes are texts of eight bits."""
    data = array.tobytes()
    dtype = b"cnumpy\ndtype\n(U\x02%sK\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" % (
        array.dtype.str[1:].encode()
    )
    shape = b"(" + b"".join(b"K%c" % n for n in array.shape) + b"t"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01"
    return start + shape + dtype + b"\x89T" + len(data).to_bytes(4, "little") + data + b"tb"


def test_a_table_that_python_2_wrote(tmp_path):
    body = b"}(" + b"".join(b"U\x0b%s%s" % (i.encode(), python_2(VECTORS[i])) for i in IDS) + b"u"
    (tmp_path / "t.npy").write_bytes(npy(body).replace(b"\x80\x04}", b"\x80\x02}"))
    got = read_cls_labels(tmp_path / "t.npy")
    assert list(got) == IDS and all(np.array_equal(got[i], VECTORS[i]) for i in IDS)


KEYS = {"str": str, "np.str_": np.str_, "int": lambda i: int(i.replace("_", ""))}
KEYS["np.int64"] = lambda i: np.int64(KEYS["int"](i))
FORMS = {kind: lambda v, kind=kind: v.astype(kind) for kind in ("?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8")}
FORMS |= {
    "tensor": torch.from_numpy,
    "tensor of bool": lambda v: torch.from_numpy(v > 0),
    "tensor of int64": lambda v: torch.from_numpy(v).long(),
    "part of a tensor": lambda v: torch.from_numpy(np.stack([v, v], 1))[:, 1],
    "objects": lambda v: v.astype(int).astype(object),
    "list": lambda v: v.tolist(),
}


@pytest.mark.parametrize(("key", "form"), [*((k, "f4") for k in KEYS), *(("int", f) for f in FORMS)])
def test_keys_and_vectors_of_published_tables(tmp_path, key, form):
    table = {KEYS[key](i): FORMS[form](v) for i, v in VECTORS.items()}
    table[KEYS[key]("2008_000001")] = FORMS[form](np.zeros(20, np.float32))  # more than is needed
    for protocol in (2, 4):
        (tmp_path / "t.npy").write_bytes(file_of(table, protocol))
        got = load_labels(IDS[::-1], tmp_path / "no data", VOC_CLASSES, tmp_path / "t.npy")
        assert list(got) == IDS[::-1] and all(np.array_equal(got[i], VECTORS[i]) for i in IDS)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_dicts_in_arrays_of_one_and_of_other_classes(shape):
    for value in (MAPS, collections.OrderedDict(MAPS)):
        got = unpickle_dict(file_of(value, 2, shape=shape))
        assert list(got) == [3, 7] and all(np.array_equal(got[k], MAPS[k]) for k in MAPS)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({7: VECTORS[IDS[0]]}, "not image IDs: 7"),
        ({20070000321: VECTORS[IDS[0]]}, "not image IDs: 2007"),
        ({True: VECTORS[IDS[0]]}, "not image IDs: True"),
        ({2007000032: VECTORS[IDS[0]], "2007_000032": VECTORS[IDS[1]]}, "an ID occurs twice"),
    ],
)
def test_keys_that_are_no_ids(tmp_path, table, words):
    (tmp_path / "t.npy").write_bytes(file_of(table, 2))
    with pytest.raises(UserError, match="not a label table") as error:
        read_cls_labels(tmp_path / "t.npy")
    assert words in str(error.value)


def test_bytes_of_an_encoding_other_than_latin1_are_refused():
    text = lambda s: b"X" + len(s).to_bytes(4, "little") + s  # noqa: E731
    body = b"}K\x03c_codecs\nencode\n" + text(b"abc") + text(b"%s") + b"\x86Rs"
    assert unpickle_dict(npy(body.replace(text(b"%s"), text(b"latin1")))) == {3: b"abc"}
    for encoding in (b"utf-8", b"idna", b"rot13", b"zip"):
        with pytest.raises(ValueError, match="unexpected encoding"):
            unpickle_dict(npy(body.replace(text(b"%s"), text(encoding))))


# ---------------------------------------------------------------- nothing runs


def named(module, name):
    return word(module) + word(name) + b"\x93"


def state_of_names():
    """All of ours that a file could change by what the unpickler hands out."""
    names = pickles.PlainUnpickler.names | pickles.StorageUnpickler.names
    functions = [f for f in names.values() if not isinstance(f, type)]
    parts = [(vars(f).copy(), f.__defaults__, f.__code__, f.__name__) for f in functions]
    return [vars(cls).copy() for cls in (pickles.Type, pickles.Array)], list(names.items()), parts


SLOTS = b"N}" + word("__defaults__") + b"K\x07\x85s\x86"  # a BUILD that sets an attribute


@pytest.mark.parametrize("module_and_name", list(pickles.PlainUnpickler.names), ids=".".join)
def test_names_can_be_called_and_nothing_else(tmp_path, module_and_name):
    before = state_of_names()
    one = named(*module_and_name)
    attempts = [
        one + SLOTS + b"b",  # BUILD with slots
        one + b"}" + word("__setstate__") + named("numpy", "dtype") + b"sb",  # BUILD of a __dict__
        one + b")\x81",  # NEWOBJ
        one + b")}\x92",  # NEWOBJ_EX
        one + b"K\x00a",  # APPEND
        one + b"(K\x00e",
        one + b"K\x00K\x01s",  # SETITEM
        one + b"(K\x00\x90",  # ADDITEMS
        one + b")R" + SLOTS + b"b",
        one + one + b"\x85R",
        one + word("a.txt") + b"\x85R",
    ]
    for body in attempts:
        for whole in (body, b"}K\x03" + body + b"s"):
            with pytest.raises((UserError, ValueError)):
                (tmp_path / "x.npy").write_bytes(npy(whole))
                read_scores(tmp_path / "x.npy")
            assert state_of_names() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


DOTTED = ["ndarray.tofile", "ndarray.__reduce__", "dtype.__init__", "dtype.__class__", "ndarray.__init_subclass__"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("numpy", name) for name in DOTTED),
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__self__"),
        ("_codecs", "encode.__self__"),
        ("_codecs", "lookup"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes.__globals__"),
        ("torch.serialization", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("tool.io.pickles", "PlainUnpickler"),
        ("os", "system"),
    ],
)
def test_other_names_do_not_resolve(module, name):
    """By STACK_GLOBAL, by GLOBAL and by INST, in protocols that take dots for attributes and in those that do not."""
    ways = [named(module, name), b"c%s\n%s\n" % (module.encode(), name.encode())]
    ways.append(b"(i%s\n%s\n" % (module.encode(), name.encode()))
    for way in ways:
        for protocol in (2, 4):
            with pytest.raises(pickle.UnpicklingError, match=f"it wants to load {module}.{name}"):
                unpickle_dict(npy(b"}K\x03" + way + b"s").replace(b"\x80\x04}", b"\x80%c}" % protocol))


def test_extension_codes_and_persistent_ids_are_refused(tmp_path):
    copyreg.add_extension("os", "system", 77)
    try:
        with pytest.raises(pickle.UnpicklingError, match="it wants to load os.system"):
            unpickle_dict(npy(b"}K\x03\x82\x4ds"))
    finally:
        copyreg.remove_extension("os", "system", 77)
    for body in (b"}K\x03N\x51s", b"}K\x03Pabc\ns"):
        with pytest.raises(pickle.UnpicklingError, match="persistent"):
            unpickle_dict(npy(body))


def test_storages_know_no_names_but_kinds(tmp_path):
    load = named("torch.storage", "_load_from_bytes")
    for inner in (pickle.dumps(Runs(tmp_path / "ran"), 2), b"\x80\x02" + load + b"C\x00\x85R."):
        with pytest.raises(pickle.UnpicklingError, match=f"it wants to load ({open.__module__}.open|torch.storage)"):
            unpickle_dict(npy(b"}K\x03" + load + b"B" + len(inner).to_bytes(4, "little") + inner + b"\x85Rs"))
    assert not (tmp_path / "ran").exists()


FOUR = b"C\x04\0\0\x80?"
ARRAYS = {
    "more than its bytes": pickled_array(b"K\x02\x85", "f4", FOUR),
    "less than its bytes": pickled_array(b"K\x01\x85", "i1", FOUR),
    "of a negative side": pickled_array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", "f4", FOUR),
    "of huge sides": pickled_array(b"\x8a\x09" + (2**62).to_bytes(9, "little") + b"K\x04\x86", "f4", FOUR),
    "of objects in bytes": pickled_array(b"K\x01\x85", "O8", b"C\x08" + bytes(8)),
    "of a list": pickled_array(b"K\x01\x85", "f4", b"]K\x01a"),
    "of fields": pickled_array(b"K\x01\x85", "V4", FOUR),
    "of pairs": pickled_array(b"K\x01\x85", "2f4", FOUR),
    "without its type": pickled_array(b"K\x01\x85", "f4", FOUR).replace(pickled_dtype("f4"), b"N"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_not_what_they_say(kind):
    with pytest.raises((ValueError, AttributeError)):
        unpickle_dict(npy(b"}K\x03" + ARRAYS[kind] + b"s"))


# ---------------------------------------------------------------- numpy of other years reads what we write

OLD_NUMPY = Path(sys.prefix) / "old-numpy"  # `make venv` puts it there, where the registry has one for this Python
READ = """
import json, sys
import numpy as np
plain, table = (np.load(path, allow_pickle=True).item() for path in sys.argv[1:3])
half = {int(k): v.astype(np.float32) for k, v in np.load(sys.argv[3]).items()}
dicts = [{k: [str(v.dtype), v.tolist()] for k, v in d.items()} for d in (plain, table, half)]
json.dump([np.__version__, dicts], sys.stdout)
"""


@pytest.fixture
def written(tmp_path):
    """A score file, a table, and a compressed score file -> their paths."""
    paths = [tmp_path / name for name in ("scores.npy", "table.npy", "half.npy")]
    write_scores(paths[0], MAPS, origin="0123456789abcdef")
    write_cls_labels(paths[1], VECTORS)
    write_scores(paths[2], MAPS, compressed=True, origin="0123456789abcdef")
    return paths


def test_the_oldest_numpy_reads_what_we_write(written):
    if not (OLD_NUMPY / "numpy").is_dir():
        pytest.skip("no old numpy: `make venv` found none for this Python")
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(OLD_NUMPY)!r})\n{READ}"]
    done = subprocess.run([*command, *map(str, written)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version, (plain, table, half) = json.loads(done.stdout)
    assert tuple(map(int, version.split(".")[:2])) < (1, 26)
    assert plain == {str(k): ["float32", v.tolist()] for k, v in MAPS.items()}
    assert table == {k: ["float32", v.tolist()] for k, v in VECTORS.items()}
    assert half == {str(k): ["float32", v.tolist()] for k, v in read_scores(written[2]).items()}


def test_no_name_that_only_new_numpy_has_is_written(written):
    for path in written[:2]:
        stream = io.BytesIO(path.read_bytes())
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        ops = [(op.name, value) for op, value, _ in pickletools.genops(stream)]
        assert {v for name, v in ops if "GLOBAL" in name} == {
            "numpy.core.multiarray _reconstruct",
            "numpy ndarray",
            "numpy dtype",
        }
        assert ops[0] == ("PROTO", 3)
    assert [file_origin(path) for path in written] == ["0123456789abcdef", None, "0123456789abcdef"]
    assert np.array_equal(np.load(written[0], allow_pickle=True).item()[3], MAPS[3])  # and this numpy reads it
