"""Attention over sequences of unequal lengths: prompt chunks one by one, single tokens of many sequences batched."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_WINDOW = 64


def window(length: int) -> int:
    """Return the padded length at which a sequence of `length` tokens is read: at most a quarter longer.

    It depends only on the sequence's own length, so the rest of the batch cannot change a result's rounding.
    """
    grain = max(SMALLEST_WINDOW, 1 << max(0, length.bit_length() - 3))
    return -(-length // grain) * grain


@dataclass(frozen=True)
class _Chunk:
    """Several tokens of one sequence: their rows in the step, its range in the arena, what each may see."""

    rows: slice
    range: slice
    mask: Tensor


@dataclass(frozen=True)
class _Singles:
    """One token each of sequences of about the same length; `rows` is None when they are the whole step in order."""

    rows: Tensor | None
    places: Tensor
    mask: Tensor


class AttentionPlan:
    """Which rows of a step attend to which places of the arena; made once a step, used by every layer."""

    def __init__(
        self, pieces: list[tuple[int, int, int, int]], group: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`pieces`: first row, rows, start in the arena and length after the step, of each sequence in order.

        `group` is the number of query heads to a key head.
        """
        self._chunks: list[_Chunk] = []
        self._singles: list[_Singles] = []
        windows: dict[int, list[tuple[int, int, int]]] = {}
        for row, count, start, length in pieces:
            if count == 1:
                windows.setdefault(window(length), []).append((row, start, length))
            else:
                seen = torch.ones(count, length, dtype=torch.bool).tril(length - count).repeat(group, 1)
                rows, place = slice(row, row + count), slice(start, start + length)
                self._chunks.append(_Chunk(rows, place, _additive(seen, dtype, device)))
        rows_in_all = sum(count for _, count, _, _ in pieces)
        for width, singles in windows.items():
            rows_of, starts, lengths = torch.tensor(singles).unbind(1)
            column = torch.arange(width)
            seen = column < lengths[:, None]
            # What is masked reads the sequence's first place: the places behind its end are somebody else's.
            places = starts[:, None] + column * seen
            mask = _additive(seen, dtype, device)
            is_all = len(singles) == rows_in_all
            self._singles.append(_Singles(None if is_all else rows_of.to(device), places.flatten().to(device), mask))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return `[rows, heads * head_dim]` for queries `[rows, heads, head_dim]` and one layer of the arena."""
        rows, heads, width = queries.shape
        kv_heads = keys.shape[0]
        if len(self._singles) == 1 and self._singles[0].rows is None:
            return _read_singles(queries, keys, values, self._singles[0]).reshape(rows, heads * width)
        mixed = torch.empty_like(queries, memory_format=torch.contiguous_format)
        for chunk in self._chunks:
            # The query heads of a key head stand below one another, as if they were more tokens.
            query_block = queries[chunk.rows].view(-1, kv_heads, heads // kv_heads, width).permute(1, 2, 0, 3)
            attended = functional.scaled_dot_product_attention(
                query_block.reshape(1, kv_heads, -1, width),
                keys[:, chunk.range].unsqueeze(0),
                values[:, chunk.range].unsqueeze(0),
                attn_mask=chunk.mask,
            )
            count = query_block.shape[2]
            mixed[chunk.rows] = attended.reshape(heads, count, width).transpose(0, 1)
        for singles in self._singles:
            query_block = queries if singles.rows is None else queries.index_select(0, singles.rows)
            attended = _read_singles(query_block, keys, values, singles)
            if singles.rows is None:
                mixed.copy_(attended)
            else:
                mixed.index_copy_(0, singles.rows, attended)
        return mixed.view(rows, heads * width)


def _read_singles(queries: Tensor, keys: Tensor, values: Tensor, singles: _Singles) -> Tensor:
    rows, heads, width = queries.shape
    kv_heads = keys.shape[0]
    query_block = queries.view(rows, kv_heads, heads // kv_heads, width).transpose(0, 1)
    keys = keys.index_select(1, singles.places).view(kv_heads, rows, -1, width)
    values = values.index_select(1, singles.places).view(kv_heads, rows, -1, width)
    if queries.device.type == "cpu":
        attended = _attend_on_cpu(query_block, keys, values, singles.mask)
    else:
        mask = singles.mask[None, :, None, :]
        attended = functional.scaled_dot_product_attention(query_block, keys, values, attn_mask=mask)
    return attended.transpose(0, 1).reshape(rows, heads, width)


def _attend_on_cpu(query_block: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend by two batched products; torch's fused kernel for the CPU makes two calls a head, thrice as slow here."""
    kv_heads, rows, length, width = keys.shape
    batch, group = kv_heads * rows, query_block.shape[2]
    seen = mask[None, :, None, :].expand(kv_heads, rows, group, length).reshape(batch, group, length)
    scores = torch.baddbmm(
        seen,
        query_block.reshape(batch, group, width),
        keys.view(batch, length, width).transpose(1, 2),
        alpha=width**-0.5,
    )
    return torch.bmm(scores.softmax(-1), values.view(batch, length, width)).view(kv_heads, rows, group, width)


def _additive(seen: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf")).to(device)
