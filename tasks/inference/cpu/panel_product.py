"""The inner loop of every matrix product: some rows of activations times a panel of 32 outputs, written in LLVM's language.

A panel holds the weights of 32 neighbouring outputs, input after input, so that one input's 32 weights lie side by side.
Activations lie interleaved in blocks of up to ROWS rows: input after input, the block's rows side by side. The loop keeps
all sums in registers and adds one input after another: an output's sum is the same whatever else the batch holds.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tasks.inference.cpu.intrinsics import FLOAT, INT32, INT64, Codegen, array_data, declare

LANES = 16
PANEL = 2 * LANES
PREFETCH_BYTES = 1024
"""How far ahead weights are asked for: memory answers after about this much work."""

_VECTOR = ir.VectorType(FLOAT, LANES)
_WORDS = ir.VectorType(INT32, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_BYTE_POINTER = ir.IntType(8).as_pointer()


def _rows_in_registers() -> int:
    """8 rows (16 sums of 16 numbers) where vectors have 512 bits; 3 where a sum takes two or four registers."""
    features = llvm.get_host_cpu_features()
    return 8 if features.get("avx512f") else 3


ROWS = _rows_in_registers()


def panels_at_once(rows: int) -> int:
    """How many panels one call takes for so many rows: few rows alone would wait for each sum's last addition."""
    for panels in (4, 2):
        if rows * panels <= ROWS:
            return panels
    return 1


class _Loop:
    """The loop for a fixed number of rows and panels; `emit` appends it and leads to `end`."""

    def __init__(self, builder: ir.IRBuilder, element: types.Type, rows: int, panels: int) -> None:
        self.builder, self.element, self.rows, self.panels = builder, element, rows, panels

    def emit(self, weights: Any, inputs: Any, stride: Any, depth: Any, out: Any, out_stride: Any, end: Any) -> None:  # noqa: PLR0913
        b, start = self.builder, self.builder.block
        body, done = b.append_basic_block("body"), b.append_basic_block("done")
        b.branch(body)
        b.position_at_end(body)
        k = b.phi(INT64)
        sums = [b.phi(_VECTOR) for _ in range(2 * self.rows * self.panels)]
        fma = declare(b, f"llvm.fma.v{LANES}f32", _VECTOR, [_VECTOR] * 3)
        loaded = [half for panel in range(self.panels) for half in self._weights(weights, k, depth, panel)]
        added = []
        for row in range(self.rows):
            position = b.add(b.mul(k, stride), _index(row))
            spread = self._spread(b.load(b.gep(inputs, [position])))
            for half, weight in enumerate(loaded):
                added.append(b.call(fma, [weight, spread, sums[row * len(loaded) + half]]))
        following = b.add(k, _index(1))
        for phi, first, later in zip(
            [k, *sums], [_index(0), *[ir.Constant(_VECTOR, [0.0] * LANES)] * len(sums)], [following, *added], strict=True
        ):
            phi.add_incoming(first, start)
            phi.add_incoming(later, body)
        b.cbranch(b.icmp_signed("<", following, depth), body, done)
        b.position_at_end(done)
        for number, total in enumerate(added):
            row, half = divmod(number, len(loaded))
            place = b.gep(out, [b.add(b.mul(out_stride, _index(row)), _index(half * LANES))])
            b.store(total, b.bitcast(place, _VECTOR.as_pointer())).align = 4
        b.branch(end)

    def _weights(self, weights: Any, k: Any, depth: Any, panel: int) -> tuple[Any, Any]:
        """One input's 32 weights of a panel as two vectors of float32."""
        b = self.builder
        first = b.gep(weights, [b.mul(b.add(k, b.mul(depth, _index(panel))), _index(PANEL))])
        self._prefetch(first)
        if self.element == types.uint16:  # the low halves are outputs 0 to 15, the high ones 16 to 31
            words = self._load(first, _WORDS, 64)
            low = b.shl(words, ir.Constant(_WORDS, [16] * LANES))
            high = b.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * LANES))
            return b.bitcast(low, _VECTOR), b.bitcast(high, _VECTOR)
        second = b.gep(first, [_index(LANES)])
        if self.element == types.float32:
            return self._load(first, _VECTOR, 64), self._load(second, _VECTOR, 64)
        low, high = (b.sext(self._load(place, _BYTES, LANES), _WORDS) for place in (first, second))
        return b.sitofp(low, _VECTOR), b.sitofp(high, _VECTOR)

    def _prefetch(self, place: Any) -> None:
        b = self.builder
        prefetch = declare(b, "llvm.prefetch.p0", ir.VoidType(), [_BYTE_POINTER, INT32, INT32, INT32])
        ahead = b.gep(b.bitcast(place, _BYTE_POINTER), [_index(PREFETCH_BYTES)])
        b.call(prefetch, [ahead, ir.Constant(INT32, 0), ir.Constant(INT32, 3), ir.Constant(INT32, 1)])

    def _load(self, place: Any, kind: ir.VectorType, alignment: int) -> Any:
        loaded = self.builder.load(self.builder.bitcast(place, kind.as_pointer()))
        loaded.align = alignment
        return loaded

    def _spread(self, scalar: Any) -> Any:
        """The number in all lanes."""
        empty = ir.Constant(_VECTOR, ir.Undefined)
        single = self.builder.insert_element(empty, scalar, ir.Constant(INT32, 0))
        return self.builder.shuffle_vector(single, empty, ir.Constant(_WORDS, [0] * LANES))


