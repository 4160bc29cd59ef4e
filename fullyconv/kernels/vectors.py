"""Vector instructions for loops in which LLVM finds none: those over a few lanes, of arrays that might overlap.

The functions are for other compiled functions. Indices are unsigned, in bounds, and not checked.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types

from fullyconv.kernels.compiling import instruction

_code: Any = cgutils  # its functions have no types

LANES = 8
"""Neighbouring pixels that are worked on at once: the cell of a network of stride 8, and an AVX register of float32."""

ROWS = 4
"""Pixel rows that are worked on at once, so that one need not wait for another. 8 are as fast, 1 takes 1.4 times."""

PAIRS = 64
"""Pixels that are compared at once."""

_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLAGS = ("contract", "nsz")


@instruction
def interpolate(context: Any, out: Any, k: Any, shares: Any, start: Any, near: Any, far: Any) -> Any:
    """Fills row k of `out` `(K, LANES)` with what lies between two cells at the shares from `start` on, float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, k, shares, start, near, far = arguments
        out_type, _, shares_type = signature.args[:3]
        share = _load(context, builder, shares_type, shares, [start], LANES)
        rest = builder.fsub(_splat(builder, _FLOAT(1.0), LANES), share)
        value = _weighted(builder, _splat(builder, near, LANES), rest, _splat(builder, far, LANES), share)
        _store(context, builder, out_type, out, [k, _I64(0)], value)
        return context.get_dummy_value()

    return types.void(out, types.uint64, shares, types.uint64, types.float32, types.float32), generate


@instruction
def contest(
    context: Any, upper: Any, lower: Any, shares: Any, y: Any, contenders: Any, count: Any, labels: Any, start: Any
) -> Any:
    """Writes which class is highest at LANES x ROWS pixels; a tie goes to the first.

    Args:
        upper, lower: The two coarse rows at these pixels, one row per contender, `(K, LANES)` float32, finite.
        shares: The share of `lower` in each pixel row.
        y: The first of the rows in `shares` and `labels`.
        contenders: The classes, int32.
        count: How many they are.
        labels: uint8 or uint16.
        start: The first of the columns in `labels`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        upper, lower, shares, y, contenders, count, labels, start = arguments
        upper_type, lower_type, shares_type, _, contenders_type, _, labels_type, _ = signature.args
        rows = [builder.add(y, _I64(row)) for row in range(ROWS)]
        scalars = [_load(context, builder, shares_type, shares, [row]) for row in rows]
        share = [_splat(builder, scalar, LANES) for scalar in scalars]
        rest = [_splat(builder, builder.fsub(_FLOAT(1.0), scalar), LANES) for scalar in scalars]
        best = [_code.alloca_once(builder, ir.VectorType(_FLOAT, LANES)) for _ in rows]
        winner = [_code.alloca_once(builder, ir.VectorType(_I32, LANES)) for _ in rows]
        for row in range(ROWS):
            builder.store(_splat(builder, _FLOAT(float("-inf")), LANES), best[row])
            builder.store(_splat(builder, _I32(0), LANES), winner[row])
        with _code.for_range(builder, count) as loop:
            near = _load(context, builder, upper_type, upper, [loop.index, _I64(0)], LANES)
            far = _load(context, builder, lower_type, lower, [loop.index, _I64(0)], LANES)
            contender = _load(context, builder, contenders_type, contenders, [loop.index])
            for row in range(ROWS):
                score = _weighted(builder, near, rest[row], far, share[row])
                so_far = builder.load(best[row])
                higher = builder.fcmp_ordered(">", score, so_far)
                builder.store(builder.select(higher, score, so_far), best[row])
                chosen = builder.select(higher, _splat(builder, contender, LANES), builder.load(winner[row]))
                builder.store(chosen, winner[row])
        narrow = ir.VectorType(context.get_value_type(labels_type.dtype), LANES)
        for row in range(ROWS):
            value = builder.trunc(builder.load(winner[row]), narrow)
            _store(context, builder, labels_type, labels, [rows[row], start], value)
        return context.get_dummy_value()

    given = (upper, lower, shares, types.uint64, contenders, types.uint64, labels, types.uint64)
    return types.void(*given), generate


@instruction
def edges(context: Any, target: Any, pred: Any, first: Any) -> Any:
    """Bit i says whether pixel `first + i` differs, in either mask, from the one before it; i < PAIRS."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *masks, first = arguments
        before = builder.sub(first, _I64(1))
        unlike = [
            builder.icmp_unsigned(
                "!=",
                _load(context, builder, kind, mask, [first], PAIRS),
                _load(context, builder, kind, mask, [before], PAIRS),
            )
            for kind, mask in zip(signature.args, masks, strict=False)
        ]
        return builder.bitcast(builder.or_(*unlike), ir.IntType(PAIRS))

    return types.uint64(target, pred, types.uint64), generate


