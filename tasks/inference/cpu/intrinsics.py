"""Single instructions that numba has no name for: bfloat16, an exponential that vectorises, atomics."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FLOAT = ir.FloatType()
INT16 = ir.IntType(16)
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)

Codegen = Callable[[Any, Any, Any, Any], Any]

# e^r = 1 + r + r^2 * P(r) on |r| <= ln(2)/2; Cephes' coefficients, error below 2 units in the last place.
_EXP_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_LOG2_E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


def declare(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    """The function `name` of LLVM or of the C library, declared once per module."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def array_data(context: Any, builder: ir.IRBuilder, kind: types.Array, value: ir.Value) -> ir.Value:
    """A pointer to the first element of an array."""
    return context.make_array(kind)(context, builder, value).data


@intrinsic
def widen(typingctx: Any, value: Any) -> tuple[Any, Codegen]:
    """A stored number as float32: bfloat16 (kept as uint16) is shifted up, float32 stays."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if signature.args[0] == types.float32:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], INT32), ir.Constant(INT32, 16))
        return builder.bitcast(bits, FLOAT)

    return types.float32(value), codegen


@intrinsic
def narrow(typingctx: Any, value: Any, like: Any) -> tuple[Any, Codegen]:
    """A float32 as an element of the array `like`: rounded to the nearest bfloat16 (ties to even), or kept."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if signature.return_type == types.float32:
            return arguments[0]
        bits = builder.bitcast(arguments[0], INT32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(INT32, 16)), ir.Constant(INT32, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(INT32, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(INT32, 16)), INT16)

    return like.dtype(value, like), codegen


@intrinsic
def exponential(typingctx: Any, value: Any) -> tuple[Any, Codegen]:
    """e^value in float32, the same in a vectorised loop and outside one; values below -87 give about 1e-38."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: float) -> ir.Constant:
            return ir.Constant(FLOAT, float(np.float32(number)))

        unary = [FLOAT]
        fma = declare(builder, "llvm.fma.f32", FLOAT, [FLOAT] * 3)
        smallest = declare(builder, "llvm.minnum.f32", FLOAT, [FLOAT] * 2)
        largest = declare(builder, "llvm.maxnum.f32", FLOAT, [FLOAT] * 2)
        rint = declare(builder, "llvm.rint.f32", FLOAT, unary)
        x = builder.call(largest, [builder.call(smallest, [arguments[0], constant(88.0)]), constant(-87.0)])
        whole = builder.call(rint, [builder.fmul(x, constant(_LOG2_E))])
        rest = builder.call(fma, [whole, constant(-_LN2_HIGH), x])
        rest = builder.call(fma, [whole, constant(-_LN2_LOW), rest])
        series: Any = constant(_EXP_COEFFICIENTS[0])
        for coefficient in _EXP_COEFFICIENTS[1:]:
            series = builder.call(fma, [series, rest, constant(coefficient)])
        series = builder.call(fma, [series, builder.fmul(rest, rest), builder.fadd(rest, constant(1.0))])
        power = builder.add(builder.fptosi(whole, INT32), ir.Constant(INT32, 127))
        return builder.fmul(series, builder.bitcast(builder.shl(power, ir.Constant(INT32, 23)), FLOAT))

    return types.float32(types.float32), codegen


@intrinsic
def fetch_add(typingctx: Any, cells: Any, index: Any, amount: Any) -> tuple[Any, Codegen]:
    """Add to `cells[index]` (int64) atomically; the value before."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(array_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        return builder.atomic_rmw("add", cell, arguments[2], "seq_cst")

    return types.int64(cells, types.int64, types.int64), codegen


@intrinsic
def store_shared(typingctx: Any, cells: Any, index: Any, value: Any) -> tuple[Any, Codegen]:
    """Write `cells[index]` (int64) for the other threads to see, after all that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(array_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        builder.store_atomic(arguments[2], cell, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(cells, types.int64, types.int64), codegen


@intrinsic
def load_shared(typingctx: Any, cells: Any, index: Any) -> tuple[Any, Codegen]:
    """Read `cells[index]` (int64) as another thread last wrote it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(array_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        return builder.load_atomic(cell, "seq_cst", 8)

    return types.int64(cells, types.int64), codegen


@intrinsic
def swap(typingctx: Any, cells: Any, index: Any, expected: Any, value: Any) -> tuple[Any, Codegen]:
    """Write `cells[index]` (int64) if it still holds `expected`; whether it did (atomic compare and swap)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cell = builder.gep(array_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        outcome = builder.cmpxchg(cell, arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.extract_value(outcome, 1)

    return types.boolean(cells, types.int64, types.int64, types.int64), codegen


@intrinsic
def yield_core(typingctx: Any) -> tuple[Any, Codegen]:
    """Offer this core to another thread (`sched_yield`), where the system has that call."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if sys.platform != "win32":
            builder.call(declare(builder, "sched_yield", INT32, []), [])
        return context.get_dummy_value()

    return types.void(), codegen
