# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of gated attention against float64, and compiled for GPUs that are not here."""

from __future__ import annotations

from typing import Any

import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

# B, heads, N, M, d, dv
SHAPES = [(1, 1, 1, 1, 1, 1), (2, 2, 5, 7, 3, 20), (1, 2, 70, 100, 96, 96), (2, 1, 40, 33, 130, 16)]


def arguments(shape: tuple[int, ...], dtype: Any, device: Any, seed: int) -> list[Any]:
    b, h, n, m, d, dv = shape
    g = torch.Generator().manual_seed(seed)
    sizes = ((n, d), (m, d), (m, dv), (n, dv))
    spread = (d**-0.25, d**-0.25, 1.0, 1.0)
    drawn = [s * torch.randn(b, h, *size, generator=g) for size, s in zip(sizes, spread)]
    return [t.to(dtype).to(device) for t in drawn]


def run(implementation: str | None, tensors: list[Any], **options: Any) -> list[Any]:
    q, k, v = (t.detach().clone().requires_grad_() for t in tensors[:3])
    out = pl.gated_attention(q, k, v, implementation=implementation, **options)
    out.backward(tensors[3].to(out.dtype))
    return [t.detach().double().cpu() for t in (out, q.grad, k.grad, v.grad)]


def errors(found: list[Any], truth: list[Any]) -> list[float]:
    return [
        float((f - t).abs().max() / t.abs().max().clamp_min(1e-2)) for f, t in zip(found, truth)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_equals_float64(shape: Any, dtype: str, device: Any) -> None:
    tensors = arguments(shape, getattr(torch, dtype), device, 21)
    truth = run("reference", [t.cpu() for t in tensors], scale=1.3)
    worst = errors(run("triton", tensors, scale=1.3), truth)
    tolerance = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    assert max(worst) < tolerance, worst


def test_num_valid(device: Any) -> None:
    tensors = arguments((3, 2, 20, 90, 8, 8), torch.float32, device, 23)
    counts = torch.tensor([1, 64, 90])
    truth = run("reference", [t.cpu() for t in tensors], num_valid=counts)
    found = run("triton", tensors, num_valid=counts.to(device))
    assert max(errors(found, truth)) < 1e-5
    assert not found[2][1, :, 64:].any() and not found[3][0, :, 1:].any()


def test_no_keys_give_zeros(device: Any) -> None:
    """What a GPU cannot refuse without looking."""
    from pyloc_core._triton import gated_attention as kernels

    q, k, v, slope = arguments((2, 1, 5, 9, 4, 4), torch.float32, device, 25)
    valid = torch.tensor([0, 9], device=device)
    forward = kernels.forward(q, k, v, valid, 1.0)
    assert not forward[0][0].any() and forward[0][1].any()
    for gradient in kernels.backward(q, k, v, valid, *forward, slope, 1.0):
        assert torch.isfinite(gradient).all() and not gradient[0].any() and gradient[1].any()


def test_the_first_of_equal_maxima_takes_the_gradient(device: Any) -> None:
    """Keys that tie lie in one block and in two."""
    q, k, v, slope = arguments((1, 1, 3, 70, 4, 4), torch.float32, device, 27)
    q[:] = q[:, :, :1]
    for same in (5, 6, 69):
        k[0, 0, same] = 3 * q[0, 0, 0]
    found = run("triton", [q, k, v, slope])
    native = run("native", [t.cpu() for t in (q, k, v, slope)])
    assert max(errors(found, native)) < 1e-5
    assert not torch.allclose(found[2][0, 0, 5], found[2][0, 0, 6])


def test_not_finite_spoils_only_its_own_item(device: Any) -> None:
    q, k, v, slope = arguments((2, 1, 5, 9, 4, 4), torch.float32, device, 29)
    from pyloc_core._triton import gated_attention as kernels

    clean = kernels.forward(q, k, v, None, 1.0)
    k[0, 0, 3, 2] = torch.nan
    forward = kernels.forward(q, k, v, None, 1.0)
    assert (
        torch.equal(forward[0][1], clean[0][1])
        and (forward[3] < 9).all()
        and (forward[3] >= 0).all()
    )
    assert torch.isnan(forward[0][0]).any()
    for gradient in kernels.backward(q, k, v, None, *forward, slope, 1.0):
        assert torch.isfinite(gradient[1]).all()


def test_depth_beyond_the_kernels_is_refused(device: Any) -> None:
    tensors = arguments((1, 1, 2, 2, 300, 4), torch.float32, device, 31)
    with pytest.raises(ValueError, match="up to 256"):
        pl.gated_attention(*tensors[:3], implementation="triton")


def test_sizes_beyond_int32_are_refused(device: Any) -> None:
    from pyloc_core._triton import gated_attention as kernels

    q, k, v, _ = arguments((1, 1, 1, 2, 64, 4), torch.bfloat16, device, 33)
    with pytest.raises(ValueError, match="too many"):
        kernels.forward(q.expand(1, 1, 2**25, 64), k, v, None, 1.0)


def test_compiles_for_gpus(compile_for_gpu: Any) -> None:
    from pyloc_core._triton import gated_attention as kernels

    sizes = dict.fromkeys(("heads", "n", "m", "depth", "value_depth"), "i32")
    specs = []
    for dtype, name, targets in (("bf16", torch.bfloat16, [80, 90]), ("fp32", torch.float32, [90])):
        array, row = f"*{dtype}", "*fp32"
        tensors = {"queries": array, "keys": array, "values": array, "num_valid": "*i64",
                   "peak": row, "log_sum": row, "best": "*i32", "scale": "fp32", **sizes}  # fmt: skip
        given = {"d_out": array, "dot": row, "share": row}
        constants = {"HAS_VALID": 1, "WIDE": 0, **kernels.blocks(name, 96, 96)}
        for kernel, more in (
            ("forward_kernel", {"out": array}),
            ("query_gradient_kernel", {"out": array, "d_queries": array, **given}),
            ("key_gradient_kernel", {"d_keys": array, "d_values": array, **given}),
        ):  # fmt: skip
            specs.append({"module": "pyloc_core._triton.gated_attention", "kernel": kernel,
                          "signature": {**tensors, **more}, "constexprs": constants,
                          "targets": targets,
                          "options": kernels.launch_options(name, 96, 96)})  # fmt: skip
    built = compile_for_gpu(specs)
    assert len(built) == 9
    for each in built:
        assert each["shared"] <= 99 * 1024, each  # consumer cards have no more
        assert each["stack"] <= 512, each
