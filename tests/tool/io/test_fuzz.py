"""Random files for the parsers of foreign bytes: .params, score files in both forms, the label table, lists.

Whatever the bytes, a parser gives a result that keeps its promises or a UserError of one short clean line, executes
nothing of the file, and takes no more memory than `bound` allows; a pickle may ask for any, and is refused where there
is not so much. The short form runs with every `make test`, the long
one (`make test-long`, FUZZ_SECONDS for each parser, 120 by default) draws from the same strategies.
"""

import contextlib
import io
import itertools
import math
import os
import pickle
import pickletools
import re
import resource
import struct
import time
import tracemalloc
import unicodedata
import warnings
import zipfile

import numpy as np
import pytest
import torch
from bad_files import npy, pickled_array, saved, word
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mxnet_files import CODES, FORMS, mxnet_name, params_file, record

from tool.io import scores as scores_module
from tool.io.files import UserError, read_list
from tool.io.mxnet_params import read_params, to_state_dict
from tool.io.scores import ORIGIN_MARK, file_origin, read_scores, zip_scores
from voc12.labels import load_labels

NAMES = [f"class{k}" for k in range(20)]
EXECUTED = []  # what a file made this process call


def execute(*args):
    EXECUTED.append(args)
    return {}


class Executes:
    """Made or given a state, it tells."""

    def __new__(cls, *args):
        execute(*args)
        return super().__new__(cls)

    def __setstate__(self, state):
        execute(state)


# ---------------------------------------------------------------- the properties

EXPANSION = 1032  # what deflate makes of a byte at most
# bytes of memory for each byte of a file, measured on the densest ones (DENSE) with a third to spare; and the constant
LIMITS = {
    "params": (30, 2**16),
    "scores": (0, math.inf),  # an opcode of a pickle asks for any memory
    "labels": (0, math.inf),
    "archives": (50, 2**20),
    "lists": (110, 2**18),
}