@instruction
def lowest_bit(context: Any, bits: Any) -> Any:
    """The position of the lowest bit that is set; there must be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


@instruction
def count_bits(context: Any, bits: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@instruction
def cells_of_pairs(
    context: Any, target: Any, pred: Any, first: Any, classes: Any, ignore_index: Any, cells: Any
) -> Any:
    """Fills `cells` `(PAIRS,)` uint32 with where the pixels from `first` on count: see `counting.cell_of_pair`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, pred, first, classes, ignore_index, cells = arguments
        target_type, pred_type = signature.args[:2]
        for part in range(0, PAIRS, 16):
            at = builder.add(first, _I64(part))
            true = _widened(builder, _load(context, builder, target_type, target, [at], 16))
            given = _widened(builder, _load(context, builder, pred_type, pred, [at], 16))
            beyond = _splat_like(builder, builder.add(classes, _I64(1)), true)
            ignored = builder.icmp_unsigned("==", true, _splat_like(builder, ignore_index, true))
            row = _smaller(builder, true, beyond, _splat_like(builder, classes, true))
            row = builder.select(ignored, _splat_like(builder, classes, true), row)
            last = _splat_like(builder, classes, given)
            column = _smaller(builder, given, last, last)
            side = _splat(builder, builder.trunc(builder.add(classes, _I64(1)), _I32), 16)
            cell = builder.add(builder.mul(_to_i32(builder, row), side), _to_i32(builder, column))
            _store(context, builder, signature.args[5], cells, [_I64(part)], cell)
        return context.get_dummy_value()

    return types.void(target, pred, types.uint64, types.uint64, types.int64, cells), generate


def _weighted(builder: Any, near: Any, rest: Any, far: Any, share: Any) -> Any:
    product = builder.fmul(far, share, flags=_FLAGS)
    return builder.fadd(builder.fmul(near, rest, flags=_FLAGS), product, flags=_FLAGS)


def _smaller(builder: Any, values: Any, otherwise: Any, bound: Any) -> Any:
    """The values below the bound, as unsigned numbers, and `otherwise` in place of the rest."""
    return builder.select(builder.icmp_unsigned("<", values, bound), values, otherwise)


def _widened(builder: Any, values: Any) -> Any:
    """uint8 as 32 bits, int64 as it is."""
    return builder.zext(values, ir.VectorType(_I32, values.type.count)) if values.type.element.width < 32 else values


def _to_i32(builder: Any, values: Any) -> Any:
    return builder.trunc(values, ir.VectorType(_I32, values.type.count)) if values.type.element.width > 32 else values


def _splat_like(builder: Any, scalar: Any, like: Any) -> Any:
    """A 64-bit number in every lane, as wide as the lanes of `like`."""
    width = like.type.element
    return _splat(builder, builder.trunc(scalar, width) if width.width < 64 else scalar, like.type.count)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _load(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int = 1) -> Any:
    """An element of an array, or a vector that begins there."""
    value = context.get_value_type(kind.dtype)
    vector = value if lanes == 1 else ir.VectorType(value, lanes)
    return builder.load(_pointer(context, builder, kind, array, index, vector), align=kind.dtype.bitwidth // 8)


def _store(context: Any, builder: Any, kind: Any, array: Any, index: Any, value: Any) -> None:
    builder.store(value, _pointer(context, builder, kind, array, index, value.type), align=kind.dtype.bitwidth // 8)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, value: Any) -> Any:
    view = context.make_array(kind)(context, builder, array)
    element = _code.get_item_pointer(context, builder, kind, view, index, wraparound=False)
    return builder.bitcast(element, value.as_pointer())
