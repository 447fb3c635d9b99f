"""The inner loop of every matrix product: rows of activations times panels of 32 outputs, written in LLVM's language.

A panel holds the weights of 32 adjacent outputs, input after input, so that one input's 32 weights lie side by
side. Activations lie interleaved in blocks of up to ROWS rows: input after input, the block's rows side by side. The
loop keeps all sums in registers and adds one input after another: an output's sum is the same whatever else the batch
holds. Where the chip multiplies pairs of bfloat16 (four times as many as of float32 on Zen 5), activations are rounded
to bfloat16 and inputs are taken by twos: an output's two weights, and a row's two inputs, lie side by side.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tasks.inference.cpu.intrinsics import FLOAT, INT32, INT64, Codegen, array_data, declare

LANES = 16
PANEL = 2 * LANES
GROUP = 32
"""int8 weights share a scale over so many inputs; a group's 32 scales, bfloat16, lie before its weights."""
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
MULTIPLIES_PAIRS = bool(llvm.get_host_cpu_features().get("avx512bf16"))
"""Whether one instruction adds sixteen sums of two products of bfloat16 each."""


def panels_at_once(rows: int) -> int:
    """Panels per call for so many rows: with few rows, one panel would wait for each addition's latency."""
    for panels in (4, 2):
        if rows * panels <= ROWS:
            return panels
    return 1