@pytest.fixture(autouse=True)
def little_memory():
    """What a file makes this process ask for beyond a gigabyte is refused by the system, as on a small machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def bound(parser, size):
    """Bytes that reading a file of `size` bytes may take. Archives: four copies at most of all they unpack to."""
    factor, constant = LIMITS[parser]
    unpacked = 4 * min(EXPANSION * size, scores_module.COMPRESSED_LIMIT) if parser == "archives" else 0
    return factor * size + constant + unpacked


def attempt(parse, parser, path):
    """Result of parse(path); None where it refuses the file as documented. Any other exception is a failure."""
    message = None
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # numpy's about headers that Python 2 wrote
        tracemalloc.start()
        try:
            result = parse(path)
        except UserError as error:
            result, message = None, str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert not EXECUTED
    assert peak <= bound(parser, path.stat().st_size)
    if message is not None:
        assert message.startswith(str(path)) or str(path) in message
        assert len(message) < len(str(path)) + 1200
        assert not [c for c in message if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    return result


def check_params(path):
    arrays = attempt(read_params, "params", path)
    if arrays is None:
        return False
    assert all(isinstance(name, str) for name in arrays)
    assert sum(a.nbytes for a in arrays.values()) < path.stat().st_size
    state = attempt(lambda path: to_state_dict(arrays, path), "params", path)
    assert state is None or len(state) <= len(arrays)
    return True


def check_scores(path, parser="scores"):
    origin = file_origin(path)
    assert origin is None or re.fullmatch("[0-9a-f]{16}", origin)
    scores = attempt(read_scores, parser, path)
    if scores is None:
        return False
    maps = list(scores.values())
    assert all(type(key) is int and 0 <= key <= 255 for key in scores)
    assert len({m.shape for m in maps}) <= 1 and all(m.ndim == 2 and m.size for m in maps)
    assert maps or not path.read_bytes().startswith(ARCHIVE[:4])  # an archive that began with a map has not lost it
    assert all(m.dtype.kind == "f" and np.isfinite(m).all() for m in maps)
    return True


def check_archives(path):
    return check_scores(path, "archives")


def check_labels(path):
    labels = attempt(lambda path: load_labels(["a", "b"], path.parent, NAMES, path), "labels", path)
    if labels is None:
        return False
    assert list(labels) == ["a", "b"]
    assert all(v.dtype == np.float32 and v.shape == (20,) for v in labels.values())
    assert all(set(v.tolist()) <= {0, 1} for v in labels.values())
    return True


def check_lists(path):
    ids = attempt(read_list, "lists", path)
    if ids is None:
        return False
    assert ids and len(set(ids)) == len(ids)
    text = path.read_bytes().decode()
    for image_id in ids:
        assert image_id in text and image_id == image_id.strip()
        assert os.path.normpath(f"/set/{image_id}.jpg") == f"/set/{image_id}.jpg"  # it stays in its folder
        assert not [c for c in image_id if c == "\\" or unicodedata.category(c) == "Cc"]
    path.write_text("\n".join(ids), encoding="utf-8")
    assert read_list(path) == ids  # written by us and read again
    return True


# ---------------------------------------------------------------- damage to any bytes

HUGE = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
COPIES = st.sampled_from([1, 2, 3, 200])


def packed(code, value):
    """`value` as a little-endian number of a struct code, as many of its lowest bits as fit."""
    size = struct.calcsize("<" + code)
    return (value % 256**size).to_bytes(size, "little")


@st.composite
def damaged(draw, data, places=(), edits=4):
    """`data` with up to so many edits. places: offsets of its numbers, preferred where a number is overwritten."""
    for _ in range(draw(st.integers(1, edits))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        to = at + draw(st.integers(1, 40))
        kind = draw(st.sampled_from(["bits", "number", "number", "insert", "remove", "repeat", "cut", "move"]))
        if kind == "number":
            at = draw(st.sampled_from(places)) if places and draw(st.booleans()) else at
            number = packed(draw(st.sampled_from("BHIQ")), draw(st.sampled_from(HUGE)))
            data = data[:at] + number + data[at + len(number) :]
        elif kind == "bits":
            data = data[:at] + bytes(b ^ draw(st.integers(1, 255)) for b in data[at : at + 1]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
        elif kind == "remove":
            data = data[:at] + data[to:]
        elif kind == "repeat":
            data = data[:at] + data[at:to] * draw(COPIES) + data[to:]
        elif kind == "cut":
            data = data[:at]
        else:
            rest = data[:at] + data[to:]
            there = draw(st.integers(0, len(rest)))
            data = rest[:there] + data[at:to] + rest[there:]
    return data


def maybe_damaged(strategy):
    """Files of a strategy, half of them damaged as well."""
    return strategy | strategy.flatmap(damaged)


# ---------------------------------------------------------------- .params

PARAMS_NAMES = [mxnet_name(e).encode() for e in ("conv1a.weight", "b4_2.bn_branch2b1.running_var", "bn7.weight")]
PARAMS_NAMES += [
    b"arg:conv1a_weight",
    b"aux:bn7_moving_var",
    b"linear1000_bias",
    "é".encode(),
    b"",
    b"\xff",
    b"\x1b[2J\n\xc2\x85",
    b"n" * 300,
    b"\xf3\xa0\x80\x81" * 50,
]
MIXED = params_file(
    [record(np.ones((2, 1), code), form) for form in FORMS for code in CODES],
    [b"n%d" % k for k in range(len(FORMS) * len(CODES))],
)


def record_fields(form, code, shape):
    """A record of ones as (struct code, number) and bytes, in the file's order."""
    start = {"oldest": [], "v1": [("I", FORMS["v1"])]}.get(form, [("I", FORMS[form]), ("i", 0)])
    values = np.ones(shape, code).tobytes()
    return [
        *start,
        ("I", len(shape)),
        *(("I" if form == "oldest" else "q", n) for n in shape),
        ("i", 1),
        ("i", 0),
        ("i", CODES[code]),
        values,
    ]


def joined(fields):
    return b"".join(f if isinstance(f, bytes) else packed(*f) for f in fields)


