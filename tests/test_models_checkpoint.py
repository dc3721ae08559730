# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every container give the same weights, and hostile or damaged ones give an error."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from checkpoint_files import Hostile, in_stream, in_tar, in_zip, training_program  # noqa: E402

from pyloc_core.models.checkpoint import fit_state, read_checkpoint  # noqa: E402


@pytest.fixture
def state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(6, 5, generator=generator)
    return OrderedDict(
        [
            ("encoder.0.weight", torch.randn(4, 3, 3, 3, generator=generator)),
            ("encoder.0.bias", torch.randn(4, generator=generator)),
            ("half", torch.randn(7, generator=generator).half()),
            ("brain", torch.randn(7, generator=generator).bfloat16()),
            ("view", base[1:4, ::2]),  # not contiguous, an offset into a shared storage
            ("transposed", base.t()),
            ("bn.num_batches_tracked", torch.tensor(12)),
            ("scalar", torch.tensor(0.25, dtype=torch.float64)),
            ("parameter", torch.nn.Parameter(torch.randn(3, generator=generator))),
            ("empty", torch.zeros(0, 3)),
        ]
    )


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value.detach()), name
        assert not found[name].requires_grad, name


def save(content: Any, path: Path, zipped: bool, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("own_reader", [True, False])
def test_files_of_torch_save(
    state: Any, tmp_path: Path, zipped: bool, protocol: int, own_reader: bool, monkeypatch: Any
) -> None:
    if own_reader:
        monkeypatch.setattr("pyloc_core.models.checkpoint._read_with_torch", lambda path: None)
    path = save({"state_dict": state, "epoch": 3}, tmp_path / "file.pth.tar", zipped, protocol)
    found = read_checkpoint(path)
    assert_same(found.state, state)
    assert found.extra == {"epoch": 3}
    assert found.leftovers == ()
    assert_same(read_checkpoint(save(state, tmp_path / "bare.ckpt", zipped, protocol)).state, state)


@pytest.mark.parametrize("nest", ["state_dict", "model", "model_state_dict", "net"])
def test_weights_are_found_where_programs_put_them(state: Any, tmp_path: Path, nest: str) -> None:
    path = save({nest: state, "optimizer": {"state": {}}}, tmp_path / "a.pth", True)
    assert_same(read_checkpoint(path).state, state)


def test_safetensors(state: Any, tmp_path: Path) -> None:
    io = pytest.importorskip("safetensors.torch")
    plain = {name: value.detach().contiguous() for name, value in state.items()}
    io.save_file(plain, tmp_path / "a.safetensors", {"hyper_parameters": '{"level": "fine"}'})
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert_same({name: found.state[name] for name in state}, state)
    assert found.hyper_parameters == {"level": "fine"}


def test_tar_of_the_first_torch(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    state = {
        "a.weight": torch.randn(3, 4, generator=generator),
        "b": torch.randn(2, generator=generator),
    }
    path = in_tar(state, tmp_path / "old.pth.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_torch = torch.load(path, weights_only=False)  # the fixture is such a file
    assert_same(by_torch["state_dict"], state)
    found = read_checkpoint(path)
    assert_same(found.state, state)
    assert found.extra == {"epoch": 3}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_leftovers_of_training_programs_are_inert(
    state: Any, tmp_path: Path, zipped: bool, protocol: int
) -> None:
    if zipped and protocol < 2:
        pytest.skip("torch writes zip archives with protocol 2 or later")
    with training_program() as program:
        content = {
            "state_dict": state,
            "hyper_parameters": program.AttributeDict(level="coarse", image={"resize": 60}),
            "options": program.Options(),
            "names": program.Names(["conv1_2", "conv3_3"]),
            "arguments": Namespace(lr=0.5),
            "where": PurePosixPath("/data") / "scene",
            "loss": np.float64(0.75),
            "curve": np.arange(3, dtype=np.int32),
            "kinds": {"set": {1, 2}, "bytes": b"\xff\x00", "shape": torch.Size([2, 3])},
        }
        path = save(content, tmp_path / "lightning.ckpt", zipped, protocol)
    found = read_checkpoint(path)
    assert_same(found.state, state)
    assert found.hyper_parameters == {"level": "coarse", "image": {"resize": 60}}
    assert found.extra["options"] == {"depth": 7, "name": "x", "inner": {"a": 1}}
    assert found.extra["names"]["elements"] == ["conv1_2", "conv3_3"]
    assert found.extra["arguments"] == {"lr": 0.5}
    assert found.extra["where"].lstrip("/") == "data/scene"
    assert found.extra["loss"] == 0.75
    assert found.extra["curve"].tolist() == [0, 1, 2]
    assert found.extra["kinds"]["bytes"] == b"\xff\x00"
    assert sorted(found.extra["kinds"]["set"]) == [1, 2]
    assert "some_trainer.parsing.AttributeDict" in found.leftovers


@pytest.mark.parametrize("zipped", [True, False])
def test_omegaconf_is_read_as_what_it_holds(
    state: Any, tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes with metadata that names typing.Any, and with a way back to their parents."""
    classes = {}
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    for module, name in (("omegaconf.dictconfig", "DictConfig"), ("omegaconf.nodes", "AnyNode"),
                         ("omegaconf.listconfig", "ListConfig"), ("omegaconf.base", "Metadata")):  # fmt: skip
        classes[name] = type(name, (), {"__module__": module})
        holder = ModuleType(module)
        setattr(holder, name, classes[name])
        monkeypatch.setitem(sys.modules, module, holder)

    def node(name: str, **attributes: Any) -> Any:
        made = classes[name]()
        made._metadata = classes["Metadata"]()
        made._metadata.ref_type = Any
        made.__dict__.update(attributes)
        for child in made.__dict__.get("_content") or ():
            (made._content[child] if name == "DictConfig" else child)._parent = made
        return made

    sizes = node("ListConfig", _content=[node("AnyNode", _val=v) for v in (8, 16)])
    image = node("DictConfig", _content={"resize": node("AnyNode", _val=60), "sizes": sizes})
    nothing = node("AnyNode", _val=None)
    parameters = node("DictConfig", _content={"image": image, "cut": nothing})
    content = {"state_dict": state, "hyper_parameters": parameters}
    found = read_checkpoint(save(content, tmp_path / "hydra.ckpt", zipped, 2))
    assert_same(found.state, state)
    assert found.hyper_parameters == {"image": {"resize": 60, "sizes": [8, 16]}, "cut": None}
    assert "omegaconf.nodes.AnyNode" in found.leftovers
    hostile = Hostile("typing", "Any").pickled(2)
    with pytest.raises(ValueError, match="pickle"):
        read_checkpoint(in_zip(hostile, tmp_path / "called.ckpt"))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    """As programs without torch write weights; every order and kind of number."""
    rng = np.random.default_rng(protocol)
    state = {
        "c": rng.normal(size=(3, 4)).astype(np.float32),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "big": rng.normal(size=5).astype(">f4"),
        "half": rng.normal(size=5).astype(np.float16),
        "whole": rng.integers(-9, 9, (2, 2)),
        "flags": rng.normal(size=6) > 0,
        "nothing": np.zeros((0, 3), np.float32),
        "point": np.array(2.5),
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(
        pickle.dumps({"params": state, "step": np.int64(7), "on": np.bool_(True)}, protocol)
    )
    found = read_checkpoint(path)
    assert found.extra == {"step": 7, "on": True}
    for name, value in state.items():
        np.testing.assert_array_equal(found.state[name].numpy(), value)
        assert found.state[name].shape == value.shape
    path.write_bytes(pickle.dumps({"params": {"a": np.array(["text"]), "b": state["c"]}}, protocol))
    with pytest.raises(ValueError, match="dtype"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps({"params": {"a": np.array([{}, None])}}, protocol))
    with pytest.raises(ValueError, match=r"dtype|plain numbers|names"):
        read_checkpoint(path)


def test_calls_of_unknown_classes_are_refused_unless_named(state: Any, tmp_path: Path) -> None:
    with training_program() as program:
        path = save({"state_dict": state, "hook": program.Called()}, tmp_path / "a.ckpt", True)
    with pytest.raises(ValueError, match=r"calls some_trainer\.parsing\.Called"):
        read_checkpoint(path)
    found = read_checkpoint(path, inert=["some_trainer.parsing.Called"])
    assert found.extra["hook"] == {"arguments": ["argument"]}


HOSTILE = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("builtins", "eval"),
    ("builtins", "exec"), ("builtins", "__import__"), ("builtins", "getattr"), ("__builtin__", "eval"),
    ("subprocess", "Popen"), ("subprocess", "check_output"), ("importlib", "import_module"),
    ("runpy", "run_path"), ("pickle", "loads"), ("shutil", "rmtree"), ("ctypes", "CDLL"),
    ("operator", "attrgetter"), ("functools", "partial"), ("socket", "socket"), ("io", "open"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.serialization", "load"), ("torch.jit", "load"),
    ("torch._utils", "_import_dotted_name"), ("numpy", "load"), ("numpy.testing", "rundocs"),
    ("pip", "main"), ("commands", "getoutput"), ("pathlib", "Path.unlink"), ("__main__", "run"),
]  # fmt: skip


@pytest.mark.parametrize("wrap", ["plain", "zip", "stream"])
@pytest.mark.parametrize("name", HOSTILE, ids=".".join)
def test_hostile_pickles_are_refused_by_name(
    tmp_path: Path, name: tuple[str, str], wrap: str
) -> None:
    trace = tmp_path / "trace"
    for protocol in range(6):
        data = Hostile(*name, f"touch {trace}").pickled(protocol)
        path = tmp_path / f"{protocol}.pth"
        if wrap == "plain":
            path.write_bytes(data)
        else:
            (in_zip if wrap == "zip" else in_stream)(data, path)
        with pytest.raises(ValueError, match=r"the pickle (names|calls)") as caught:
            read_checkpoint(path)
        assert f"{name[0]}.{name[1]}" in str(caught.value)
        assert str(path) in str(caught.value)
    assert not trace.exists()


class _Touch:
    """What a pickle that runs code looks like when an ordinary program writes it."""

    def __init__(self, path: Path, function: Any = os.system) -> None:
        self.path, self.function = path, function

    def __reduce__(self) -> Any:
        return (self.function, (f"touch {self.path}",))


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("place", ["value", "key", "deep", "hyper", "state"])
def test_nested_hostile_pickles(state: Any, tmp_path: Path, protocol: int, place: str) -> None:
    trace = tmp_path / "trace"
    bomb = _Touch(trace)
    content: Any = {"state_dict": dict(state)}
    if place == "value":
        content["state_dict"]["encoder.0.bias"] = bomb
    elif place == "key":
        content[(1, bomb)] = 0
    elif place == "deep":
        content["callbacks"] = [[({"a": (bomb,)},)]]
    elif place == "hyper":
        content["hyper_parameters"] = OrderedDict(a=Namespace(b=bomb))
    else:
        content["state_dict"] = OrderedDict(state)
        content["state_dict"]._metadata = bomb
    path = save(content, tmp_path / "a.pth", protocol >= 2, protocol)
    with pytest.raises(ValueError, match=r"names (posix|os|nt)\.system"):
        read_checkpoint(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))  # the bomb is real
    assert trace.exists()


def test_memo_tricks(tmp_path: Path) -> None:
    """An object is stored and called later; a memo index that would exhaust the memory."""
    trace = tmp_path / "trace"
    text = f"touch {trace}".encode()
    later = (
        b"\x80\x02cos\nsystem\nq\x000}X\x0a\x00\x00\x00state_dict"
        b"h\x00X" + len(text).to_bytes(4, "little") + text + b"\x85Rs."
    )
    huge = b"\x80\x02}r\xff\xff\xff\x7f."
    extension = b"\x80\x02\x82\x01."
    recursive = b"\x80\x02]q\x00h\x00a."
    for data, message in (
        (later, r"names os\.system"), (huge, "memo index"), (extension, "opcode EXT1"),
        (recursive, "holds a list"), (b"\x80\x02" + b"(" * 10 + b".", "damaged"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
    ):  # fmt: skip
        path = tmp_path / "memo.pkl"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_checkpoint(path)
    assert not trace.exists()


def test_state_of_the_reader_cannot_be_changed(tmp_path: Path) -> None:
    """BUILD on a function or token that stands for a global would outlive the file."""
    for text in (b"c_codecs\nencode\n", b"cbuiltins\ndict\n", b"ctorch\nFloatStorage\n"):
        for form in (b"}X\x01\x00\x00\x00aK\x01sb.", b"N}X\x08\x00\x00\x00functionK\x01s\x86b."):
            path = tmp_path / "build.pkl"
            path.write_bytes(b"\x80\x02" + text + form)
            with pytest.raises(ValueError, match="sets the state"):
                read_checkpoint(path)


def test_hostile_layouts(tmp_path: Path) -> None:
    """Offsets, sizes and strides that reach outside the storage, or that blow a small file up."""
    storage = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    head = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
    tail = b"\x89ccollections\nOrderedDict\n)RtRs."
    for layout, message in (
        (b"K\x03K\x02\x85K\x01\x85", "outside its storage"),
        (b"K\x00K\x02\x85M\xff\xff\x85", "outside its storage"),
        (b"J\xff\xff\xff\xffK\x02\x85K\x01\x85", "impossible layout"),
        (b"K\x00K\x02\x85J\xff\xff\xff\xff\x85", "impossible layout"),
        (b"K\x00J\x00\x00\x00\x7f\x85K\x00\x85", "repeats a storage"),
        (b"K\x00K\x02K\x02\x86K\x01\x85", "impossible layout"),
    ):
        path = tmp_path / "a.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", head + storage + layout + tail)
            archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
        with pytest.raises(ValueError, match=message):
            read_checkpoint(path)


@pytest.mark.parametrize("kind", ["zip", "stream", "tar", "safetensors"])
def test_truncated_files(state: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "whole"
    if kind == "safetensors":
        io = pytest.importorskip("safetensors.torch")
        io.save_file({"a": torch.ones(50), "b": torch.ones(7, 9)}, path)
    elif kind == "tar":
        in_tar({"a": torch.ones(500), "b": torch.ones(7, 9)}, path)
    else:
        save({"state_dict": state}, path, kind == "zip")
    data = path.read_bytes()
    cut = tmp_path / "cut"
    ends = len(data.rstrip(b"\0")) if kind == "tar" else len(data)  # a tar archive ends in padding
    for length in sorted({int(f * ends) for f in np.linspace(0, 0.99, 40)} | {1, 7, 8, 9}):
        cut.write_bytes(data[:length])
        with pytest.raises(ValueError, match="cannot read"):
            read_checkpoint(cut)


def test_other_files(tmp_path: Path) -> None:
    for name, content in (("text", b"hello"), ("png", b"\x89PNG\r\n\x1a\n" + bytes(99))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot read.*{name}"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(ValueError, match="cannot read"):
        read_checkpoint(tmp_path)
    with pytest.raises(TypeError, match="file name or a state dict"):
        read_checkpoint(3)
    with pytest.raises(ValueError, match="no weights under a known name; its entries: a, b"):
        read_checkpoint({"a": 1, "b": {}})
    packed = tmp_path / "packed"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(ValueError, match="compressed"):
        read_checkpoint(packed)


def test_names_are_fitted_and_mismatches_named() -> None:
    expected = {f"layer.{i}.weight": (2, 3) for i in range(9)}
    good = {name: torch.ones(2, 3) for name in expected}
    for change in ("layer.module.", "module.layer.", "model.layer.", "cnn.layer."):
        moved = {name.replace("layer.", change): value for name, value in good.items()}
        assert list(fit_state(moved, expected, "net", prefixes=["cnn."])) == list(expected)
    wrong = {k: v for k, v in good.items() if k[6] not in "01234"}
    wrong |= {"other": torch.ones(1), "layer.8.weight": torch.ones(2, 4)}
    with pytest.raises(ValueError) as caught:
        fit_state(wrong, expected, "net")
    text = str(caught.value)
    assert "5 missing: layer.0.weight, layer.1.weight" in text and ", ..." in text
    assert "1 unexpected: other" in text
    assert "1 misshapen: layer.8.weight is (2, 4) and not (2, 3)" in text
    with pytest.raises(ValueError, match="weights of another model"):
        fit_state({"a": torch.ones(1)}, expected, "net")
    with pytest.raises(ValueError, match="twice"):
        fit_state({"module.a": torch.ones(1), "a": torch.ones(1)}, {"a": (1,)}, "net")
