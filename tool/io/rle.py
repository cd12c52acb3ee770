"""Run-length codes of masks: COCO's, which Segment Anything writes as well, and that of Label Studio's brush.

COCO counts 0s and 1s in turn down the columns, beginning with 0s; compressed, the counts are a text of 6 bits a letter.
Label Studio codes RGBA bytes along the rows, of which alpha is the mask: a header of 32 bits for the number of bytes, 5
for the bits of a value, four times 4 for the bits that a length may have; then a bit, which says whether one value is
repeated or values follow one by one, 2 bits for which of the four it is, the length, and value or values. Of lengths
and numbers of bits one less is stored.
"""

import numpy as np

LENGTH_BITS = (3, 4, 8, 16)
WORD_BITS, CHANNELS = 8, 4


def read_coco(code, size):
    """COCO's code of a mask of `size` (h, w) -> H x W bool; ValueError where it is none, or of another size.

    code: {"size": [h, w], "counts": list or text}.
    """
    if not isinstance(code, dict) or code.get("size") != list(size):
        raise ValueError(f"no run-length code of {size[1]} x {size[0]} pixels")
    counts = code.get("counts")
    counts = _uncompress(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError("a broken run-length code")
    if sum(counts) != size[0] * size[1]:
        raise ValueError("a run-length code that is cut off, or of another size")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


def _uncompress(text):
    """Counts of COCO's text: 5 bits a letter and one for "goes on"; from the fourth on, what is added to the last but
    one before."""
    counts, value, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("a broken run-length code")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) * (bits >> 4 & 1)  # the last bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def write_brush(mask):
    """H x W bool -> Label Studio's code, a list of bytes."""
    flat = np.asarray(mask, bool).ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    bits = [f"{CHANNELS * flat.size:032b}{WORD_BITS - 1:05b}", *(f"{n - 1:04b}" for n in LENGTH_BITS)]
    for length, value in zip(CHANNELS * np.diff(ends, prepend=0), flat[ends - 1]):
        while length:
            part = min(int(length), 1 << LENGTH_BITS[-1])
            which = next(k for k, n in enumerate(LENGTH_BITS) if part <= 1 << n)
            bits.append(f"1{which:02b}{part - 1:0{LENGTH_BITS[which]}b}{255 * value:08b}")
            length -= part
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def read_brush(code, size):
    """Label Studio's bytes of a mask of `size` (h, w) -> H x W bool, alpha of at least 128; ValueError of any other."""
    try:
        data = bytes(code)
        text = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
        total, word = int(text[:32], 2), int(text[32:37], 2) + 1
        if total != CHANNELS * size[0] * size[1] or word != WORD_BITS:
            raise ValueError(f"no brush of {size[1]} x {size[0]} pixels")
        lengths = [int(text[k : k + 4], 2) + 1 for k in range(37, 53, 4)]
        values, done, at = np.empty(total, np.uint8), 0, 53
        while done < total:
            begin = at + 3 + lengths[int(text[at + 1 : at + 3], 2)]
            count = int(text[at + 3 : begin], 2) + 1
            at = begin + (word if text[at] == "1" else word * count)
            said = int(text[begin:at], 2).to_bytes((at - begin) // 8, "big")
            values[done : done + count] = np.frombuffer(said, np.uint8)
            done += count
    except (TypeError, IndexError, ValueError) as error:
        raise ValueError(str(error) if "no brush" in str(error) else "a broken brush") from None
    if at > len(text) or done != total:
        raise ValueError("a broken brush")
    return values.reshape(*size, CHANNELS)[..., -1] > 127
