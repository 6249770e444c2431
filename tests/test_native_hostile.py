"""Native code on sizes and numbers that nobody means: none, one, more than there are, NaN, 2^31."""

import pytest
import torch

from astroray_kernels import library, nearest_vectors, vfa_attention
from tests.attention_inputs import exact, make_inputs, relative_error
from tests.test_native_avx2 import limited_to

WHY_NOT = library.why_not(torch.device("cpu"))
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"native code: {WHY_NOT}")


@pytest.fixture(params=["avx2", "avx512"], autouse=True)
def instructions(request):
    """Native code on either path."""
    with limited_to(request.param):
        if library.instructions() != request.param:
            pytest.skip(f"this CPU has no {request.param}")
        yield


@pytest.mark.parametrize("k", [1, 5, 1000])
@pytest.mark.parametrize("num_vectors", [0, 1, 2, 61, 64, 65, 127])
@pytest.mark.parametrize("num_queries", [0, 1, 97])
def test_any_number_of_queries_vectors_and_neighbors(num_queries, num_vectors, k):
    generator = torch.Generator().manual_seed(num_vectors)
    query_GD = torch.randn(num_queries, 13, generator=generator)
    vector_VD = torch.randn(num_vectors, 13, generator=generator)
    got = nearest_vectors(query_GD, vector_VD, k, backend="native")
    expected = nearest_vectors(query_GD, vector_VD, k, backend="reference")
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_vectors_that_are_not_finite_are_refused_by_row(bad):
    vector_VD = torch.zeros(67, 3)
    vector_VD[61, 2] = bad
    with pytest.raises(ValueError, match=r"in row 61 \(1 such rows of 67\)"):
        nearest_vectors(vector_VD[:5], vector_VD, 2, backend="native")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_query_spoils_its_own_row_and_a_masked_key_none(bad, precision):
    q, k, v = make_inputs("random", batch=1, heads=1, length=101, dim=32)
    mask = torch.ones(1, 101, dtype=torch.bool)
    mask[0, 77] = False
    expected = exact(q, k, v, mask=mask)
    q[0, 0, 50, 3] = k[0, 0, 77, 0] = v[0, 0, 77, 9] = bad
    got = vfa_attention(q, k, v, mask=mask, precision=precision, backend="native")
    others = torch.arange(101) != 50
    assert relative_error(got[:, :, others], expected[:, :, others]) < 0.006
    assert torch.isnan(got[0, 0, 50]).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_offsets_beyond_2_31_elements_are_counted_in_64_bits(precision):
    far = 2**31 + 64
    try:
        memory = torch.empty(2 * far + 128 * 32, dtype=torch.bfloat16)  # untouched, so not there
    except RuntimeError:
        pytest.skip("8.6 GB of addresses are not to be had")
    x = memory.as_strided((1, 3, 61, 32), (0, far, 32, 1))
    near = torch.randn(1, 3, 61, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    x.copy_(near)
    got = vfa_attention(x, x, x, precision=precision, backend="native")
    assert torch.equal(got, vfa_attention(near, near, near, precision=precision, backend="native"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_of_ten_million_pick_one_key_instead_of_overflowing(precision):
    q, k, v = make_inputs("random", batch=1, heads=2, length=70, dim=32)
    q, k = q * 3e3, k * 3e3
    got = vfa_attention(q, k, v, precision=precision, backend="native")
    assert relative_error(got, exact(q, k, v)) < 0.006
