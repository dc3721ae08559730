# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""The public surface, written down: a change of a name or a signature shows in review.

After a change that is meant, regenerate the file with `python tests/test_api.py`.
"""

from __future__ import annotations

import inspect
from pathlib import Path

SURFACE = Path(__file__).with_name("api.txt")


def describe(name: str, value: object) -> list[str]:
    if inspect.isclass(value):
        lines = [f"class {name}"]
        for member, attribute in sorted(vars(value).items()):
            if member.startswith("_") and member != "__init__":
                continue
            function = getattr(attribute, "__func__", attribute)
            if inspect.isfunction(function):
                lines.append(f"  {member}{signature(function)}")
            elif isinstance(attribute, property):
                lines.append(f"  {member}: property")
        return lines
    if callable(value):
        return [f"{name}{signature(value)}"]
    return [f"{name}: {type(value).__name__}"]


def signature(function: object) -> str:
    """Names, kinds and defaults; annotations are left to the type checker."""
    plain = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in plain.parameters.values()]
    return str(plain.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def surface() -> str:
    import pyloc_core
    import pyloc_core.depth
    import pyloc_core.integrations.superglue
    import pyloc_core.localization
    import pyloc_core.mining
    import pyloc_core.retrieval

    modules = (
        pyloc_core,
        pyloc_core.localization,
        pyloc_core.depth,
        pyloc_core.retrieval,
        pyloc_core.mining,
        pyloc_core.integrations.superglue,
    )
    lines: list[str] = []
    for module in modules:
        lines.append(f"# {module.__name__}")
        for name in sorted(module.__all__):
            lines += describe(name, getattr(module, name))
    return "\n".join(lines) + "\n"


def test_public_surface_is_the_one_written_down() -> None:
    assert surface() == SURFACE.read_text(), "run `python tests/test_api.py` if the change is meant"


if __name__ == "__main__":
    SURFACE.write_text(surface())
