# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,no-untyped-def"
"""Triton kernels over packed weights: one token, several tokens, and whole rows.

A weight is read as 32-bit words, [blocks of 16 rows, steps, 16 rows]: a word holds 8 columns of a row at 4 bits, 4 at
8 bits, so that neighbouring words are neighbouring rows and a warp reads memory in one piece. The places of a word are
unpacked one after another, each as a tile of its own: numbers never have to be rearranged between threads.

Imported only where Triton is installed. With TRITON_INTERPRET=1 the kernels run on a CPU.
"""

import triton
import triton.language as tl

BLOCK_ROWS = tl.constexpr(16)


@triton.jit
def _column(PLACE: tl.constexpr, BITS: tl.constexpr):
    """Which of a word's columns stands at a place, counted from the lowest bits."""
    return PLACE if BITS == 8 else PLACE // 2 + 4 * (PLACE % 2)


@triton.jit
def _number(word, ones, PLACE: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr):
    """The number at a place of a word, less ZERO, as float32; numbers of 8 bits are made unsigned.

    No conversion: the bits become the mantissa of a float whose exponent gives the lowest of them the weight 1. Of the
    mantissa's 23 bits five nibbles, or two bytes, can be used where they are; the others are moved down first.

    ones: a number's bits, all set. As an argument of the kernel it stays in a register, which saves the compiler a
    sixth of the instructions of `gemv_kernel`; in a matrix product a constant is better: the tile stays in registers.
    """
    FIT: tl.constexpr = 5 if BITS == 4 else 2
    MOVED: tl.constexpr = 3 if BITS == 4 else 2
    AT: tl.constexpr = (PLACE - MOVED if PLACE >= FIT else PLACE) * BITS
    EXPONENT: tl.constexpr = 0x4B000000 - (AT << 23)
    if BITS == 8:
        word = word ^ -0x7F7F7F80  # 0x80 in each byte
    if PLACE >= FIT:
        word = word >> (MOVED * BITS)
    bits = (word & (ones << AT)) | EXPONENT
    return bits.to(tl.float32, bitcast=True) - (8388608.0 / (1 << AT) + ZERO)


