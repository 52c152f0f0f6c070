"""Labels that become class indices by parts of their names: WordNet ids, names behind numbers, leading numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Tiny, write_images
from subspect import Network, SubspectError, observe
from subspect.images.folders import Files
from subspect.images.imagenet import classes, in_words, places
from subspect.images.labels import match_classes, numbered
from subspect.images.sources import ClassMatch

IDS, NAMES = list(classes()), list(classes().values())


def labelled(*names: str, kind: str = "folder") -> Files:
    """Images, one for each name; the files are never opened."""
    return Files(kind, Path("root"), [f"{name}/1.png" for name in names], names)


def placed(match: ClassMatch) -> dict[str, int]:
    assert match.index is not None
    return dict(match.index)


def folder(index: int) -> str:
    return f"{index:04d}_{IDS[index]}_{NAMES[index].replace(' ', '_')}"


TEN = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_ids_and_names_are_timms_and_torchvisions(zoos: None) -> None:
    from timm.data import ImageNetInfo
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert ImageNetInfo().label_names() == IDS and _IMAGENET_CATEGORIES == NAMES
    assert len(set(NAMES)) == 1000
    for names in (ImageNetInfo().label_descriptions(), NAMES, IDS, None):
        assert places(1000, names) == {id: index for index, id in enumerate(IDS)}
        assert placed(match_classes(labelled(*map(folder, range(1000))), 1000, names)) == {
            folder(index): index for index in range(1000)
        }


def test_imagenet_21k_where_timm_is_loaded(zoos: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data import ImageNetInfo

    for subset in ("imagenet-22k", "imagenet-21k-goog", "imagenet-21k-miil", "imagenet-12k"):
        info = ImageNetInfo(subset)
        ids, names = info.label_names(), info.label_descriptions()
        match = match_classes(labelled(ids[7], f"0_{ids[-1]}"), len(ids), names)
        assert placed(match) == {ids[7]: 7, f"0_{ids[-1]}": len(ids) - 1} and match.names == tuple(names)
    assert places(11821, None) == {} and len(places(11821, names)) == 11821 and len(places(11821, names[::-1])) < 900
    monkeypatch.delitem(sys.modules, "timm.data")
    assert len(places(11821, names)) < 900


def test_some_of_imagenets_classes_without_a_map() -> None:
    for names in (None, NAMES, IDS, numbered(1000)):
        match = match_classes(labelled(*map(folder, TEN)), 1000, names)
        assert placed(match) == {folder(index): index for index in TEN}
        assert match.names == tuple(NAMES) and match.how.startswith("by WordNet id")
    assert match.how == "by WordNet id; the network's 1,000 classes have no names and are taken to be ImageNet's"
    match = match_classes(labelled("English_springer", "chain-saw", "TENCH"), 1000, NAMES)
    assert placed(match) == {"English_springer": 217, "chain-saw": 491, "TENCH": 0} and match.how == "by name"


def test_a_synonym_among_a_classes_names() -> None:
    names = ["tench, Tinca tinca", "missile", "projectile, missile", "crane", "crane, bird"]
    match = match_classes(labelled("tench", "missile", "PROJECTILE", "bird"), 5, names)
    assert placed(match) == {"tench": 0, "missile": 1, "PROJECTILE": 2, "bird": 4}
    names[1] = "rocket, missile"
    with pytest.raises(SubspectError, match="^duplicate class names can't be matched: missile; pass a class map$"):
        match_classes(labelled("tench", "missile"), 5, names)


def test_networks_of_a_few_of_imagenets_classes() -> None:
    names = [IDS[217], IDS[0], IDS[701]]
    for known in (names, in_words(names), ["English springer, English springer spaniel", "Tench", "parachute, chute"]):
        match = match_classes(labelled(folder(0), f"{IDS[701]}"), 3, known)
        assert placed(match) == {folder(0): 1, IDS[701]: 2}
        assert match.names == (tuple(known) if "Tench" in known else ("English springer", "tench", "parachute"))
    assert places(3, ["crane bird", "boat", "crane bird"]) == {}
    assert places(2, None) == {} and in_words(["n01440764", "boat"]) == ("n01440764", "boat")


def test_by_name_behind_a_number() -> None:
    match = match_classes(labelled("01 dog", "2-cat"), 3, ["cat", "dog", "horse"])
    assert (placed(match), match.how) == ({"01 dog": 1, "2-cat": 0}, "by WordNet id or name")


def test_by_leading_number() -> None:
    match = match_classes(labelled("07_n01440764_fish", "11", "03-a_cat"), 12)
    assert placed(match) == {"07_n01440764_fish": 7, "11": 11, "03-a_cat": 3} and match.how == "by leading number"
    assert match.names[:8] == (*numbered(3), "a_cat", *numbered(7)[4:], "fish") and match.names[11] == "11"
    match = match_classes(labelled("0217_English_springer", "0000_tench"), 1000)
    assert match.index == {"0217_English_springer": 217, "0000_tench": 0}
    assert (match.names[0], match.names[1], match.how) == ("tench", "class 1", "by leading number")
    assert placed(match_classes(labelled("1_Hund"), 2, ["cat", "dog"])) == {"1_Hund": 1}


@pytest.mark.parametrize(
    ("found", "n_classes"),
    [
        (("07_a", "8_b"), 12),  # of two widths
        (("7_a", "8_b"), 12),  # not padded to the last index
        (("07_a", "12_b"), 12),  # no such class
        (("07_a", "b"), 12),  # not all of them
        (("07_a", "07_b"), 12),  # the same twice
        (("07a", "08b"), 12),  # part of a word
        (("٠٧_a", "٠٨_b"), 12),
        (("2012_cars", "2013_cars"), 21841),
        (("0" * 5000 + "1", "9" * 5001), 12),
    ],
)
def test_no_leading_number(found: tuple[str, ...], n_classes: int) -> None:
    with pytest.raises(SubspectError, match=r"expected one per class; pass --class-map FILE"):
        match_classes(labelled(*found), n_classes)


def test_two_readings_are_refused() -> None:
    known = [f"name {index}" for index in range(1000)]
    known[:3], cases = ["cat", "dog", "horse"], dict[tuple[str, ...], tuple[object, str]]()
    both = r"of the network's class|1 of 2 class folders or labels can be read as two classes: "
    cases[f"0001_{IDS[0]}", folder(217)] = (
        None,
        rf"'0001_{IDS[0]}' is class 0 \(tench\) by WordNet id, but class 1 \(gold",
    )
    cases["001_cat", "002_horse"] = (
        known,
        r"'001_cat' is class 0 \(cat\) by WordNet id or name, but class 1 \(dog\) by lead",
    )
    cases["001_cat", "002_fish"] = (
        known,
        r"'001_cat' is class 1 \(dog\) by leading number, but class 0 \(cat\) by WordNet id",
    )
    cases["0001_n99999999", folder(2)] = (
        None,
        r"'0001_n99999999' is class 1 \(.*\) by leading number, but none of the net",
    )
    for found, (names, message) in cases.items():
        with pytest.raises(SubspectError, match=both + message):
            match_classes(labelled(*found), 1000, names)  # type: ignore[arg-type]
    with pytest.raises(SubspectError, match=r"pass --class-map FILE \(name → class index\), or --class-map sorted if"):
        match_classes(labelled(*found), 1000)
    turned = [f"{index:03d} {IDS[999 - index]}" for index in range(1000)]
    with pytest.raises(SubspectError, match="by WordNet id, but class 0 .* by sorted order"):
        match_classes(labelled(*turned), 1000)
    assert placed(match_classes(labelled(*turned), 1000, class_map="sorted"))[turned[7]] == 7
    with pytest.raises(SubspectError, match=f"several class folders stand for the same class: a {IDS[3]}, b {IDS[3]};"):
        match_classes(labelled(f"a {IDS[3]}", f"b {IDS[3]}"), 1000)


def test_ids_that_the_network_does_not_know() -> None:
    with pytest.raises(
        SubspectError, match=r"2 of 2 class folders .* 1000 class names: 'n99999998', 'n99999999'; rename"
    ):
        match_classes(labelled("n99999999", "n99999998"), 1000, NAMES)
    with pytest.raises(SubspectError, match=r"expected one per class"):
        match_classes(labelled("n99999999", f"{IDS[0]}_{IDS[1]}"), 1000)


FOUND = st.sets(
    st.tuples(
        st.sampled_from(["", "0", "1", "2", "02", "3", "0003", "0217"]),
        st.sampled_from(["", IDS[0], IDS[2], "n99999999"]),
        st.sampled_from(["", "cat", "dog", "horse", "tench"]),
    ).filter(any),
    min_size=1,
    max_size=4,
)


@given(found=FOUND, order=st.permutations(["cat", "dog", "horse", "fox"]))
@settings(deadline=None)
def test_what_a_folder_says_is_never_overruled(found: set[tuple[str, str, str]], order: list[str]) -> None:
    """A class name in a folder's name is its class or an error; without one it is a leading number's class."""
    parts = {"_".join(filter(None, one)): one for one in found}
    try:
        match = match_classes(labelled(*parts), 4, order)
    except SubspectError:
        return
    assert len(set(placed(match).values())) == len(parts)
    for name, place in placed(match).items():
        number, _, word = parts[name]
        assert place == (order.index(word) if word in order else int(number))


@given(found=FOUND)
@settings(deadline=None)
def test_as_many_folders_as_classes_go_in_sorted_order(found: set[tuple[str, str, str]]) -> None:
    """A network without names and a folder for each class: sorted order, whatever the folders are called."""
    names = sorted({"_".join(filter(None, one)) for one in found})
    assert placed(match_classes(labelled(*names), len(names))) == {name: index for index, name in enumerate(names)}


def test_a_study_of_imagenets_classes_by_folder_names_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = Network(Tiny(n_classes=1000))
    write_images(tmp_path / "train", [folder(index) for index in TEN[:3]], each=2)
    write_images(tmp_path / "test", [NAMES[0], NAMES[999]], each=2, seed=1)
    with caplog.at_level("INFO", "subspect"):
        observe(network, tmp_path / "train", tmp_path / "study", show_progress=False)
    assert (
        "labels: by WordNet id; the network's 1,000 classes have no names and are taken to be ImageNet's" in caplog.text
    )
    study = observe(network, tmp_path / "test", tmp_path / "study", "test", show_progress=False)
    assert study.identity.class_names == tuple(NAMES)
    labels = [sorted(set(next(study.image_set(name).chunks()).labels.tolist())) for name in ("train", "test")]
    assert labels == [TEN[:3], [0, 999]]