@st.composite
def built_params(draw):
    """A file field by field, some of them replaced, left out, repeated or swapped."""
    shapes = st.lists(st.integers(1, 3), max_size=4)
    records = draw(
        st.lists(
            st.builds(record_fields, st.sampled_from(list(FORMS)), st.sampled_from(list(CODES)), shapes), max_size=3
        )
    )
    names = draw(st.lists(st.sampled_from(PARAMS_NAMES), min_size=len(records), max_size=len(records), unique=True))
    copies = draw(COPIES)
    records, names = records * copies, names + [b"%d" % k for k in range(len(names) * (copies - 1))]
    fields = [("Q", 0x112), ("Q", 0), ("Q", len(records)), *itertools.chain(*records), ("Q", len(names))]
    fields += itertools.chain(*((("Q", len(name)), name) for name in names))
    for _ in range(draw(st.integers(0, 3))):
        at, other = draw(st.integers(0, len(fields) - 1)), draw(st.integers(0, len(fields) - 1))
        kind = draw(st.sampled_from(["number", "number", "number", "remove", "repeat", "swap"]))
        if kind == "number" and not isinstance(fields[at], bytes):
            fields[at] = fields[at][0], draw(st.sampled_from([*HUGE, *filter(None, FORMS.values())]))
        elif kind == "remove":
            del fields[at]
            break
        elif kind == "repeat":
            fields[at:at] = [fields[at]] * draw(COPIES)
        else:
            fields[at], fields[other] = fields[other], fields[at]
    return joined(fields)


PARAMS = maybe_damaged(built_params()) | damaged(MIXED) | st.binary(max_size=100)

# ---------------------------------------------------------------- pickles, opcode by opcode

