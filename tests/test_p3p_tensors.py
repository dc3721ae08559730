# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""P3P as torch sees it, without a GPU: tracing, fake tensors, forced implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyloc_core as pl

torch = pytest.importorskip("torch")


def problems(count: int, dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(11)
    rays = np.concatenate([rng.uniform(-1, 1, (count, 3, 2)), np.ones((count, 3, 1))], -1)
    points = rays * rng.uniform(1, 5, (count, 3, 1))
    return torch.tensor(rays, dtype=dtype), torch.tensor(points, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_is_sound_for_torch(dtype: Any) -> None:
    f, x = problems(6, dtype)
    from pyloc_core import _library

    _library.ensure()
    torch.library.opcheck(torch.ops.pyloc_core.p3p.default, (f, x, 0, ""))
    poses, valid = torch.empty(6, 4, 3, 4, dtype=dtype), torch.empty(6, 4, dtype=torch.bool)
    torch.library.opcheck(torch.ops.pyloc_core.p3p_out.default, (f, x, 0, "", poses, valid))


def test_a_compiled_function_gives_what_the_eager_one_does() -> None:
    f, x = problems(9, torch.float64)
    eager = pl.p3p(f, x)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(f: Any, x: Any) -> Any:
        found = pl.p3p(f, x)
        return found.cam_from_world * 2, found.valid

    poses, valid = compiled(f, x)
    assert torch.equal(poses, 2 * eager.cam_from_world) and torch.equal(valid, eager.valid)
    assert eager.valid.any(1).all()


def test_out_under_compile() -> None:
    f, x = problems(9, torch.float64)
    eager = pl.p3p(f, x)
    out = pl.P3PSolutions(torch.full_like(eager.cam_from_world, 7), torch.ones(9, 4).bool())

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(f: Any, x: Any, poses: Any, valid: Any) -> Any:
        return pl.p3p(f, x, out=pl.P3PSolutions(poses, valid)).cam_from_world.sum()

    total = compiled(f, x, out.cam_from_world, out.valid)
    assert torch.equal(out.cam_from_world, eager.cam_from_world)
    assert torch.equal(out.valid, eager.valid) and total == eager.cam_from_world.sum()


def test_fake_tensors_have_the_shapes_and_kinds() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    f, x = problems(5, torch.float32)
    with FakeTensorMode() as mode:
        found = pl.p3p(mode.from_tensor(f), mode.from_tensor(x).double())
    assert found.cam_from_world.shape == (5, 4, 3, 4)
    assert found.cam_from_world.dtype == torch.float64 and found.valid.dtype == torch.bool


def test_implementations_that_cannot_run_say_so() -> None:
    f, x = problems(5, torch.float32)
    names = [each.name for each in pl.implementations("p3p")]
    assert names == ["native", "cuda", "reference"]
    with pytest.raises(RuntimeError, match="cuda"):
        pl.p3p(f, x, implementation="cuda")
    with pytest.raises(ValueError, match="no implementation 'triton'"):
        pl.p3p(f, x, implementation="triton")
    with pytest.raises(ValueError, match="one device"):
        pl.p3p(f, x.to("meta"))
    info = pl.build_info()["cuda"]
    assert info and (isinstance(info, str) or set(info) == {"architectures", "runtime", "driver"})
