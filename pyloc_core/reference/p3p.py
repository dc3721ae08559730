# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""P3P in float64 by another route than the kernels': elimination to a quartic and its companion matrix.

B problems. The depths d (3) of a solution satisfy E_ij(d) = d_i^2 + d_j^2 - 2 cos_ij d_i d_j = a_ij.
Two combinations of the three equations are homogeneous. In a generically rotated basis of the depths
(so that no symmetry of the problem makes a coefficient vanish) one unknown is eliminated by their
resultant, a quartic (the way of Grunert, 1841). Newton steps on the depths refine its real roots, and the
pose is the best rigid motion between the two triangles (Kabsch, 1976).
"""

from __future__ import annotations

import torch
from torch import Tensor

_PAIRS = ((0, 1), (0, 2), (1, 2))
_IMAGINARY = 1e-3  # roots with a smaller imaginary part are tried
_RESIDUAL = 1e-10  # of the squared distances, relative to the depths and distances
_NEWTON_STEPS = 8


def p3p(bearings: Tensor, points3d: Tensor) -> tuple[Tensor, Tensor]:
    """Poses that see three points along three bearings.

    Args:
        bearings: (B, 3, 3), rows are directions in the camera frame, of any length.
        points3d: (B, 3, 3), rows are world points.

    Returns:
        cam_from_world (B, 4, 3, 4) and valid (B, 4), by rising depth of the first point, valid ones
        first, zeros elsewhere.
    """
    f = bearings.double()
    length = f.norm(dim=-1, keepdim=True)
    f = f / length
    centroid = points3d.double().mean(dim=1, keepdim=True)
    x = points3d.double() - centroid
    scale = x.abs().amax(dim=(1, 2), keepdim=True)
    x = x / scale
    side = (x[:, 1] - x[:, 0], x[:, 2] - x[:, 0])
    area = torch.linalg.cross(*side).norm(dim=-1)
    longest = torch.maximum(side[0].norm(dim=-1), side[1].norm(dim=-1))
    usable = (length[..., 0] > 0).all(dim=1) & (area > 1e-10 * longest**2)
    f = torch.where(usable[:, None, None], f, torch.eye(3, dtype=f.dtype))
    x = torch.where(usable[:, None, None], x, torch.eye(3, dtype=f.dtype))

    cosines = torch.stack([(f[:, i] * f[:, j]).sum(-1) for i, j in _PAIRS], dim=-1)  # (B, 3)
    squares = torch.stack([((x[:, i] - x[:, j]) ** 2).sum(-1) for i, j in _PAIRS], dim=-1)
    depths, valid = _depths(cosines, squares)  # (B, 4, 3), (B, 4)
    valid = valid & usable[:, None]
    order = torch.where(valid, depths[..., 0], torch.inf).argsort(dim=1, stable=True)
    depths = depths.gather(1, order[..., None].expand_as(depths))
    valid = valid.gather(1, order)
    poses = _poses(f, x, depths, centroid, scale)
    return torch.where(valid[..., None, None], poses, 0.0), valid


def _depths(cosines: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Up to four depth triples (B, 4, 3) with E_ij(d) = a_ij, and which of them hold."""
    forms = [_form(cosines[:, n], i, j) for n, (i, j) in enumerate(_PAIRS)]
    basis = _null_basis(squares)  # (B, 2, 3)
    basis = basis / basis.norm(dim=-1, keepdim=True)
    rotation = _generic_rotation(cosines)
    first, second = (
        rotation.T @ sum(basis[:, c, n, None, None] * forms[n] for n in range(3)) @ rotation
        for c in range(2)
    )
    z = _common_zeros(first, second)  # (B, 4, 3) complex, projective
    d = z @ rotation.T.to(z.dtype)
    d = d / d.gather(-1, d.abs().argmax(dim=-1, keepdim=True))
    real = d.imag.abs().amax(dim=-1) < _IMAGINARY
    d = d.real
    value = torch.stack([torch.einsum("bki,bij,bkj->bk", d, form, d) for form in forms], dim=-1)
    d = d * (squares.sum(-1)[:, None] / value.sum(-1).clamp(min=1e-300)).sqrt()[..., None]
    for _ in range(_NEWTON_STEPS):
        d = _newton(cosines, squares, d)
    residual = _residual(cosines, squares, d).abs().amax(dim=-1)
    size = (
        squares.amax(dim=-1)[:, None] + d.abs().amax(dim=-1) * squares.amax(dim=-1)[:, None].sqrt()
    )
    return d, real & (d > 0).all(dim=-1) & (residual < _RESIDUAL * size)


def _form(cosine: Tensor, i: int, j: int) -> Tensor:
    """Matrix (B, 3, 3) of E_ij."""
    form = torch.zeros(len(cosine), 3, 3, dtype=cosine.dtype)
    form[:, i, i] = form[:, j, j] = 1.0
    form[:, i, j] = form[:, j, i] = -cosine
    return form


