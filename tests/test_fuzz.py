"""Fuzzing of what reads foreign bytes: .params, .npy dicts (scores and label tables, plain and compressed), lists.

Inputs follow the formats: valid files with parts flipped, cut, doubled, or with lengths made huge, pickles put together
from opcodes, .npy headers of other arrays, lines with what paths and encodings can hold. Whatever comes: UserError or a
value, nothing of the file is run, and memory stays below `factor` times the file's size and a constant.

The short form runs always; `pytest -m slow tests/test_fuzz.py` is the campaign, some minutes a parser.
"""

import io
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mxnet_files import FORMS, params_file, record

from tool.files import UserError, read_list, read_scores, write_scores
from tool.mxnet_params import read_params, to_state_dict
from voc12.labels import load_labels, write_cls_labels

CONSTANT = 2**20  # bytes: what a reader needs for the smallest file, messages and the like
FIRED = []  # filled by what must never run


def fire(*arguments):
    """What the pickles here would call."""
    FIRED.append(arguments)
    return 0


# ---------------------------------------------------------------- readers


def read_table(path):
    return load_labels(["a", "b"], path.parent / "nowhere", ("x", "y"), path)


def read_weights(path):
    return to_state_dict(read_params(path), path)


# reader, and bytes of memory for a byte of file: a pickle's shortest opcode makes an object of up to 150 bytes; deflate
# packs at most 1032 bytes into one, which are read, held as half and as single floats and checked
READERS = {
    "scores": (read_scores, 400),
    "compressed": (read_scores, 8000),
    "labels": (read_table, 400),
    "params": (read_weights, 400),
    "list": (read_list, 400),
}


def feed(name, content, folder):
    """Let a reader read `content`; returns whether it took it."""
    read, factor = READERS[name]
    path = folder / f"{name}.bin"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        read(path)
        taken = True
    except UserError as error:
        taken = False
        assert str(path) in str(error) or "nowhere" in str(error)
        assert "\n" not in str(error) and len(str(error)) < 2000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < factor * len(content) + CONSTANT, (peak, len(content))
    assert not FIRED
    return taken


# ---------------------------------------------------------------- inputs


def valid_files(folder):
    """{reader: [contents it takes]}."""
    def content(write, value, **options):
        write(folder / "valid", value, **options)
        return (folder / "valid").read_bytes()

    scores = [{0: np.ones((3, 4)), 5: np.zeros((3, 4))}, {19: np.full((1, 1), 0.25)}]
    table = {"a": np.float32([0, 1]), "b": np.float32([1, 1])}
    names = [b"conv1a_weight", b"arg:bn7_gamma", b"aux:bn7_moving_mean", b"unknown", "é".encode()]
    arrays = [record(np.float32([[1.5, -2]]), form) for form in FORMS] + [record(np.int8([3, -4]))]
    return {
        "scores": [content(write_scores, s, origin="0123456789abcdef") for s in scores],
        "compressed": [content(write_scores, s, compressed=True, origin="0123456789abcdef") for s in scores],
        "labels": [content(write_cls_labels, table)],
        "params": [params_file(arrays, names), params_file(arrays[:1], names[:1])],
        "list": [b"2007_000032\n2007_000039\n", "\ufeff/JPEGImages/é.jpg /Seg/é.png\r\n".encode()],
    }


lengths = st.sampled_from([0, 1, 2, 127, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])


@st.composite
def mutated(draw, contents):
    """A valid file after one to five changes."""
    data = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        change = draw(st.sampled_from(["flip", "cut", "double", "insert", "drop", "length", "swap"]))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[at:]
        elif change == "double":
            data[at:at] = data[at:end] * draw(st.integers(1, 4))
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=9))
        elif change == "drop":
            del data[at:end]
        elif change == "length":
            number = struct.pack("<Q", draw(lengths))[: draw(st.sampled_from([1, 2, 4, 8]))]
            data[at : at + len(number)] = number
        else:
            data[at:end] = reversed(data[at:end])
    return bytes(data)


@st.composite
def npy_header(draw):
    """The beginning of an .npy file, mostly of an object array without dimensions."""
    value = {"descr": "|O", "fortran_order": False, "shape": ()}
    if draw(st.integers(0, 3)) == 0:
        value["descr"] = draw(st.sampled_from(["<f4", "|O", "<f2", "|V9999999999", "<U2147483647", [("a", "|O")], 3]))
        value["shape"] = draw(st.sampled_from([(), (1,), (2**40,), (2**31, 2**31), (-1,), (0,), "()", None]))
        value["fortran_order"] = draw(st.sampled_from([True, False, 1, "no"]))
    text = repr(value).encode() + b" " * draw(st.integers(0, 70)) + b"\n"
    version = draw(st.sampled_from([(1, 0)] * 6 + [(2, 0), (3, 0), (9, 9)]))
    size = struct.pack("<H" if version == (1, 0) else "<I", draw(st.sampled_from([len(text)] * 9 + [0, 65535])))
    return b"\x93NUMPY" + bytes(version) + size + text


NAMES = [(b"numpy.core.multiarray", b"_reconstruct"), (b"numpy._core.multiarray", b"_reconstruct"),
         (b"numpy._core.multiarray", b"scalar"), (b"numpy", b"ndarray"), (b"numpy", b"dtype"), (b"numpy", b"zeros"),
         (b"os", b"system"), (b"builtins", b"bytearray"), (b"test_fuzz", b"fire"), (b"tests.test_fuzz", b"fire")]
