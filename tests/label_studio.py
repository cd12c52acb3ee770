"""Label Studio's brush as its documentation describes it, bit by bit: slow, and written apart from tool/io/rle.py."""


def decode_brush(code):
    """Bytes -> values: 32 bits of their number, 5 of a value's bits, four times 4 of a length's, then runs."""
    bits, at = "".join(f"{byte:08b}" for byte in code), 0

    def take(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    lengths, values = [take(4) + 1 for _ in range(4)], []
    while len(values) < total:
        alike = take(1)
        count = take(lengths[take(2)]) + 1
        values += [take(word)] * count if alike else [take(word) for _ in range(count)]
    return values