def _index(number: int) -> ir.Constant:
    return ir.Constant(INT64, number)


def _loops(builder: ir.IRBuilder, element: types.Type, kind: ir.Type) -> ir.Function:
    """The function with all loops for one element type: one copy in the module, however often it is called."""
    floats = FLOAT.as_pointer()
    arguments = [kind.as_pointer(), floats, INT64, INT64, floats, INT64, INT64, INT64]
    function = declare(builder, f"multiply_panels_of_{element}", ir.VoidType(), arguments)
    if not function.is_declaration:
        return function
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, inputs, stride, depth, out, out_stride, rows, panels = function.args
    inside = ir.IRBuilder(function.append_basic_block("entry"))
    end = function.append_basic_block("end")
    choice = inside.switch(inside.add(inside.mul(rows, _index(8)), panels), end)
    for panel_count in (1, 2, 4):
        for row_count in range(1, ROWS // panel_count + 1):
            block = function.append_basic_block(f"rows{row_count}_panels{panel_count}")
            choice.add_case(_index(8 * row_count + panel_count), block)
            inside.position_at_end(block)
            _Loop(inside, element, row_count, panel_count).emit(weights, inputs, stride, depth, out, out_stride, end)
    inside.position_at_end(end)
    inside.ret_void()
    return function


@intrinsic
def multiply_panels(  # noqa: PLR0913
    typingctx: Any,
    like: Any,
    address: Any,
    inputs: Any,
    first_input: Any,
    stride: Any,
    depth: Any,
    out: Any,
    first_out: Any,
    out_stride: Any,
    rows: Any,
    panels: Any,
) -> tuple[Any, Codegen]:
    """Write rows x panels x 32 products to `out`, from `out[first_out]` on, a row every `out_stride`.

    `like`: an array with the weights' element type (uint16 for bfloat16, float32 or int8), `address`: where the panels
    begin; `inputs[first_input + k * stride + row]` is input k of a row, k below `depth`. rows * panels must be at most
    ROWS, panels 1, 2 or 4; rows 0 does nothing.
    """
    number = types.int64
    signature = types.void(like, number, inputs, number, number, number, out, number, number, number, number)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_data_type(signature.args[0].dtype)
        weights = builder.inttoptr(arguments[1], kind.as_pointer())
        source = builder.gep(array_data(context, builder, signature.args[2], arguments[2]), [arguments[3]])
        target = builder.gep(array_data(context, builder, signature.args[6], arguments[6]), [arguments[7]])
        function = _loops(builder, signature.args[0].dtype, kind)
        builder.call(function, [weights, source, *arguments[4:6], target, *arguments[8:]])
        return context.get_dummy_value()

    return signature, codegen
