# SPDX-FileCopyrightText: 2026 The pyloc_core authors
# SPDX-License-Identifier: Apache-2.0
"""Maps of several scenes: what they hold, what is refused, their files and the index beside them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
numpy_io = pytest.importorskip("safetensors.numpy")

from test_hierarchical import told  # noqa: E402
from wall_scene import CAMERA, POSES, QUERY, build, points, render, textures  # noqa: E402

from pyloc_core.localization import DenseRootSIFT, Localizer, Map  # noqa: E402
from pyloc_core.localization.poses_file import pose_entry, write_poses  # noqa: E402

OTHER = textures(10)


@pytest.fixture(scope="module")
def parts() -> dict[str, Map]:
    return {"here": build(), "there": build(points()[:200], walls=OTHER)}


@pytest.fixture(scope="module")
def merged(parts: dict[str, Map]) -> Map:
    return Map.merge(parts)


def test_a_merged_map_holds_its_parts(parts: dict[str, Map], merged: Map) -> None:
    here, there = parts.values()
    assert merged.scenes == ("here", "there")
    assert merged.image_names == [f"{s}/{n}" for s in merged.scenes for n in "abcd"]
    assert merged.view_scene.tolist() == [0] * 4 + [1] * 4
    assert np.bincount(merged.point_scene).tolist() == [len(here), len(there)]
    for start, obs, view, part in (
        (0, 0, 0, here),
        (len(here), len(here.obs_view), 4, there),
    ):
        for n in (0, 7, len(part) - 1):
            ours = slice(*merged.obs_ptr[start + n : start + n + 2])
            theirs = slice(*part.obs_ptr[n : n + 2])
            assert ours.start - obs == theirs.start
            np.testing.assert_array_equal(merged.obs_view[ours] - view, part.obs_view[theirs])
            np.testing.assert_array_equal(merged.coarse[ours], part.coarse[theirs])
            np.testing.assert_array_equal(merged.xyz[start + n], part.xyz[n])
    # One vocabulary for all, so that the descriptors can be compared; it is another one than before.
    assert merged.vocabulary.shape == here.vocabulary.shape
    assert not np.array_equal(merged.vocabulary, here.vocabulary)
    np.testing.assert_allclose(np.linalg.norm(merged.global_descriptors, axis=1), 1, atol=1e-3)
    assert merged.summary()["scenes"] == ["here", "there"]
    again = Map.merge({"a": merged, "b": here})
    assert again.scenes == ("a/here", "a/there", "b")
    assert again.image_names[0] == "a/here/a" and again.image_names[-1] == "b/d"
    only = Map.merge({"one": here})
    assert only.scenes == ("one",) and np.array_equal(only.vocabulary, here.vocabulary)


def test_global_descriptors_of_a_network_are_kept() -> None:
    network = told([0.0] * 8)
    each = {
        "here": build(global_descriptor=network),
        "there": build(walls=OTHER, global_descriptor=network),
    }
    merged = Map.merge(each)
    np.testing.assert_array_equal(merged.global_descriptors, np.eye(8))
    other = build(walls=OTHER, global_descriptor=told([0.0] * 8, name="Another"))
    with pytest.raises(ValueError, match="'here' and 'there' differ in global descriptors"):
        Map.merge({**each, "there": other})
    with pytest.raises(ValueError, match="differ in global descriptors"):
        Map.merge({**each, "there": build(walls=OTHER)})


def test_what_cannot_be_merged(parts: dict[str, Map]) -> None:
    here = parts["here"]
    for maps, words in (
        ({}, "at least one map"),
        ({"": here}, "a scene's name"),
        ({"a": here, "b": build(np.zeros((0, 3)))}, "scene 'b' holds no points"),
        ({"a": here, "b": build(scales=(1.0,))}, "'a' and 'b' differ in options"),
        ({"a": here, "b": replace(here, descriptor={"name": "x"})}, "differ in descriptors"),
        ({"a": here, "b": replace(here, images=[])}, "differ in stored images"),
        ({"a": replace(here, images=[]), "b": replace(here, images=[])}, "store no images"),
        ({"a": Map.merge({"b": here}), "a/b": here}, "two scenes .* 'a/b'"),
        (
            {"a": replace(here, image_names=["x/p", "q", "r", "s"]), "a/x": build(names="pqrs")},
            "two images .* 'a/x/p'",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Map.merge(maps)
    with pytest.raises(TypeError, match="mapping of names"):
        Map.merge([here])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"maps\['a'\] must be a Map"):
        Map.merge({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="the map was built with"):
        Map.merge(parts, descriptor=DenseRootSIFT(fine=DenseRootSIFT().coarse))


def test_scenes_survive_files(merged: Map, tmp_path: Path) -> None:
    merged.save(tmp_path)
    loaded = Map.load(tmp_path)
    assert loaded.scenes == merged.scenes
    np.testing.assert_array_equal(loaded.point_scene, merged.point_scene)
    estimates = [Localizer(m).localize(render(QUERY), CAMERA) for m in (merged, loaded)]
    assert estimates[0].scene == "here" == pose_entry("photo", CAMERA, estimates[1])["scene"]
    assert np.array_equal(estimates[0].cam_from_world, estimates[1].cam_from_world)
    entries = [
        pose_entry(f"{i}.jpg", CAMERA, replace(estimates[0], scene=s)) for i, s in enumerate("bab")
    ]
    write_poses(tmp_path / "poses.txt", entries)
    lines = [line.split()[:3] for line in (tmp_path / "poses.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["#", "1.jpg", "#", "0.jpg", "2.jpg"]
    assert lines[0] == ["#", "scene", "a"] and lines[2] == ["#", "scene", "b"]
    write_poses(tmp_path / "poses.csv", entries)
    assert [
        line.split(",")[-1] for line in (tmp_path / "poses.csv").read_text().split()[1:]
    ] == list("bab")
    description = tmp_path / "map.json"
    content = json.loads(description.read_text())
    for change in ({"scenes": ["here"]}, {"scenes": ["x", "x"]}, {"scenes": 3}, {"version": 3}):
        description.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=r"map\."):
            Map.load(tmp_path)


def test_a_map_whose_descriptor_tells_more_than_json_holds(tmp_path: Path) -> None:
    network = told([0.9] + [0.0] * 7)
    network.to_dict = lambda: {"name": "Told", "scale": np.float32(0.5), "file": tmp_path}  # type: ignore[method-assign]
    build(global_descriptor=network).save(tmp_path)
    loaded = Map.load(tmp_path)
    assert Localizer(loaded, global_descriptor=network).localize(render(QUERY), CAMERA).success
    # What cannot be written leaves the map that was there as it is.
    before = (tmp_path / "map.safetensors").read_bytes()
    with pytest.raises(TypeError, match="keys must be"):
        replace(build(), descriptor={("a", 1): 2}).save(tmp_path)
    assert (tmp_path / "map.safetensors").read_bytes() == before
    for damaged in ("[" * 100_000, "[]", ""):
        (tmp_path / "map.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"map\.json"):
            Map.load(tmp_path)


def test_a_map_of_the_first_version_is_read(parts: dict[str, Map], tmp_path: Path) -> None:
    here = parts["here"]
    here.save(tmp_path)
    tensors = tmp_path / "map.safetensors"
    held = numpy_io.load(tensors.read_bytes())
    for name in ("view_scene", "point_scene"):
        held.pop(name)
    tensors.write_bytes(numpy_io.save(held))
    with pytest.raises(ValueError, match="lacks view_scene"):
        Map.load(tmp_path)
    content = json.loads((tmp_path / "map.json").read_text())
    first = {k: content[k] for k in ("format", "descriptor", "options", "images")}
    (tmp_path / "map.json").write_text(json.dumps({**first, "version": 1}))
    loaded = Map.load(tmp_path)
    assert loaded.scenes == ("",) and not loaded.view_scene.any()
    poses = [Localizer(m).localize(render(QUERY), CAMERA).cam_from_world for m in (here, loaded)]
    assert np.array_equal(*poses)


def test_an_index_finds_what_inner_products_find(merged: Map, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    indexed = merged.with_index()
    indexed.save(tmp_path)
    loaded = Map.load(tmp_path)
    assert loaded.index is not None and loaded.index.names == merged.image_names
    photo = render(QUERY, OTHER)
    found = [Localizer(m).localize_detailed(photo, CAMERA) for m in (merged, loaded)]
    for a, b in zip(found[0].clusters, found[1].clusters):
        assert a.views.tolist() == b.views.tolist()
    assert np.array_equal(found[0].estimate.cam_from_world, found[1].estimate.cam_from_world)
    only = Localizer(loaded).localize_detailed(photo, CAMERA, scene="there")
    assert only.clusters[0].views.tolist() == found[0].clusters[found[0].chosen].views.tolist()
    merged.save(tmp_path)  # a map without an index does not leave another's behind
    assert Map.load(tmp_path).index is None and not (tmp_path / "index.faiss").exists()
    with pytest.raises(ValueError, match="no global descriptors to index"):
        build(vocabulary=0).with_index()


def test_an_index_of_another_map_is_refused(parts: dict[str, Map], tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    parts["here"].with_index().save(tmp_path / "here")
    older = tmp_path / "older"
    parts["there"].save(older)
    for name in ("index.json", "index.faiss"):
        shutil.copy(tmp_path / "here" / name, older / name)
    with pytest.raises(ValueError, match=r"index\.json was made for other descriptors"):
        Map.load(older)
    (tmp_path / "here" / "index.faiss").write_bytes(b"not an index")
    with pytest.raises(ValueError, match=r"index\.faiss is damaged"):
        Map.load(tmp_path / "here")


def test_a_scene_without_retrieval_uses_every_image() -> None:
    each = {"here": build(vocabulary=0), "there": build(walls=OTHER, vocabulary=0)}
    found = Localizer(Map.merge(each)).localize_detailed(render(QUERY), CAMERA)
    assert found.scene == "here" and [len(c.views) for c in found.clusters] == [4, 4]
    assert np.linalg.norm(found.estimate.cam_from_world - QUERY) < 0.05
    assert len(POSES) == 4


def test_salad_finds_the_scene() -> None:
    """The small network with drawn weights: that it plugs in, not how good it is."""
    pytest.importorskip("torch")
    from pyloc_core import models
    from pyloc_core.models.salad.head import HEADS

    options = {"backbone": "vits14", **HEADS["512+32"], "hidden": 48, "size": 84}
    salad = models.create("salad", seed=2, **options)
    each = {
        "here": build(global_descriptor=salad, max_views=1),
        "there": build(walls=OTHER, global_descriptor=salad, max_views=1),
    }
    merged = Map.merge(each)
    assert (
        merged.global_descriptors.shape == (8, 544) and merged.global_descriptor["name"] == "salad"
    )
    localizer = Localizer(merged, global_descriptor=models.create("salad", seed=2, **options))
    found = localizer.localize_detailed(render(QUERY, OTHER), CAMERA)
    assert found.scene == "there" and found.estimate.success
    with pytest.raises(ValueError, match="the map's global descriptor is"):
        Localizer(merged, global_descriptor=models.create("salad", seed=3, **options))
