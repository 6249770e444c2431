"""Weights of 8 bits made small enough for AVX2, and what was taken off them, the excess.

`vpmaddubsw` adds two products in 16 bits and saturates, and the kernel adds two of its sums there:
the products of two neighboring input channels and of those four channels on, with codes of at most
255. 16 bits hold them where neither the positive weights of the four nor the magnitudes of the
negative ones add up to more than 128. Letters as in `packed`, and E: entries of the list.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST_SUM = 128
"""Of the magnitudes of weights of one sign: 255 times it is below 2**15."""
PAIRS = 4
"""Pairs of weights of an entry."""


def kept(codes_NK: Tensor) -> Tensor:
    """int8 [N, K]: the codes, the largest of four made smaller where 16 bits do not hold them."""
    num_out, num_in = codes_NK.shape
    eight = pad(codes_NK, (0, -num_in % 8)).to(torch.int16).reshape(num_out, -1, 2, 2, 2)
    four = eight.transpose(2, 3).flatten(3)
    small = _at_most(four.clamp(min=0)) - _at_most((-four).clamp(min=0))
    small_NK = small.reshape(eight.shape).transpose(2, 3).flatten(1)
    return small_NK[:, :num_in].to(torch.int8)


def fewest_entries(excess_NK: Tensor) -> int:
    """That the list of `entries` has at least, found in much less time than the list."""
    pair_NP2 = pad(excess_NK, (0, excess_NK.shape[1] % 2)).reshape(len(excess_NK), -1, 2)
    return int(pair_NP2.any(dim=2).sum()) // PAIRS


def entries(excess_NK: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The excess as an array of native/osc.h's Excess, int32 [E, 9], by blocks of `columns` output
    channels, and where that of each block begins, int32 [N / columns + 1], N rounded up."""
    pair_NP2, place_NP = _pairs(excess_NK)
    number_NP, slot_NP = _fill(pair_NP2)
    count_N = number_NP[:, -1] + 1
    channel_E = torch.arange(len(count_N)).repeat_interleave(count_N)
    entry_E9 = torch.zeros(len(channel_E), 1 + 2 * PAIRS, dtype=torch.int32)
    entry_E9[:, 0] = channel_E % columns
    has_any_NP = pair_NP2.any(dim=2)
    row_NP = number_NP + (count_N.cumsum(dim=0) - count_N)[:, None]
    at = row_NP[has_any_NP], slot_NP[has_any_NP]
    two_E2 = pair_NP2[has_any_NP].to(torch.int8)
    entry_E9[:, 1 : 1 + PAIRS][at] = place_NP[has_any_NP].to(torch.int32)
    entry_E9[:, 1 + PAIRS :][at] = two_E2.repeat(1, 2).view(torch.int32)[:, 0]
    block_E = channel_E // columns
    # Of a block by input channel, so that the codes that one needs are those of the last in the L1.
    order_E = (block_E * excess_NK.shape[1] + entry_E9[:, 1]).argsort()
    begin = block_E.bincount(minlength=-(-len(count_N) // columns)).cumsum(dim=0)
    return entry_E9[order_E], pad(begin, (1, 0)).to(torch.int32)


def _at_most(size: Tensor) -> Tensor:
    """Magnitudes [..., 4], the largest made smaller until they add up to at most 128."""
    rising, place = size.sort(dim=-1)
    left = (LARGEST_SUM - rising.cumsum(dim=-1) + rising).clamp(min=0)
    return torch.zeros_like(size).scatter_(-1, place, rising.minimum(left.to(size.dtype)))


def _pairs(excess_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbors of which one at least is not zero, int32 [N, P, 2], and their places; zeros after
    the last. Two that are too large together are two pairs."""
    num_out, num_in = excess_NK.shape
    pair_NP2 = pad(excess_NK, (0, num_in % 2)).to(torch.int32).reshape(num_out, -1, 2)
    is_large_NP1 = pair_NP2.abs().sum(dim=2, keepdim=True) > LARGEST_SUM
    apart_NP2 = pair_NP2 * is_large_NP1 * torch.tensor([0, 1])
    pair_NP2 = torch.cat((pair_NP2 - apart_NP2, apart_NP2), dim=1)
    has_any_NP = pair_NP2.any(dim=2)
    most = max(1, int(has_any_NP.sum(dim=1).max()))
    order_NP = has_any_NP.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    pair_NP2 = pair_NP2.gather(1, order_NP[..., None].expand(-1, -1, 2))
    return pair_NP2, order_NP % (has_any_NP.shape[1] // 2)


def _fill(pair_NP2: Tensor) -> tuple[Tensor, Tensor]:
    """For each pair the entry of its output channel that it goes into, and its place there, [N, P]:
    the last one, or a new one where the last is full."""
    size_NP2 = torch.stack((pair_NP2.clamp(min=0), (-pair_NP2).clamp(min=0)), dim=3).sum(dim=2)
    number_N = torch.full((len(pair_NP2),), -1)
    count_N, sum_N2 = torch.full_like(number_N, PAIRS), torch.zeros_like(size_NP2[:, 0])
    found = []
    for size_N2 in size_NP2.unbind(dim=1):
        has_any_N = size_N2.any(dim=1)
        is_full_N = (count_N == PAIRS) | (sum_N2 + size_N2 > LARGEST_SUM).any(dim=1)
        is_new_N = has_any_N & is_full_N
        number_N = number_N + is_new_N
        count_N = torch.where(is_new_N, 0, count_N) + has_any_N
        sum_N2 = torch.where(is_new_N[:, None], 0, sum_N2) + size_N2
        found.append(torch.stack((number_N, count_N - 1)))
    number_NP, slot_NP = torch.stack(found, dim=2)
    return number_NP, slot_NP
