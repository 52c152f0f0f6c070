"""What `subspect show` says of the cues that a study keeps."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

import subspect
from commands import command, parsed
from kept import keep_cues
from subspect import Study
from subspect.swapping.moved import lost_by, lost_through, moved_by
from subspect.swapping.stored import kept_cues


def test_show_says_whether_cues_are_kept(study: Study) -> None:
    assert parsed(f"show {study.path}")["cues"] is None
    made = subspect.decompose(study, 2)
    line = f"show {study.path}"
    needed = f"subspect cues {study.path} --decomposition {made.name} --network …"
    assert f"{made.name}: no cues are kept; measure what its classes rest on: {needed}" in command(line).stdout
    assert parsed(line)["cues"] is None
    keep_cues(study, made, {"border": {0: 1.0}, "colour": {}}, left_out={"grain": "it takes more pixels"})
    told = command(line).stdout
    assert f"{made.name}: cues are kept of 30 of 90 images of 'train': border, colour" in told
    assert parsed(line)["cues"] == {
        "names": ["border", "colour"],
        "left_out": {"grain": "it takes more pixels"},
        "images": 30,
        "note": "30 of 90 images of 'train'",
    }
    feature = int(made.supports[0][0])
    through = {"border": {(0, feature): 0.25}, "place": {(0, feature): 1.0}}
    keep_cues(study, made, {"border": {}, "place": {}}, through=through)
    own = f"{line} --decomposition {made.name} --class {made.class_names[0]}"
    assert (
        f"\nlost through {feature}: border 0.25\n(by cues that are swapped, in median margins)\n" in command(own).stdout
    )
    assert parsed(own)["lost_through"][0][str(feature)] == {"border": 0.25}
    other = subspect.decompose(study, 1)
    assert "no cues are kept" in command(f"{line} --decomposition {other.name}").stdout
    assert parsed(f"{line} --decomposition {made.name}")["cues"]["images"] == 30
    unmeasured = f"{line} --decomposition {other.name} --class {made.class_names[0]}"
    assert "lost through" not in command(unmeasured).stdout and parsed(unmeasured)["lost_through"] == [None]


def test_what_a_class_rests_on_comes_first(study: Study) -> None:
    made = subspect.decompose(study, 2)
    through = {
        "detail": {(0, 1): 0.9},
        "corner-top-left": {(0, 1): 0.2},
        "place": {(0, 1): 2.0},
        "border": {(0, 1): 0.04},
    }
    loss = {"detail": 0.5, "corner-top-left": 1.5, "place": 2.0, "border": 2.0}
    keep_cues(study, made, {name: {0: value} for name, value in loss.items()}, through=through)
    cues = kept_cues(study, made)
    assert cues is not None and lost_through(cues, 0, 1) == [("corner-top-left", 0.2), ("detail", 0.9)]
    assert lost_by(cues, 0) == [("border", 2), ("corner-top-left", 1.5), ("detail", 0.5)]
    assert lost_by(cues, 0, things=True) == [("place", 2)]


def test_a_share_of_the_variance_is_at_most_all_of_it() -> None:
    assert moved_by([("layout", 1.2), ("border", 0.4)]) == "layout ≥ 100 %, border 40 %"


def test_a_study_of_features_alone_has_none(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 4))
    path = tmp_path / "features alone"
    study = subspect.from_features(x, np.eye(3, 4), None, path, labels=np.arange(60) % 3, show_progress=False)
    made = subspect.decompose(study, 2)
    said = command(f"show {shlex.quote(str(path))}").stdout
    assert f"{made.name}: no cues, as the study was made from features alone" in said