@triton.jit
def gemv_kernel(
    x, values, scales, zeros, bias, out, rows, columns, steps, share_steps, ones,
    BITS: tl.constexpr, GROUP_STEPS: tl.constexpr, ZERO: tl.constexpr, HAS_BIAS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """One token. One program for each block of rows and share of the columns; sums in float32.

    GROUP_STEPS: words of a row that share a scale, 0: all. ZERO: None where each group has a zero point of its own.
    """
    PER_WORD: tl.constexpr = 32 // BITS
    block, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = share * share_steps
    stop = tl.minimum(first + share_steps, steps)
    lane = tl.arange(0, BLOCK_ROWS)
    total = tl.zeros([STEPS, BLOCK_ROWS], tl.float32)
    for start in tl.range(first, stop, STEPS):
        step = start + tl.arange(0, STEPS)
        inside = step < stop
        word = tl.load(values + (block * steps + step)[:, None] * BLOCK_ROWS + lane, mask=inside[:, None], other=0)
        products = tl.zeros([STEPS, BLOCK_ROWS], tl.float32)
        x_sum = tl.zeros([STEPS], tl.float32)
        for PLACE in tl.static_range(PER_WORD):
            column = step * PER_WORD + _column(PLACE, BITS)
            one = tl.load(x + column, mask=inside & (column < columns), other=0.0).to(tl.float32)
            products += one[:, None] * _number(word, ones, PLACE, BITS, 0 if ZERO is None else ZERO)
            x_sum += one
        if GROUP_STEPS > 0:
            group = (block * (steps // GROUP_STEPS) + step // GROUP_STEPS)[:, None] * BLOCK_ROWS + lane
            if ZERO is None:
                zero = tl.load(zeros + group, mask=inside[:, None], other=0)
                products -= x_sum[:, None] * zero.to(tl.float32)
            products *= tl.load(scales + group, mask=inside[:, None], other=0.0).to(tl.float32)
        total += products
    row = block * BLOCK_ROWS + lane
    result = tl.sum(total, axis=0)
    if GROUP_STEPS == 0:
        result *= tl.load(scales + row)
    if HAS_BIAS:
        result += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)
    tl.store(out + share * rows + row, result.to(out.dtype.element_ty), mask=row < rows)


@triton.jit
def gemm_kernel(
    x, values, scales, zeros, bias, out, tokens, rows, steps, share_steps, padded_steps,
    BITS: tl.constexpr, GROUP_STEPS: tl.constexpr, ZERO: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, STEPS: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    """Several tokens. One program for each tile of rows and tokens, and share of the columns.

    The weight stands on the left of the product: dequantized in registers it goes to the matrix units from there. With
    scales of groups it is rounded to x's dtype; with one scale a row the products are of whole numbers, hence exact.
    x is [tokens, places of a word, padded_steps], zeros behind its columns up to whole tiles of steps. NEIGHBOURS:
    tiles of tokens that share a weight while it is cached.
    """
    PER_WORD: tl.constexpr = 32 // BITS
    ONES: tl.constexpr = (1 << BITS) - 1
    tile, share = tl.program_id(0), tl.program_id(1)
    row_tiles, token_tiles = tl.cdiv(rows, ROWS), tl.cdiv(tokens, TOKENS)
    token_tile, row_tile = tl.swizzle2d(tile // row_tiles, tile % row_tiles, token_tiles, row_tiles, NEIGHBOURS)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    token = token_tile * TOKENS + tl.arange(0, TOKENS)
    lane, block = row % BLOCK_ROWS, row // BLOCK_ROWS
    row_inside, token_inside = (row < rows)[:, None], (token < tokens)[:, None]
    place = token.to(tl.int64)[:, None] * (PER_WORD * padded_steps)
    first = share * share_steps
    total = tl.zeros([ROWS, TOKENS], tl.float32)
    for start in tl.range(first, tl.minimum(first + share_steps, steps), STEPS):
        step = start + tl.arange(0, STEPS)
        inside = row_inside & (step < steps)[None, :]
        word = tl.load(values + (block[:, None] * steps + step) * BLOCK_ROWS + lane[:, None], mask=inside, other=0)
        if GROUP_STEPS > 0:
            group = (block[:, None] * (steps // GROUP_STEPS) + step // GROUP_STEPS) * BLOCK_ROWS + lane[:, None]
            scale = tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
            if ZERO is None:
                zero = tl.load(zeros + group, mask=inside, other=0).to(tl.float32)
        for PLACE in tl.static_range(PER_WORD):
            weight = _number(word, ONES, PLACE, BITS, 0 if ZERO is None else ZERO)
            if ZERO is None:
                weight -= zero
            if GROUP_STEPS > 0:
                weight *= scale
            here = place + _column(PLACE, BITS) * padded_steps + step[None, :]
            some = tl.load(x + here, mask=token_inside, other=0.0)
            total = tl.dot(weight.to(some.dtype), tl.trans(some), total, input_precision="ieee")
    if GROUP_STEPS == 0:
        total *= tl.load(scales + row, mask=row < rows, other=0.0)[:, None]
    if HAS_BIAS:
        total += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    target = (share.to(tl.int64) * tokens + token)[None, :] * rows + row[:, None]
    tl.store(out + target, total.to(out.dtype.element_ty), mask=row_inside & (token < tokens)[None, :])


@triton.jit
def merge_kernel(parts, bias, out, size, rows, shares, HAS_BIAS: tl.constexpr, TILE: tl.constexpr):
    """The shares [shares, size], added in order, and the bias."""
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = place < size
    total = tl.zeros([TILE], tl.float32)
    for _ in range(shares):
        total += tl.load(parts + place, mask=inside, other=0.0)
        parts += size
    if HAS_BIAS:
        total += tl.load(bias + place % rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rows_kernel(
    ids, values, scales, zeros, out, count, rows, columns, steps,
    BITS: tl.constexpr, GROUP_STEPS: tl.constexpr, ZERO: tl.constexpr, HAS_IDS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows of the weight: those of the ids, or the first `count`. NaN for an id that is no row."""
    PER_WORD: tl.constexpr = 32 // BITS
    index = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = index
    if HAS_IDS:
        row = tl.load(ids + index, mask=index < count, other=0)
    known = (row >= 0) & (row < rows)
    row = tl.where(known, row, 0).to(tl.int32)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    step, within = column // PER_WORD, column % PER_WORD
    inside = (index < count)[:, None] & (column < columns)[None, :]
    lane, block = (row % BLOCK_ROWS)[:, None], (row // BLOCK_ROWS)[:, None]
    word = tl.load(values + (block * steps + step[None, :]) * BLOCK_ROWS + lane, mask=inside, other=0)
    if BITS == 4:
        number = (word >> (2 * (within % 4) + within // 4)[None, :] * 4) & 15
    else:
        number = ((word >> within[None, :] * 8) & 255 ^ 128) - 128
    group = block * BLOCK_ROWS + lane
    if GROUP_STEPS > 0:
        group = (block * (steps // GROUP_STEPS) + step[None, :] // GROUP_STEPS) * BLOCK_ROWS + lane
    if BITS == 4:
        number -= ZERO if ZERO is not None else tl.load(zeros + group, mask=inside, other=0).to(tl.int32)
    weight = number.to(tl.float32) * tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
    weight = tl.where(known[:, None], weight, float("nan"))
    target = index.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + target, weight.to(out.dtype.element_ty), mask=inside)