texts = st.sampled_from([b"", b"a", b"b", b"f4", b"i8", b"O8", b"<", b"|", b"V99999", b"test_fuzz", b"fire", b"\xff"])
numbers = st.integers(-3, 300) | st.integers(-(2**70), 2**70)


def opcode_bytes(opcode):
    """An opcode with its argument."""
    return argument(opcode).map(lambda rest: opcode.code.encode("latin1") + rest)


def argument(opcode):
    """Bytes that follow an opcode, as its kind asks or nearly so."""
    kind = opcode.arg.name if opcode.arg else None
    short = {"uint1": "<B", "uint2": "<H", "uint4": "<I", "uint8": "<Q", "int4": "<i", "float8": ">d"}
    if kind is None:
        return st.just(b"")
    if kind in short:
        code = short[kind]
        if code == ">d":
            return st.floats().map(lambda v: struct.pack(code, v))
        return (st.integers(0, 6) | lengths).map(lambda n: struct.pack("<Q", n % 2**63)[: struct.calcsize(code)])
    if kind == "stringnl_noescape_pair":
        return st.sampled_from(NAMES).map(lambda pair: pair[0] + b"\n" + pair[1] + b"\n")
    if kind.endswith(("1", "4", "8")):  # counted
        width = int(kind[-1])
        honest = texts.map(lambda t: struct.pack("<Q", len(t))[:width] + t)
        return honest | st.tuples(lengths, texts).map(lambda p: struct.pack("<Q", p[0])[:width] + p[1])
    return texts.map(lambda t: t.replace(b"\n", b"") + b"\n") | numbers.map(lambda n: b"%d\n" % n)


OPCODES = {opcode.name: opcode_bytes(opcode) for opcode in pickletools.opcodes}
any_opcode = st.sampled_from(sorted(OPCODES)).flatmap(OPCODES.get)
useful = st.sampled_from(["MARK", "TUPLE", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "LIST",
                          "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "MEMOIZE", "BINGET", "DUP", "POP", "BINPUT",
                          "REDUCE", "BUILD", "GLOBAL", "BINUNICODE", "SHORT_BINBYTES", "BININT1", "LONG1", "NONE"])
opcodes = st.lists(useful.flatmap(OPCODES.get) | any_opcode, max_size=40).map(b"".join)


class Call:
    """Pickles as a call of `fire`."""

    def __reduce__(self):
        return fire, (1,)


def honest_arrays():
    """Pickles of dicts as numpy makes them, to be put together with opcodes."""
    values = [{0: np.ones((2, 3), np.float32)}, {"a": np.float32([0, 1]), "b": np.float32([1, 0])}, {0: Call()},
              {0: np.array([Call()], dtype=object)}, {np.int64(3): np.ones((1, 1))}, [[]] * 3, {0: [1.0] * 5}]
    return [pickle.dumps(v, protocol) for v in values for protocol in (0, 2, 4)]


@st.composite
def pickles(draw):
    """An .npy file whose pickle is of opcodes, of an honest one, or of both."""
    honest = draw(st.sampled_from(honest_arrays()))
    at = draw(st.integers(0, len(honest)))
    body = draw(st.sampled_from([b"", honest, honest[:at], honest[:-1]])) + draw(opcodes)
    return draw(npy_header()) + body + draw(st.sampled_from([b".", b"s.", b""])) + honest[at : at + 20]


odd_lines = st.sampled_from(["..", "../x", "/", "/JPEGImages/a.jpg", "a\0b", "x" * 5000, "\ufeff", " ", "a b", "C:\\x",
                             "//a.png", "a/b/c.jpg", "\x85", "\u2028", "\x1b[2J", "é"])
ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
encodings = st.sampled_from(["utf-8", "utf-16", "utf-8-sig"])
lists = st.tuples(st.lists(st.text(max_size=12) | odd_lines, max_size=20), ends, encodings).map(
    lambda t: t[1].join(t[0]).encode(t[2], "surrogatepass"))


def inputs(name, valid):
    """Strategy of contents for a reader."""
    made = {"scores": pickles(), "labels": pickles(), "list": lists}.get(name, st.nothing())
    return mutated(valid[name]) | made | st.binary(max_size=300)


# ---------------------------------------------------------------- campaigns


def campaign(name, folder, examples):
    """Feed a reader that many inputs."""
    valid = valid_files(folder)
    assert all(feed(name, content, folder) for content in valid[name])
    counts = {True: 0, False: 0}

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))
    @given(inputs(name, valid))
    def run(content):
        counts[feed(name, content, folder)] += 1

    run()
    print(f"{name}: {counts[True]} inputs taken, {counts[False]} refused")
    return counts


@pytest.mark.parametrize("name", READERS)
def test_only_one_kind_of_error_comes_out(name, tmp_path):
    counts = campaign(name, tmp_path, 150)
    assert counts[False] > 20  # it is made of broken inputs, mostly


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_campaign(name, tmp_path):
    campaign(name, tmp_path, 30_000)


def test_what_would_be_run_is_real():
    """The payload of the pickles here does fire where a file is unpickled unchecked."""
    buffer = io.BytesIO()
    np.save(buffer, {0: Call()}, allow_pickle=True)
    buffer.seek(0)
    np.load(buffer, allow_pickle=True)
    assert FIRED.pop() == (1,)
