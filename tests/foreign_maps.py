"""Class activation maps in the files of other methods."""

import numpy as np
import torch


def stack_form(maps, name, kind=np.float32):
    """{"keys", NAME: K x H x W}."""
    return {"keys": np.array(list(maps)), name: np.stack(list(maps.values())).astype(kind)}


def irn_form(maps):
    return {"keys": np.array(list(maps)), "cam": np.zeros((len(maps), 2, 2)), "high_res": np.stack(list(maps.values()))}


def puzzle_form(maps):
    keys = np.pad(torch.tensor(list(maps)) + 1, (1, 0), mode="constant")  # as its inference_classification.py has it
    return {"keys": keys, "cam": torch.zeros(len(maps), 2, 2)} | {"hr_cam": stack_form(maps, "hr_cam")["hr_cam"]}


def class_form(maps):
    """{"cam": C x H x W} of all classes; those that the image lacks are zero."""
    zero = np.zeros_like(next(iter(maps.values())))
    return {"cam": np.stack([maps.get(k, zero) for k in range(20)])}


FORMS = {  # name -> function of {class: H x W float32}
    "CLIP-ES": lambda maps: stack_form(maps, "attn_highres", np.float16),
    "PuzzleCAM": puzzle_form,
    "AFA": lambda maps: stack_form(maps, "cam"),
    "cam alone": class_form,
    "IRN": irn_form,
    "IRN, tensors": lambda maps: irn_form(maps) | {"keys": torch.tensor(list(maps))},
    "int64 keys": lambda maps: {np.int64(k): v for k, v in maps.items()},
    "half floats": lambda maps: {k: v.astype(np.float16) for k, v in maps.items()},
    "doubles": lambda maps: {k: v.astype(np.float64) for k, v in maps.items()},
}
