# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The house rules that a machine can check: stems, import direction, licence lines, file names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyloc_core"
OPS = sorted(p.stem for p in (PACKAGE / "ops").glob("*.py") if p.stem != "__init__")
CODE = [
    p
    for folder in ("csrc", "cuda", "pyloc_core", "tests", "benchmarks", "examples", "cmake")
    for p in sorted((ROOT / folder).rglob("*"))
    if p.suffix in {".py", ".h", ".cpp", ".cu", ".cmake"} and "__pycache__" not in p.parts
]

# Layer -> what it must never import. Paths are relative to the package.
FORBIDDEN = {
    "ops": (
        "pyloc_core.retrieval",
        "pyloc_core.mining",
        "pyloc_core.localization",
        "pyloc_core.depth",
        "pyloc_core.models",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "reference": (
        "pyloc_core.ops",
        "pyloc_core.localization",
        "pyloc_core.cli",
        "pyloc_core._native",
    ),
    "_triton": ("pyloc_core.ops", "pyloc_core.localization", "pyloc_core._native"),
    "_cuda": ("pyloc_core.ops", "pyloc_core.localization", "pyloc_core._native."),
    "retrieval": (
        "pyloc_core._native",
        "pyloc_core.reference",
        "pyloc_core.localization",
        "pyloc_core.models",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "mining": (
        "pyloc_core._native",
        "pyloc_core.reference",
        "pyloc_core.retrieval",
        "pyloc_core.localization",
        "pyloc_core.models",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "localization": (
        "pyloc_core._native",
        "pyloc_core.reference",
        "pyloc_core.mining",
        "pyloc_core.depth",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "depth": (
        "pyloc_core._native",
        "pyloc_core.reference",
        "pyloc_core.retrieval",
        "pyloc_core.mining",
        "pyloc_core.models",
        "pyloc_core.training",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "models": (
        "pyloc_core._native",
        "pyloc_core.reference",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "training": (
        "pyloc_core._native",
        "pyloc_core.reference",
        "pyloc_core.integrations",
        "pyloc_core.cli",
    ),
    "integrations": ("pyloc_core._native", "pyloc_core.reference", "pyloc_core.cli"),
}
# Folders whose modules are imported only by those who have torch.
NEED_TORCH = {"reference", "_triton", "_cuda", "models", "training"}


def imported_modules(path: Path) -> set[str]:
    """Absolute names of everything a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("op", OPS)
def test_every_operator_is_complete(op: str) -> None:
    expected = [
        PACKAGE / "reference" / f"{op}.py",
        ROOT / "csrc" / "cpu" / f"{op}.cpp",
        ROOT / "csrc" / "cpu" / f"{op}.h",
        ROOT / "csrc" / "bindings" / f"{op}.cpp",
        ROOT / "tests" / f"test_{op}.py",
        ROOT / "benchmarks" / f"bench_{op}.py",
    ]
    missing = [str(p.relative_to(ROOT)) for p in expected if not p.is_file()]
    assert not missing, f"{op} lacks {missing}"


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_point_one_way(layer: str) -> None:
    for path in (PACKAGE / layer).rglob("*.py"):
        for name in imported_modules(path):
            bad = [f for f in FORBIDDEN[layer] if name == f or name.startswith(f + ".")]
            assert not bad, f"{path.relative_to(ROOT)} imports {name}"


def test_operators_do_not_import_each_other() -> None:
    for op in OPS:
        for name in imported_modules(PACKAGE / "ops" / f"{op}.py"):
            assert not name.startswith("pyloc_core.ops."), f"ops/{op}.py imports {name}"


def test_gpu_layers_carry_the_stems_of_operators() -> None:
    """A launcher belongs to an operator; what launchers share has another operator-free name."""
    for path in (PACKAGE / "_cuda").glob("*.py"):
        if path.stem in OPS:
            assert (ROOT / "cuda" / f"{path.stem}.cu").is_file(), path
    for path in (ROOT / "cuda").glob("*.cu"):
        assert (PACKAGE / "_cuda" / f"{path.stem}.py").is_file(), path
    for path in (PACKAGE / "_triton").glob("*.py"):
        if path.stem in OPS:
            assert (ROOT / "tests" / "triton" / f"test_{path.stem}_triton.py").is_file(), path
        for layer in ("_triton", "_cuda"):
            for name in imported_modules(path):
                sideways = name.removeprefix(f"pyloc_core.{layer}.").split(".")[0]
                assert sideways == path.stem or sideways not in OPS, f"{path} imports {name}"


def test_only_what_needs_torch_imports_it_at_the_top() -> None:
    for path in PACKAGE.rglob("*.py"):
        if NEED_TORCH & set(path.relative_to(PACKAGE).parts):
            continue
        top = ast.parse(path.read_text()).body
        names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
        assert not any(n == "torch" or n.startswith("torch.") for n in names), path


def test_kernels_reach_python_only_through_bindings() -> None:
    for path in (ROOT / "csrc").rglob("*.[hc]*"):
        text = path.read_text()
        if path.parent.name == "bindings":
            continue
        assert "pybind11" not in text and "Python.h" not in text, path
        if path.parent.name == "pyloc":
            local = re.findall(r'#include "([^"]+)"', text)
            assert all(name.startswith("pyloc/") for name in local), (path, local)


def test_every_file_names_its_licence() -> None:
    assert len(CODE) > 40
    for path in CODE:
        head = path.read_text()[:300]
        assert "SPDX-License-Identifier: Apache-2.0" in head, path
        assert "SPDX-FileCopyrightText:" in head, path


def test_files_stay_small_and_well_named() -> None:
    for path in CODE:
        stem = path.stem.lower()
        assert not re.search(r"(^|_)(utils?|helpers?|common|misc|v2|fast)($|_)", stem), path
        lines = len(path.read_text().splitlines())
        limit = 450 if path.parts[-2] == "tests" else 400  # tests are lists, read one at a time
        assert lines <= limit, f"{path.relative_to(ROOT)} has {lines} lines: two rooms?"


def test_public_names_are_explicit_and_documented() -> None:
    import pyloc_core

    assert sorted(pyloc_core.__all__) == list(pyloc_core.__all__)
    for name in pyloc_core.__all__:
        value = getattr(pyloc_core, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    for op in OPS:
        module = (PACKAGE / "ops" / f"{op}.py").read_text()
        public = [n.name for n in ast.parse(module).body if isinstance(n, ast.FunctionDef)]
        exported = [n for n in public if n in pyloc_core.__all__]
        assert exported, f"ops/{op}.py exports nothing through pyloc_core"
