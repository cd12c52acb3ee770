"""Files of `torch.save`: written whole or not at all, read without running any code that is in them."""

import io
import re
import warnings
import zipfile

import torch

from tool.io.files import UserError, write_bytes
from tool.io.mxnet_params import check_weight_file


def save_torch(value, path):
    """`torch.save` that leaves either the whole file or the one that was there; OSError (path, errno) on failure.

    By way of memory: torch's own writer turns a failed write (full disk, Ctrl-C) into an error about positions.
    """
    content = io.BytesIO()
    torch.save(value, content)
    write_bytes(path, content.getbuffer())


def read_torch(path):
    """What `torch.save` wrote, on the CPU: tensors and plain containers. UserError of all else; no code is run."""
    size = check_weight_file(path)
    if size == 0:
        raise UserError(f"{path}: is empty; get or make it again")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as members:  # a thousand times the file's size at worst
                unpacked = sum(member.file_size for member in members.infolist())
            if unpacked > size:
                text = f"{path}: would unpack to {unpacked:,} bytes"
                raise UserError(f"{text}; torch writes checkpoints that are not packed, get or make it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about the file ends in a UserError or does not matter
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a broken file raises nearly anything; none of it may escape as a traceback
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            text = f"{path}: refused: it wants to load {wanted[1]}, which can run code"
            raise UserError(f"{text}; save a plain state_dict with torch.save(net.state_dict(), path)") from None
        raise damaged(path, "torch checkpoint", error) from None


def damaged(path, kind, error):
    """The UserError for a file that a library refused; torch's advice to switch the check off is not repeated."""
    reason = f"{type(error).__name__} {' '.join(str(error).split())}"[:120].strip()
    if "weights_only" in str(error):
        reason = "it holds more than tensors and plain values"
    return UserError(f"{path}: not a whole {kind} ({reason}); it is damaged or something else, get or make it again")