def _null_basis(squares: Tensor) -> Tensor:
    """Two vectors (B, 2, 3) orthogonal to `squares`; its largest component is divided by."""
    longest = squares.argmax(dim=1, keepdim=True)
    others = torch.stack([(longest[:, 0] + 1) % 3, (longest[:, 0] + 2) % 3], dim=1)
    basis = torch.zeros(len(squares), 2, 3, dtype=squares.dtype)
    for c in range(2):
        other = others[:, c, None]
        basis[:, c].scatter_(1, other, 1.0)
        basis[:, c].scatter_(1, longest, -squares.gather(1, other) / squares.gather(1, longest))
    return basis


def _generic_rotation(like: Tensor) -> Tensor:
    """A fixed rotation without special angles."""
    skew = torch.tensor(
        [[0.0, -0.713, 0.417], [0.713, 0.0, -1.131], [-0.417, 1.131, 0.0]], dtype=like.dtype
    )
    return torch.linalg.matrix_exp(skew)


def _common_zeros(first: Tensor, second: Tensor) -> Tensor:
    """The four common points (B, 4, 3) of two conics, as (x, y, 1), complex in general.

    Each conic is A x^2 + B(y) x + C(y); polynomials in y are held with rising powers.
    """
    a1, b1, c1 = _in_x(first)
    a2, b2, c2 = _in_x(second)
    ac = a1 * c2 - a2 * c1  # (B, 3): degree 2
    ab = a1 * b2 - a2 * b1  # (B, 2): degree 1
    bc = _multiply(b1, c2) - _multiply(b2, c1)  # degree 3
    y = _roots(_multiply(ac, ac) - _multiply(ab, bc))  # (B, 4)
    ac, ab = ac.to(y.dtype), ab.to(y.dtype)
    x = -(ac[:, :1] + (ac[:, 1:2] + ac[:, 2:] * y) * y) / (ab[:, :1] + ab[:, 1:] * y)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _in_x(conic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a = conic[:, 0, 0, None]
    b = 2.0 * torch.stack([conic[:, 0, 2], conic[:, 0, 1]], dim=-1)
    c = torch.stack([conic[:, 2, 2], 2.0 * conic[:, 1, 2], conic[:, 1, 1]], dim=-1)
    return a, b, c


def _multiply(p: Tensor, q: Tensor) -> Tensor:
    """Product of polynomials (B, m) and (B, n)."""
    result = torch.zeros(len(p), p.shape[1] + q.shape[1] - 1, dtype=p.dtype)
    for i in range(p.shape[1]):
        result[:, i : i + q.shape[1]] += p[:, i, None] * q
    return result


def _roots(quartic: Tensor) -> Tensor:
    """Eigenvalues of the companion matrix of (B, 5) coefficients with rising powers."""
    companion = torch.zeros(len(quartic), 4, 4, dtype=quartic.dtype)
    companion[:, 1:, :3] = torch.eye(3, dtype=quartic.dtype)
    companion[:, :, 3] = -quartic[:, :4] / quartic[:, 4:]
    return torch.linalg.eigvals(companion)


def _residual(cosines: Tensor, squares: Tensor, d: Tensor) -> Tensor:
    """E_ij(d) - a_ij, (B, 4, 3)."""
    terms = []
    for n, (i, j) in enumerate(_PAIRS):
        product = d[..., i] * d[..., j]
        difference = d[..., i] - d[..., j]
        terms.append(difference**2 + 2 * (1 - cosines[:, n, None]) * product - squares[:, n, None])
    return torch.stack(terms, dim=-1)


def _newton(cosines: Tensor, squares: Tensor, d: Tensor) -> Tensor:
    """One Newton step where it lowers the residual."""
    jacobian = torch.zeros(*d.shape, 3, dtype=d.dtype)
    for n, (i, j) in enumerate(_PAIRS):
        jacobian[..., n, i] = 2 * (d[..., i] - cosines[:, n, None] * d[..., j])
        jacobian[..., n, j] = 2 * (d[..., j] - cosines[:, n, None] * d[..., i])
    residual = _residual(cosines, squares, d)
    step = torch.linalg.solve_ex(jacobian, residual[..., None])[0][..., 0]
    moved = d - torch.nan_to_num(step, nan=0.0, posinf=0.0, neginf=0.0)
    better = _residual(cosines, squares, moved).abs().amax(-1) < residual.abs().amax(-1)
    return torch.where(better[..., None], moved, d)


def _poses(f: Tensor, x: Tensor, depths: Tensor, centroid: Tensor, scale: Tensor) -> Tensor:
    """Rigid motions (B, 4, 3, 4) from the world triangle x to the points depths * f."""
    y = depths[..., None] * f[:, None]  # (B, 4, 3 points, 3)
    y = torch.nan_to_num(y)
    y_mean = y.mean(dim=2, keepdim=True)
    x_mean = x.mean(dim=1, keepdim=True)
    covariance = (y - y_mean).transpose(-1, -2) @ (x - x_mean)[:, None]  # sum y x^T
    u, _, vt = torch.linalg.svd(covariance)
    sign = torch.linalg.det(u @ vt)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], dim=-1)
    rotation = u @ vt
    world = centroid[:, 0] + scale[:, 0] * x_mean[:, 0]
    translation = scale * y_mean[:, :, 0] - torch.einsum("bkij,bj->bki", rotation, world)
    return torch.cat([rotation, translation[..., None]], dim=-1)
