"""Score files: {class index: H x W floats} as `np.save` of a dict or compressed, read without trusting them."""

import io
import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from tool.io.files import UserError, write_bytes
from tool.io.pickles import MAX_HEADER, pickle_dict, unpickle_dict

ORIGIN_MARK = b"AEFT-origin\0"  # as a PNG text chunk has it: keyword, zero byte, text
ZIP_MAGIC = (b"PK\3\4", b"PK\5\6")  # the second: of an archive without members
FULL_SIZE = ("high_res", "attn_highres", "hr_cam")  # names of maps of the image's size in files of IRN and others
COMPRESSED_LIMIT = 2**28  # bytes of all maps of a file before compression: 134 million values
HEADER_ROOM = 128  # bytes of an .npy header
FORM = "one holds {class index: height x width floats}, or keys and high_res as IRN's do"


def write_scores(path, scores, compressed=False, origin=""):
    """Write {class index: H x W scores in [0, 1]}, {} of an image without any class; `read_scores` reads either form.

    Plain: `np.save` of that dict with float32 maps, the format that other tools of the field read. Compressed: see
    `zip_scores`; where the maps are too large for it (COMPRESSED_LIMIT), they are written plainly. origin: 16 hex
    digits that `file_origin` gives back (engine/record.py); they stand at the end, where np.load does not look.
    """
    mark = ORIGIN_MARK + origin.encode() if origin else b""
    scores = {int(k): np.ascontiguousarray(v, dtype=np.float32) for k, v in scores.items()}
    if compressed and sum(v.nbytes // 2 + HEADER_ROOM for v in scores.values()) <= COMPRESSED_LIMIT:
        write_bytes(path, zip_scores(scores, mark))
        return
    write_bytes(path, pickle_dict(scores) + mark)


def file_origin(path):
    """The `origin` that a score file or a PNG of ours was written with; None for files of other tools."""
    with open(path, "rb") as stream:
        if stream.read(8) == b"\x89PNG\r\n\x1a\n":
            tail = stream.read(4096)  # PIL puts a text chunk before the pixels
        else:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 64))
            tail = stream.read()
    found = re.search(re.escape(ORIGIN_MARK) + rb"([0-9a-f]{16})", tail)
    return found and found.group(1).decode()