class _Loop:
    """The loop for a fixed number of rows and panels; `emit` appends it and leads to `end`."""

    def __init__(self, builder: ir.IRBuilder, element: types.Type, pairs: bool, rows: int, panels: int) -> None:
        self.builder, self.element, self.pairs, self.rows, self.panels = builder, element, pairs, rows, panels

    def emit(self, weights: Any, inputs: Any, stride: Any, depth: Any, out: Any, out_stride: Any, end: Any) -> None:
        b = self.builder
        zeros = [ir.Constant(_VECTOR, [0.0] * LANES)] * (2 * self.rows * self.panels)

        def add_input(k: Any, sums: list[Any]) -> list[Any]:
            places = [self._place(weights, b.add(k, b.mul(depth, _index(panel)))) for panel in range(self.panels)]
            loaded = [half for place in places for half in self._weights(place)]
            return self._add(b.gep(inputs, [b.mul(k, stride)]), loaded, sums)

        def add_pair(pair: Any, sums: list[Any]) -> list[Any]:
            first = b.mul(pair, _index(2))
            rows = [b.add(first, b.mul(depth, _index(panel))) for panel in range(self.panels)]
            places = [self._place(weights, b.add(row, _index(half))) for row in rows for half in range(2)]
            loaded = [self._load(place, _WORDS, 64) for place in places]
            return self._add(b.gep(inputs, [b.mul(pair, stride)]), loaded, sums)

        def add_group(group: Any, sums: list[Any]) -> list[Any]:
            per_panel = b.mul(b.udiv(depth, _index(GROUP)), _index(GROUP + 2))
            first = b.mul(group, _index(GROUP + 2))
            rows = [b.add(first, b.mul(per_panel, _index(panel))) for panel in range(self.panels)]
            scales = [self._bfloat16(self._place(weights, row)) for row in rows]

            def add_scaled(k: Any, inner: list[Any]) -> list[Any]:
                places = [self._place(weights, b.add(row, b.add(k, _index(2)))) for row in rows]
                pairs = [
                    zip(self._weights(place), pair, strict=True) for place, pair in zip(places, scales, strict=True)
                ]
                loaded = [b.fmul(weight, scale) for pair in pairs for weight, scale in pair]
                position = b.add(b.mul(group, _index(GROUP)), k)
                return self._add(b.gep(inputs, [b.mul(position, stride)]), loaded, inner)

            return self._repeat(_index(GROUP), sums, add_scaled)

        if self.element == types.int8:
            sums = self._repeat(b.udiv(depth, _index(GROUP)), zeros, add_group)
        elif self.pairs:
            sums = self._repeat(b.udiv(depth, _index(2)), zeros, add_pair)
        else:
            sums = self._repeat(depth, zeros, add_input)
        for number, total in enumerate(sums):
            row, half = divmod(number, 2 * self.panels)
            place = b.gep(out, [b.add(b.mul(out_stride, _index(row)), _index(half * LANES))])
            b.store(total, b.bitcast(place, _VECTOR.as_pointer())).align = 4
        b.branch(end)

    def _repeat(self, times: Any, sums: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """A loop of at least one turn that keeps `sums` in registers; `body` takes its number and the sums so far."""
        b, before = self.builder, self.builder.block
        turn, after = b.append_basic_block("turn"), b.append_basic_block("after")
        b.branch(turn)
        b.position_at_end(turn)
        number = b.phi(INT64)
        running = [b.phi(_VECTOR) for _ in sums]
        added = body(number, running)
        following = b.add(number, _index(1))
        for phi, first, later in zip([number, *running], [_index(0), *sums], [following, *added], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, b.block)
        b.cbranch(b.icmp_signed("<", following, times), turn, after)
        b.position_at_end(after)
        return added

    def _add(self, inputs: Any, loaded: list[Any], sums: list[Any]) -> list[Any]:
        """The sums with one input of every row, or a pair of inputs, times its weights."""
        b = self.builder
        spread = [self._spread(b.load(b.gep(inputs, [_index(row)]))) for row in range(self.rows)]
        factors = [(weight, spread[at // len(loaded)]) for at, weight in enumerate(loaded * self.rows)]
        if self.pairs:
            dot = declare(b, "llvm.x86.avx512bf16.dpbf16ps.512", _VECTOR, [_VECTOR, _WORDS, _WORDS])
            return [b.call(dot, [total, *both]) for both, total in zip(factors, sums, strict=True)]
        fma = declare(b, f"llvm.fma.v{LANES}f32", _VECTOR, [_VECTOR] * 3)
        return [b.call(fma, [*both, total]) for both, total in zip(factors, sums, strict=True)]

    def _place(self, weights: Any, row: Any) -> Any:
        """Where a row of 32 elements of a panel begins; the row some way ahead is asked for."""
        b = self.builder
        place = b.gep(weights, [b.mul(row, _index(PANEL))])
        prefetch = declare(b, "llvm.prefetch.p0", ir.VoidType(), [_BYTE_POINTER, INT32, INT32, INT32])
        ahead = b.gep(b.bitcast(place, _BYTE_POINTER), [_index(PREFETCH_BYTES)])
        b.call(prefetch, [ahead, ir.Constant(INT32, 0), ir.Constant(INT32, 3), ir.Constant(INT32, 1)])
        return place

    def _weights(self, place: Any) -> tuple[Any, Any]:
        """One input's 32 weights as two vectors of float32."""
        b = self.builder
        if self.element == types.uint16:
            return self._bfloat16(place)
        second = b.gep(place, [_index(LANES)])
        if self.element == types.float32:
            return self._load(place, _VECTOR, 64), self._load(second, _VECTOR, 64)
        low, high = (b.sext(self._load(half, _BYTES, LANES), _WORDS) for half in (place, second))
        return b.sitofp(low, _VECTOR), b.sitofp(high, _VECTOR)

    def _bfloat16(self, place: Any) -> tuple[Any, Any]:
        """32 numbers of bfloat16: the low halves of 16 words are outputs 0 to 15, the high ones 16 to 31."""
        b = self.builder
        words = self._load(place, _WORDS, 64)
        low = b.shl(words, ir.Constant(_WORDS, [16] * LANES))
        high = b.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * LANES))
        return b.bitcast(low, _VECTOR), b.bitcast(high, _VECTOR)

    def _load(self, place: Any, kind: ir.VectorType, alignment: int) -> Any:
        loaded = self.builder.load(self.builder.bitcast(place, kind.as_pointer()))
        loaded.align = alignment
        return loaded

    def _spread(self, scalar: Any) -> Any:
        """The number, or the pair of numbers, in all lanes."""
        empty = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        single = self.builder.insert_element(empty, scalar, ir.Constant(INT32, 0))
        return self.builder.shuffle_vector(single, empty, ir.Constant(_WORDS, [0] * LANES))


def _index(number: int) -> ir.Constant:
    return ir.Constant(INT64, number)


def _loops(builder: ir.IRBuilder, element: types.Type, kind: ir.Type, pairs: bool) -> ir.Function:
    """The function with all loops for one kind of product: one copy in the module, however often it is called."""
    inputs_kind = INT32 if pairs else FLOAT
    arguments = [kind.as_pointer(), inputs_kind.as_pointer(), INT64, INT64, FLOAT.as_pointer(), INT64, INT64, INT64]
    name = f"multiply_panels_of_{'pairs' if pairs else element}"
    function = declare(builder, name, ir.VoidType(), arguments)
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
            loop = _Loop(inside, element, pairs, row_count, panel_count)
            loop.emit(weights, inputs, stride, depth, out, out_stride, end)
    inside.position_at_end(end)
    inside.ret_void()
    return function


@intrinsic
def multiply_panels(
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
    begin; `inputs[first_input + k * stride + row]` is input k of a row, k below `depth`. Inputs of bfloat16 (uint16)
    lie in pairs, as the weights must then: `k * stride + row` words from `first_input` are inputs 2k and 2k + 1 of a
    row. rows * panels must be at most ROWS, panels 1, 2 or 4; rows 0 does nothing.
    """
    number = types.int64
    signature = types.void(like, number, inputs, number, number, number, out, number, number, number, number)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_data_type(signature.args[0].dtype)
        weights = builder.inttoptr(arguments[1], kind.as_pointer())
        pairs = signature.args[2].dtype == types.uint16
        source = builder.gep(array_data(context, builder, signature.args[2], arguments[2]), [arguments[3]])
        if pairs:
            source = builder.bitcast(source, INT32.as_pointer())
        target = builder.gep(array_data(context, builder, signature.args[6], arguments[6]), [arguments[7]])
        function = _loops(builder, signature.args[0].dtype, kind, pairs)
        builder.call(function, [weights, source, *arguments[4:6], target, *arguments[8:]])
        return context.get_dummy_value()

    return signature, codegen