MODULES = [
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("os", "system"),
    (__name__, "execute"),
    (__name__, "Executes"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.numpy.core.multiarray", "scalar"),
    ("numpy", "dtype.__class__"),
    ("numpy", "ndarray.tofile"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("_codecs", "lookup"),
    ("copyreg", "_reconstructor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.storage", "_load_from_bytes"),
    ("torch", "FloatStorage"),
    ("torch.serialization", "load"),
    ("collections", "OrderedDict"),
    ("\x1b[31m", "\u202e\x85"),
    ("", ""),
]
ORDER = f"import {__name__}; {__name__}.execute()"


def binint(n):
    return b"J" + struct.pack("<i", n) if -(2**31) <= n < 2**31 else b"\x8a\x0a" + n.to_bytes(10, "little", signed=True)


def named(module, name):
    return word(module) + word(name) + b"\x93"


def text_named(module, name):
    return f"c{module}\n{name}\n".encode()


def inst(module, name):
    return f"(i{module}\n{name}\n".encode()


def with_length(code, form, strategy):
    """An opcode with a payload and its length, true or not."""
    return st.builds(
        lambda payload, length: code + packed(form, len(payload) if length is None else length) + payload,
        strategy,
        st.none() | st.none() | st.sampled_from(HUGE),
    )


SHORT = st.binary(max_size=6)
WORDS = st.sampled_from(
    [b"", b"a", b"b", b"f4", b"O8", b"\xc3\xa9", b"numpy", b"exec", ORDER.encode(), b"\xff", b"\xed\xa0\x80"]
)
SINGLE = [bytes([c]) for c in b"(01N2\x88\x89])}aelsdutbRo\x81\x92\x8f\x90\x91Q\x97\x98\x94\x93\x85\x86\x87."]
NUMBERS = st.sampled_from([*HUGE, -1, -(2**31)])
MODULE = st.sampled_from(MODULES)
OPCODES = st.one_of(
    st.sampled_from(SINGLE),
    st.sampled_from(SINGLE),
    NUMBERS.map(binint),
    *(
        with_length(code, form, WORDS)
        for code, form in (
            (b"U", "B"),
            (b"T", "i"),
            (b"X", "I"),
            (b"\x8c", "B"),
            (b"\x8d", "Q"),
            (b"C", "B"),
            (b"B", "I"),
            (b"\x8e", "Q"),
            (b"\x96", "Q"),
            (b"\x8a", "B"),
            (b"\x8b", "i"),
            (b"\x95", "Q"),
        )
    ),
    st.builds(
        lambda code, n: code + packed({b"q": "B", b"h": "B"}.get(code, "I"), n),
        st.sampled_from([b"q", b"h", b"r", b"j"]),
        st.integers(0, 12) | st.sampled_from(HUGE),
    ),
    st.builds(
        lambda code, n: code + b"%d\n" % n,
        st.sampled_from([b"p", b"g", b"I", b"L", b"P", b"F"]),
        st.integers(0, 12) | NUMBERS,
    ),
    st.builds(
        lambda code, s: code + s + b"\n",
        st.sampled_from([b"S", b"V", b"I", b"L", b"F", b"P"]),
        st.sampled_from([b"'a'", b"'\\x61'", b"\\u0061", b"9" * 5000, b"0x" + b"f" * 5000, b"1e400", b"nan", b"'"]),
    ),
    st.builds(
        lambda code, payload: code + payload,
        st.sampled_from([b"K", b"M", b"J", b"G", b"\x80", b"\x82", b"\x83", b"\x84"]),
        SHORT,
    ),
    MODULE.map(lambda pair: named(*pair)),
    MODULE.map(lambda pair: text_named(*pair)),
    MODULE.map(lambda pair: inst(*pair)),
)
NESTS = [
    (b"(", b"t"),
    (b"(", b"l"),
    (b"](", b"e"),
    (b"}K\x00", b"s"),
    (b"", b"\x85"),
    (b"]\x94h\x00", b"a"),
    (pickled_array(b")", "O8", b"]")[: -len(b"tb")], b"atb"),
]
CALLS = [
    call(*target) + args + b"R"
    for call in (named, text_named)
    for target, args in (
        ((__name__, "execute"), b")"),
        ((__name__, "execute"), b"K\x01\x85"),
        ((__name__, "Executes"), b")"),
        (("builtins", "exec"), b"X" + packed("I", len(ORDER)) + ORDER.encode() + b"\x85"),
    )
]
CALLS += [
    named(__name__, "Executes") + b")\x81",
    inst(__name__, "execute"),
    inst(__name__, "Executes"),
    b"(" + named(__name__, "Executes") + b"o",
    named(__name__, "Executes") + b")}\x92",
    named(__name__, "Executes") + b")\x81Nb",
]


@st.composite
def nests(draw):
    before, after = draw(st.sampled_from(NESTS))
    depth = draw(st.sampled_from([1, 2, 60, 500]))
    return before * depth + draw(st.sampled_from([b")", b"N", b"}", b"K\x00"])) + after * depth


@st.composite
def arrays(draw, shape, code):
    """Opcodes of an array: mostly as asked for, else with a part that does not fit the others."""
    count = int(np.prod(shape))
    values = np.arange(count) % 2 if len(shape) == 1 else np.linspace(0, 1, count).reshape(shape)
    dims, data = list(shape), values.astype(code).tobytes()
    part = draw(st.sampled_from(["", "", "shape", "code", "data", "list"]))
    if part == "shape":
        dims = draw(st.lists(st.sampled_from([0, 1, 2, 3, 20, -1, 2**31, 2**40, 2**62, 2**63]), max_size=4))
    if part == "code":
        code = draw(st.sampled_from(["f8", "f2", "f4", "i1", "u8", "O8", "O", "f16", "V8", "S3", "M8", "f4,f4", "é"]))
    sized = b"B" + packed("I", len(data)) + data
    if part == "data":
        sized = draw(OPCODES | st.binary(max_size=40).map(lambda s: b"C" + bytes([len(s)]) + s))
    if part == "list":
        dims, code = draw(st.sampled_from([[], [1], [2], [10**6], [2**40]])), draw(st.sampled_from(["O8", "f4"]))
        sized = b"](" + draw(OPCODES) * draw(st.sampled_from([0, 1, 1, 2, 100])) + b"e"
    return pickled_array(b"(" + b"".join(map(binint, dims)) + b"t", code, sized)


def dicts(keys, values):
    """A pickled dict, item by item, as a batch or from a mark; alone or in an array without dimensions."""
    items = st.lists(st.tuples(keys, values), min_size=1, max_size=3)
    join = lambda pairs: b"".join(key + value for key, value in pairs)  # noqa: E731
    one = st.one_of(
        items.map(lambda pairs: b"}" + b"".join(key + value + b"s" for key, value in pairs)),
        items.map(lambda pairs: b"}(" + join(pairs) + b"u"),
        items.map(lambda pairs: b"(" + join(pairs) + b"d"),
    )
    return one | one.map(lambda body: pickled_array(b")", "O8", b"]" + body + b"a"))


def opcodes_of(data):
    """The pickle at the end of an .npy -> (header, list of the bytes of each opcode)."""
    start = 10 + int.from_bytes(data[8:10], "little")
    places = [start + at for _, _, at in pickletools.genops(data[start:])] + [len(data)]
    return data[:start], [data[a:b] for a, b in itertools.pairwise(places)]


@st.composite
def shuffled_opcodes(draw, data):
    """A whole file with opcodes left out, repeated, swapped, replaced or put in."""
    header, ops = opcodes_of(data)
    for _ in range(draw(st.integers(1, 3))):
        at, other = draw(st.integers(0, len(ops) - 1)), draw(st.integers(0, len(ops) - 1))
        kind = draw(st.sampled_from(["remove", "repeat", "swap", "replace", "insert", "call"]))
        if kind == "remove" and len(ops) > 1:
            del ops[at]
        elif kind == "repeat":
            ops[at : at + 1] = [ops[at]] * draw(COPIES)
        elif kind == "swap":
            ops[at], ops[other] = ops[other], ops[at]
        elif kind == "replace":
            ops[at] = draw(OPCODES)
        else:
            ops.insert(at, draw(st.sampled_from(CALLS) if kind == "call" else OPCODES | nests()))
    return header + b"".join(ops)


# ---------------------------------------------------------------- .npy headers

DESCR = [
    "'|O'",
    "'O'",
    "'<f4'",
    "'|O8'",
    "'<f2'",
    "('|O', (2,))",
    "('|O', (2**62,))",
    "[('a', '|O')]",
    "'|V0'",
    "'M8[s]'",
    "None",
    "5",
    "''",
    "'|O,|O'",
    "('|O', 99999999999)",
    "'\\x00'",
    "[" * 90,
]
SHAPES = [
    "()",
    "(1,)",
    "(2, 3)",
    "(0,)",
    "(99999999999, 99999999999)",
    "(-1,)",
    "(1L,)",
    "None",
    "[]",
    "(True,)",
    "((),)",
    "(1.5,)",
]
ODD_HEADERS = [
    "",
    "{}",
    "[" * 400,
    "-" * 900 + "1",
    "(" * 9000,
    "9" * 9999,
    "1," * 4900,
    "[" + "[]," * 300 + "]",
    "{'descr':",
    f"exec({ORDER!r})",
    "__import__('os')",
    "9**9**9**9",
    "lambda: 0",
    "'" + "x" * 70000,
    "\0",
    "a" + "[0]" * 300,
    "é",
]


@st.composite
def headers(draw):
    """An .npy header: in half the cases that of a dict, else with odd values, version, length or text."""
    parts = ["'|O'", "False", "()"]
    version, odd = (1, 0), draw(st.sampled_from(["", "", "", "", "parts", "parts", "text", "version", "length"]))
    if odd == "parts":
        parts = [draw(st.sampled_from(c)) for c in (DESCR, ["False", "True", "0", "None"], SHAPES)]
    text = "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format(*parts).ljust(117) + "\n"
    if odd == "text":
        text = draw(st.sampled_from(ODD_HEADERS))
    if odd == "version":
        version = draw(st.sampled_from([(2, 0), (3, 0), (0, 0), (1, 1), (255, 255)]))
    data = text.encode("latin-1")
    length = draw(st.sampled_from(HUGE)) if odd == "length" else len(data)
    return b"\x93NUMPY" + bytes(version) + packed("H" if version[0] == 1 else "I", length) + data


def object_files(valid, keys, values):
    """.npy files of dicts: built from opcodes, whole ones with other opcodes, whole ones damaged."""
    whole = st.sampled_from(valid)
    body = st.one_of(dicts(keys, values), dicts(keys, values), st.lists(OPCODES | nests(), max_size=12).map(b"".join))
    tail = st.sampled_from(
        [b".", b".", b"", b"." + ORIGIN_MARK + b"0123456789abcdef", b"." + ORIGIN_MARK + b"\xff" * 16, b".."]
    )
    start = st.sampled_from(
        [b"\x80\x04", b"\x80\x04", b"\x80\x02", b"\x80\x06", b"\x80\x04\x95" + packed("Q", 2**62), b""]
    )
    built = st.builds(lambda *parts: b"".join(parts), headers(), start, body, tail)
    return st.one_of(built, built, whole.flatmap(shuffled_opcodes), whole.flatmap(damaged), built.flatmap(damaged))


# ---------------------------------------------------------------- score files

MAPS = {3: np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), 7: np.zeros((3, 4), np.float32)}


def irn(value):
    """IRN's form of a score file; the names of storages, which are addresses, made the same each time."""
    return re.sub(rb"\d{10,}", lambda found: b"1" * len(found.group()), saved(value))


PLAIN = [
    saved(MAPS),
    saved({np.int64(3): np.asfortranarray(MAPS[3], np.float64), np.uint8(7): MAPS[7].astype(np.float16)}),
    npy(pickle.dumps(np.array(MAPS), 3)[2:-1]),
    npy(pickle.dumps(MAPS, 4)[2:-1]),
    irn({"keys": torch.tensor([3, 7]), "cam": torch.ones(2, 1, 1), "high_res": np.stack(list(MAPS.values()))}),
    irn({"keys": np.array([3, 7]), "high_res": torch.from_numpy(np.stack(list(MAPS.values()))).half()}),
    saved(MAPS) + ORIGIN_MARK + b"0123456789abcdef",
]
SCORE_KEYS = (st.integers(0, 255) | st.integers(-2, 2**16)).map(binint) | OPCODES
SCORE_VALUES = arrays((2, 3), "f4") | arrays((2, 3), "f4") | OPCODES | nests() | st.sampled_from(CALLS)
SCORES = object_files(PLAIN[:-1], SCORE_KEYS, SCORE_VALUES) | damaged(PLAIN[-1])

# ---------------------------------------------------------------- score files, compressed

MEMBER_NAMES = [
    "3.npy",
    "7.npy",
    "255.npy",
    "0.npy",
    "00.npy",
    "3",
    "-1.npy",
    "256.npy",
    "../3.npy",
    "/3.npy",
    "3.npy/",
    "é.npy",
    "a\0b.npy",
    "\u0663.npy",
    "\x1b[2J",
]
ARCHIVE = zip_scores(MAPS, ORIGIN_MARK + b"0123456789abcdef")
ZIP_FIELDS = {
    b"PK\3\4": (4, 6, 8, 14, 18, 22, 26, 28),
    b"PK\1\2": (6, 8, 10, 16, 20, 24, 28, 30, 32, 34, 42),
    b"PK\5\6": (4, 6, 8, 10, 12, 16, 20),
}
PLACES = [
    found.start() + offset
    for magic, offsets in ZIP_FIELDS.items()
    for found in re.finditer(re.escape(magic), ARCHIVE)
    for offset in offsets
]


def half(shape, text=None, fill=b"\0\x38"):
    """An .npy member of half precision; text: of another header."""
    header = text or f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
    return (
        b"\x93NUMPY\1\0" + packed("H", len(header) + 1) + header.encode("latin-1") + b"\n" + fill * int(np.prod(shape))
    )


@st.composite
def built_archives(draw):
    """A zip file of members good and odd, some of them squeezing zeros."""
    members = st.one_of(
        st.sampled_from([(2, 3), (2, 3), (3, 2), (300, 300), (1, 2, 3), (0, 4)]).map(
            lambda shape: half(shape, fill=b"\0\0")
        ),
        st.just(half((2, 3))),
        st.builds(
            lambda d, s: half((2, 3), f"{{'descr': {d}, 'fortran_order': False, 'shape': {s}}}"),
            st.sampled_from(DESCR),
            st.sampled_from(SHAPES),
        ),
        st.sampled_from(ODD_HEADERS).map(lambda text: half((2, 3), text[:60_000])),
        headers(),
        st.just(PLAIN[0]),
        damaged(half((2, 3))),
        st.just(half((2, 3), fill=b"\xff\xff")),
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same name twice
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from([zipfile.ZIP_DEFLATED] * 4 + [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2]))
            name = draw(st.sampled_from(MEMBER_NAMES) | st.sampled_from(MEMBER_NAMES[:4]))
            target.writestr(zipfile.ZipInfo(name), draw(members), kind)
        target.comment = draw(
            st.sampled_from([b"", ORIGIN_MARK + b"0123456789abcdef", b"\xff" * 200, b"PK\5\6" + b"\0" * 30])
        )
    return stream.getvalue()


ARCHIVES = maybe_damaged(built_archives()) | damaged(ARCHIVE, PLACES) | damaged(ARCHIVE, PLACES, 1)

# ---------------------------------------------------------------- label tables

TABLE = {"a": np.eye(20, dtype=np.float32)[3], "b": np.ones(20, np.float32)}
TABLES = [saved(TABLE), saved({k: v.astype(np.int64) for k, v in TABLE.items()}), npy(pickle.dumps(TABLE, 3)[2:-1])]
LABEL_KEYS = st.sampled_from([word("a"), word("b"), word("a"), word("b"), b"X\1\0\0\0b"]) | OPCODES
LABEL_VALUES = arrays((20,), "f4") | arrays((20,), "i1") | arrays((20,), "f4") | OPCODES | st.sampled_from(CALLS)
LABELS = object_files(TABLES, LABEL_KEYS, LABEL_VALUES)

# ---------------------------------------------------------------- lists

IDS = st.sampled_from(
    ["2007_000032", "img", "a.b", "é", "犬", "x y", "\ufeffz", "..x", "%s", "{0}", "-flag", "\u202ea", "=", "con", "😀"]
)
LINES = st.one_of(
    IDS,
    IDS,
    IDS.map(lambda i: f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png"),
    IDS.map(lambda i: f"JPEGImages/{i}.PNG"),
    st.sampled_from(
        [
            "",
            " ",
            "\t",
            ".",
            "..",
            "../img",
            "/etc/passwd",
            "/JPEGImages/../img.jpg",
            "/../img.jpg",
            "/JPEGImages/..jpg",
            "/JPEGImages/...jpg",
            "/JPEGImages/.jpg",
            "//img.jpg",
            "/a/b/c.jpg",
            "a\\b",
            "..\\img",
            "a\0",
            "\0",
            "img\0 x",
            "\x1b[31mimg",
            "\ufeff",
            "/JPEGImages/img.jpg/",
            "img/",
            "/",
            "x" * 20_000,
            "/" + "x" * 20_000,
            "a " * 5000,
            "C:\\img.jpg",
            "\\\\host\\img",
            "file:///img.jpg",
            "~/img.jpg",
        ]
    ),
    st.text(max_size=12),
    st.text(st.sampled_from("./\\ \0\ufeffaj\u2028\x85"), max_size=8),
)
BREAKS = st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", " ", "\t", "\0"])
ENCODINGS = st.sampled_from(["utf-8"] * 5 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7"])


@st.composite
def built_lists(draw):
    pieces = draw(st.lists(st.tuples(LINES, BREAKS, COPIES), min_size=1, max_size=5))
    text = "".join((line + end) * (copies if len(line) < 50 else 1) for line, end, copies in pieces)
    if draw(st.booleans()):
        text += "".join(f"{draw(st.sampled_from('aé犬'))}{k}\n" for k in range(draw(st.sampled_from([1, 500]))))
    return text.encode(draw(ENCODINGS), "replace")


LISTS = maybe_damaged(built_lists())

# ---------------------------------------------------------------- the runs

FILES = {"params": PARAMS, "scores": SCORES, "archives": ARCHIVES, "labels": LABELS, "lists": LISTS}
CHECKS = {
    "params": check_params,
    "scores": check_scores,
    "archives": check_archives,
    "labels": check_labels,
    "lists": check_lists,
}
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


def check(parser, folder, data):
    """True where the parser accepts the file, False where it refuses it as documented; else AssertionError."""
    path = folder / f"{parser}.file"
    path.write_bytes(data)
    return CHECKS[parser](path)


def checker(parser, folder, seen):
    """A function that checks a random file, and counts in `seen` whether it was accepted."""

    def one(data):
        seen[check(parser, folder, data)] += 1

    return given(FILES[parser])(one)


@pytest.mark.parametrize("parser", FILES)
def test_random_files(tmp_path, parser):
    seen = {True: 0, False: 0}
    settings(SETTINGS, max_examples=100)(checker(parser, tmp_path, seen))()
    assert min(seen.values()) > 0  # the strategies reach both


@pytest.mark.slow
@pytest.mark.parametrize("parser", FILES)
def test_random_files_for_minutes(tmp_path, parser):
    """Rounds of a thousand files until the time is up, each with a seed of its own; the file that ends a process lies
    in the temporary folder."""
    seen = {True: 0, False: 0}
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", 120))
    for number in itertools.count():
        seed(number)(settings(SETTINGS, max_examples=1000, database=None)(checker(parser, tmp_path, seen)))()
        if time.monotonic() > end:
            break
    print(f"{parser}: {sum(seen.values())} files, {seen[True]} accepted")
    assert min(seen.values()) > 100


# ---------------------------------------------------------------- that the above can fail, and files picked by hand

VALID = {
    "params": [MIXED, params_file([record(np.float32([1, 2]))], [b"bn7_gamma"])],
    "scores": PLAIN,
    "archives": [ARCHIVE],
    "labels": TABLES,
    "lists": [b"\xef\xbb\xbfa\r\n/JPEGImages/b.jpg /x/b.png\n\nc d", b"\n\xef\xbb\xbfz\n"],
}


@pytest.mark.parametrize("parser", VALID)
def test_whole_files_are_accepted(tmp_path, parser):
    assert all(check(parser, tmp_path, data) for data in VALID[parser])


def test_fields_give_the_file_that_the_other_writer_gives():
    for form, code in itertools.product(FORMS, CODES):
        assert joined(record_fields(form, code, (2, 3))) == record(np.ones((2, 3), code), form)


@pytest.mark.parametrize("call", CALLS)
def test_calls_are_executed_where_a_pickle_is_trusted(tmp_path, call):
    try:
        with contextlib.suppress(Exception):  # some fail after the call
            pickle.loads(b"\x80\x04" + call + b".")
        assert EXECUTED
    finally:
        EXECUTED.clear()
    for body in (call, b"}" + b"K\x00" + call + b"s", b"}" + word("a") + call + b"s"):
        assert not check("scores", tmp_path, npy(body)) and not check("labels", tmp_path, npy(body))


def test_memory_above_the_bound_and_other_exceptions_fail(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    for parser in ("params", "archives", "lists"):
        with pytest.raises(AssertionError):
            attempt(lambda path, parser=parser: len(bytearray(bound(parser, 1000) + 1)), parser, path)
    with pytest.raises(ZeroDivisionError):
        attempt(lambda path: 1 / 0, "lists", path)


def objects(shape, items):
    """A map whose array is of objects: shape as opcodes, opcodes of a list."""
    return npy(b"}K\x00" + pickled_array(shape, "O8", items) + b"s")


NEST = pickled_array(b")", "O8", b"]").removesuffix(b"tb")
FOUND = {  # what the parsers once did worse than refuse
    "numpy reads past the end of the list": ("scores", objects(binint(10**8) + b"\x85", b"]Na")),
    "numpy reads one past the end": ("scores", objects(b"K\x02\x85", b"]Na")),
    "arrays in arrays are freed by recursion": ("scores", npy(NEST * 12_000 + b"N" + b"atb" * 12_000)),
    "escape codes in the message": ("scores", npy(named("\x1b[31m", "\x07"))),
    "half a character in the message": ("labels", npy(b"X\3\0\0\0\xed\xa0\x80" + word("x") + b"\x93")),
    "a header of ten thousand digits": ("scores", b"\x93NUMPY\1\0" + packed("H", 9999) + b"9" * 9999),
    "the same in an archive": ("archives", None),
}


@pytest.mark.parametrize("kind", FOUND)
def test_files_that_were_once_a_fault(tmp_path, kind):
    parser, data = FOUND[kind]
    if data is None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("0.npy", half((2, 3), "9" * 9999))
        data = stream.getvalue()
    assert not check(parser, tmp_path, data)


def repeated(body, size=60_000):
    return body * (size // len(body))


SMALL_RECORD, N = record(np.zeros(1, "u1"), "oldest"), 3000
DENSE = {  # files whose contents take the most memory for their size
    "zeros": ("archives", zip_scores({0: np.zeros((1500, 1500), np.float32)})),
    "members": ("archives", zip_scores({k: np.zeros((1, 1), np.float32) for k in range(1000)})),
    "records": ("params", params_file([SMALL_RECORD] * N, [b"%d" % k for k in range(N)])),
    "records, one name": ("params", params_file([SMALL_RECORD] * N, [b""] * N)),
    "a long name": ("params", params_file([SMALL_RECORD], ["\U000e0001 ".encode() * 10_000] * 1)),
    "short lines": (
        "lists",
        "".join(f"{chr(0x100 + a)}{chr(0x100 + b)}\n" for a in range(100) for b in range(100)).encode(),
    ),
    "short plain lines": ("lists", b"".join(b"%x\n" % k for k in range(9999))),
    "blank lines": ("lists", b"a" + b"\n" * 60_000),
    "one wide line": ("lists", "😀".encode() + b"a" * 60_000),
}


@pytest.mark.parametrize("kind", DENSE)
def test_memory_of_the_densest_files(tmp_path, kind):
    parser, data = DENSE[kind]
    check(parser, tmp_path, data)


def test_memory_of_whole_files_is_a_few_times_their_size(tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "scores", (5, 2**16))
    monkeypatch.setitem(LIMITS, "params", (2, 2**16))
    assert check("scores", tmp_path, saved({k: np.ones((375, 500), np.float32) for k in range(3)}))
    assert check("params", tmp_path, params_file([record(np.ones((64, 500)))] * 3, [b"a", b"b", b"c"]))