def read_scores(path, empty=True):
    """Read a score file, plain or compressed, without trusting it: {int: H x W float array}, all of one size, finite.

    {} of an image that shows none of the classes; refused where not `empty`, as CRF scores have a background.

    The plain format is a pickle, which can run code; only plain dicts, ints, numpy arrays and torch tensors are built,
    anything else is refused. Other methods' stacks of maps are read as well, see `split_stack`. Half floats, as
    compressed maps are, come out as float32. UserError names the file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such score file; check the folder and the list, or run its stage") from None
    try:
        value = unzip_scores(data) if data.startswith(ZIP_MAGIC) else unpickle_dict(data)
        scores = check_maps(split_stack(value) if "keys" in value or "cam" in value else value)
        if not scores and not empty:
            raise ValueError("no maps")
    except Exception as error:  # a broken pickle or zip raises nearly anything; none of it may escape as a traceback
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a score file of ours ({reason}); {FORM}") from None
    return scores


def split_stack(value):
    """Another method's form of a score file -> {key: H x W}. ValueError where it is none.

    It is assumed to be a dict of "keys", K class indices from 0 without background, and of stacks of K x H x W floats:
    IRN's and ReCAM's "high_res", CLIP-ES' "attn_highres", PuzzleCAM's "hr_cam". These names are taken before others,
    such as "cam", which mostly is a quarter of the size; among others, the largest maps are, and so AFA's "cam" alone.
    Where there is one key more than maps, and 0 is the first, the keys are padded: 0 for the background, then class
    index + 1. IRN pads after reading, PuzzleCAM before writing. Where there are no keys at all, a map's place is its
    class, and those that are zero everywhere are classes that the image lacks. A leading dimension of 1 is dropped.
    """
    arrays = {name: v for name, v in value.items() if name != "keys" and isinstance(v, np.ndarray)}
    arrays = {name: v[0] if v.ndim == 4 and len(v) == 1 else v for name, v in arrays.items()}
    stacks = {name: v for name, v in arrays.items() if v.ndim == 3}
    if not stacks or not set(FULL_SIZE).intersection(arrays) <= stacks.keys():
        raise ValueError("it has no cam, no hr_cam, no attn_highres and no high_res of K x height x width")
    maps = stacks[max(stacks, key=lambda name: (name in FULL_SIZE, math.prod(stacks[name].shape[1:])))]
    if "keys" not in value:
        return {k: score for k, score in enumerate(maps) if score.any()}
    keys = value["keys"]
    keys = np.asarray(keys) if isinstance(keys, np.ndarray) or all(type(k) is int for k in keys) else None
    if keys is None or keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise ValueError("its keys are not class indices")
    if len(keys) == len(maps) + 1 and keys[0] == 0:
        keys = keys[1:] - 1
    if len(keys) != len(maps) or len(set(keys.tolist())) < len(keys):
        raise ValueError(f"{len(keys)} keys, not all different, or not as many as its {len(maps)} maps")
    return dict(zip(keys.tolist(), maps))


def check_maps(value):
    """The dict of a score file with int keys; ValueError where it is not {class index: finite H x W floats}.

    Half floats become float32: nothing is lost, and arithmetic goes on in it.
    """
    for key, score in value.items():
        if not isinstance(key, int | np.integer) or not 0 <= key <= 255:
            raise ValueError(f"key {key!r} is not a class index")
        if not isinstance(score, np.ndarray) or score.ndim != 2 or score.dtype.kind != "f" or not score.size:
            raise ValueError(f"class {key} is not a map of floats")
        if not np.isfinite(score).all():
            raise ValueError(f"class {key} has values that are not finite")
    if len({score.shape for score in value.values()}) > 1:
        raise ValueError("maps of different sizes")
    return {int(k): v.astype(np.float32) if v.dtype.itemsize == 2 else v for k, v in value.items()}


def zip_scores(scores, comment=b""):
    """{class index: H x W float32 in [0, 1]} -> bytes of a compressed score file, a tenth of the plain one or less.

    It is a .npz archive under the same name as a plain file: a member `{class index}.npy` of float16 for each map,
    deflated. Values are rounded to multiples of 1/4096, which float16 holds exactly up to 0.5, of 1/2048 above. Other
    tools read it with `{int(k): v.astype(np.float32) for k, v in np.load(path).items()}`. Same maps, same bytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, score in scores.items():
            member = io.BytesIO()
            np.save(member, (np.rint(score * 4096) / 4096).astype("<f2"))
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
        archive.comment = comment
    return buffer.getvalue()


def unzip_scores(data):
    """bytes of a compressed score file -> {class index: H x W float32}; `check_maps` does the rest.

    No more is unpacked than the archive says it holds, and that is at most COMPRESSED_LIMIT bytes. ValueError and what
    `zipfile` raises where it is anything else.
    """
    scores = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > COMPRESSED_LIMIT:
            raise ValueError(f"unpacked it would take more than {COMPRESSED_LIMIT >> 20} MiB")
        for member in members:
            key = member.filename.removesuffix(".npy")
            if not re.fullmatch(r"[0-9]{1,3}", key) or int(key) in scores:
                raise ValueError(f"unexpected member {member.filename!r}")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("compressed in another way than ours")
            with archive.open(member) as stream:
                scores[int(key)] = half_map(stream.read(member.file_size))
    if not scores and data.startswith(ZIP_MAGIC[0]):
        raise ValueError("an archive that lost its members")
    return scores


def half_map(data):
    """bytes of an .npy file of H x W float16 -> H x W float32; ValueError where they are anything else."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another npy version than ours")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_HEADER)
    if len(shape) != 2 or fortran or min(shape) < 1 or dtype != np.dtype("<f2"):
        raise ValueError("not a map of half precision")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("not an array as long as it says")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).astype(np.float32)
