"""Networks within a budget where something is in the way: images that are gone, other heads, shuffled channels, a stop."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subspect
from conftest import PIXELS, write_images
from prunable import PIXELS_IN, Plain
from subspect import Network, SubspectError
from subspect.giving.distil import Plans
from subspect.giving.images_of_classes import ImagesOfClasses
from subspect.giving.training import Run
from subspect.shrinking.cost import Multiplications, times_of_layers
from subspect.shrinking.shrink import Plan, shrink
from subspect.shrinking.tied import Tied, can_be_cut, means_read
from subspect.shrinking.traced import Untraceable, at_size_within, branches, traced
from subspect.shrinking.worth import Images, Worth
from subspect.studies.same_network import same_network

IMAGES = Images(torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3)


class Case:
    """A study with image sets to choose by and to measure on."""

    def __init__(
        self, folder: Path, model: nn.Module | None = None, measured: tuple[str, ...] = ("a", "b", "c")
    ) -> None:
        self.train = write_images(folder / "train", ("a", "b", "c"), 20, 0)
        self.test, self.network = write_images(folder / "test", measured, 9, 1), Network(model or Plain())
        options: dict[str, Any] = {"class_map": {"c": 2}} if len(measured) < 3 else {}
        subspect.observe(self.network, self.train, folder / "study", "train", show_progress=False)
        self.study = subspect.observe(self.network, self.test, folder / "study", "test", show_progress=False, **options)
        self.made = subspect.decompose(self.study, 2, on="train", draws=0, show_progress=False)

    def within(self, **options: Any) -> subspect.Specialised:
        given = {"budget": 0.8, "rounds": 0, "sample": 30, "show_progress": False, **options}
        return subspect.specialise(self.study, self.made, network=self.network, **given)

    def learning(self, folder: Path, **settings: Any) -> dict[str, Any]:
        return {
            "train": self.train,
            "folder": folder,
            "settings": {"epochs": 2, "batch_size": 8, "rate": 0.001, "held_out": 0.2, **settings},
        }


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_where_no_image_that_is_measured_on_is_of_the_wanted_classes(tmp_path: Path) -> None:
    found = Case(tmp_path, measured=("c",)).within(classes=["a", "b"])
    assert found.asked and not found.among


def test_images_to_measure_on_that_are_gone_cost_no_training(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case.test.rename(tmp_path / "elsewhere")
    found = case.within(**case.learning(tmp_path / "small"))
    assert found.trained is not None and set(found.among) == {"dense", "decomposed"}
    assert "the images of 'test' can't be opened again, so the small network's accuracy isn't measured" in caplog.text


def test_where_memory_is_short_fewer_images_are_taken(
    case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "subspect")
    monkeypatch.setattr("subspect.giving.images_of_classes.budget", lambda: 4 * 25 * 3 * 8 * 8 * 4)
    network = same_network(case.study, case.network)
    chunks = case.study.image_set("train").chunks()
    assert len(ImagesOfClasses(case.study, network, [0, 1, 2], "train", chunks).drawn(60).own) == 50
    assert "50 of 60 images are taken, as many as memory has room for" in caplog.text


def test_what_was_set_apart_to_measure_on_weighs_no_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(Plain())
    images = write_images(tmp_path / "train", ("a", "b", "c"), 20, 0)
    study = subspect.observe(network, images, tmp_path / "study", "train", show_progress=False)
    made = subspect.decompose(study, 2, draws=0, show_progress=False)  # a fifth of the only image set is held out
    listed, read = [], ImagesOfClasses.read

    def seen(self: ImagesOfClasses, wanted: Any = None) -> Any:
        listed.append({id for id, _ in self.all})
        return read(self, wanted)

    monkeypatch.setattr(ImagesOfClasses, "read", seen)
    found = made.specialise(network, budget=0.8, rounds=0, sample=30, show_progress=False)
    tried, weighed, measured = listed
    assert tried == measured and not weighed & measured and len(weighed | measured) == 60
    assert found.note.startswith(f"{len(measured)} images") and set(found.among) == {
        "dense",
        "decomposed",
        "small, before recovery",
        "small",
    }


class Tokens(nn.Module):
    """A head that says something of each of four places, of which the mean counts."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.cut, self.wide, self.back = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 24), nn.Linear(24, 16)
            self.fc = nn.Linear(16, 3)
        self.preprocessing = PIXELS

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2)
        out: Tensor = self.fc(x + self.back(self.wide(x).relu())).mean(1)
        return out


class Scaled(Plain):
    """The head is a layer by a factor."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


@pytest.mark.parametrize(("model", "why"), [(Tokens, "several places of an image"), (Scaled, "no single linear layer")])
def test_a_head_that_is_no_plain_layer_is_told_before_anything_else(
    model: Callable[[], nn.Module], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(tmp_path, model())
    found = case.within(**case.learning(tmp_path / "small"))
    assert not found.asked and why in found.reason and not (tmp_path / "small").exists()
    assert "It isn't narrowed to 0.8 of the multiplications or trained, since its head" in caplog.text
    assert found.to_json()["reason"] == found.reason


def test_a_head_with_one_logit(tmp_path: Path) -> None:
    class YesNo(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 1)

    x = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = (YesNo()(x)[:, 0] > 0).long()
    network = Network(YesNo(), class_names=["no", "yes"])
    study = subspect.observe(network, (x, labels), tmp_path / "study", show_progress=False)
    made = subspect.decompose(study, 4, draws=0, show_progress=False)
    found = made.specialise(network, images=x, rounds=0, budget=0.7, show_progress=False)
    assert not found.asked and "its head has a single logit" in found.reason


def test_weights_in_double_precision_are_refused(tmp_path: Path) -> None:
    case = Case(tmp_path, Plain().double())
    with pytest.raises(
        SubspectError, match=r"weights of torch.float64, .* observe model.float\(\) in a study of its own"
    ):
        case.within()


class Shuffled(nn.Module):
    """Channels of two groups are dealt in turn; some are dead."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.c, self.fc = (
                nn.Conv2d(3, 16, 3),
                nn.Conv2d(16, 8, 3),
                nn.Conv2d(8, 8, 1),
                nn.Linear(8, 3),
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        out: Tensor = self.fc(self.c(self.b(x).relu()).relu().mean((2, 3)))
        return out


def test_channels_that_are_shuffled_stay() -> None:
    model = traced(Shuffled(), PIXELS_IN[:2])
    assert {group.root for group in Tied(model, PIXELS_IN[:1], "fc").groups} == {"a", "b", "c"}
    before = {name: one.clone() for name, one in model.state_dict().items()}
    assert {group.root for group in can_be_cut(model, PIXELS_IN[:2], "fc")} == {"b", "c"}
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    plan = shrink(model, "fc", IMAGES, 0.8, Multiplications(model, "fc", PIXELS_IN), step=2)
    assert {root for one in plan.rounds for root in one.channels} <= {"b", "c"}


def test_a_layer_that_makes_several_channels_of_each_stays() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    assert [group.root for group in can_be_cut(traced(model, PIXELS_IN[:2]), PIXELS_IN[:2], "8")] == ["4"]


class Twice(nn.Module):
    """A block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 24, 1), nn.Conv2d(24, 16, 1)
            self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = x + self.b(self.a(x).relu())
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def test_a_layer_that_runs_twice_leaves_its_mean_behind_once() -> None:
    model = traced(Twice(), PIXELS_IN[:2])
    with torch.no_grad():
        first, a, b = (model.get_submodule(name) for name in ("first", "a", "b"))
        x = first(IMAGES.pixels)
        read = [a(x).relu()]
        read.append(a(x + b(read[0])).relu())
    wanted = torch.stack(read).mean((0, 1, 3, 4))
    torch.testing.assert_close(means_read(model, torch.split(IMAGES.pixels, 7))["b"], wanted, rtol=1e-4, atol=1e-5)
    counts = Multiplications(model, "fc", PIXELS_IN).by_layer(model)
    assert {name: spent.whole for name, spent in counts.items()} == {
        "first": 64 * 48,
        "a": 2 * 64 * 16 * 24,
        "b": 2 * 64 * 24 * 16,
    }


def test_a_norm_without_weights_is_timed_with_what_comes_before() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    )
    assert times_of_layers(traced(model, PIXELS_IN[:2]), "5", PIXELS_IN, runs=1).keys() == {"0", "5"}


def test_layers_with_another_number_of_rows_than_images_are_not_weighed() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.conv(x.reshape(-1, 1, 8, 8)).mean((2, 3)).reshape(-1, 24))
            return out

    with pytest.raises(Untraceable, match="no layer before its head has a row for each image"):
        Worth(traced(Folded(), PIXELS_IN[:2]), "fc", IMAGES)


def test_of_a_sum_only_one_side_goes() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.a, self.b, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc((self.a(x) + self.b(x)).relu().mean((2, 3)))
            return out

    model = traced(Sum(), PIXELS_IN[:2])
    assert len(branches(model)) == 2
    plan = shrink(model, "fc", IMAGES, 0.55, Multiplications(model, "fc", PIXELS_IN), step=4)
    assert [len(one.branches) for one in plan.rounds] == [1]


def test_a_layer_that_is_called_resized_is_left_alone() -> None:
    class Named(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.resized = nn.Conv2d(3, 3, 1)

        def pooled(self, x: Tensor) -> Tensor:
            return super().pooled(self.resized(x))

    model = traced(Named(), PIXELS_IN[:2])
    before = model(PIXELS_IN)
    with at_size_within(model, (6, 6)):
        assert not torch.equal(model(PIXELS_IN), before)
    assert torch.equal(model(PIXELS_IN), before)


def test_very_small_budgets_get_the_rounds_that_they_take() -> None:
    wide = nn.Sequential(
        *(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(128, 3),
    )
    model, few = traced(wide, PIXELS_IN[:2]), Images(IMAGES.pixels[:6], IMAGES.own[:6])
    cost = Multiplications(traced(wide, PIXELS_IN[:2]), "6", PIXELS_IN)
    shrink(model, "6", few, 0.015, cost, step=2)
    assert cost(model) <= 0.015


def test_where_nothing_can_go_no_smaller_budget_is_proposed() -> None:
    model = traced(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), PIXELS_IN[:2])
    with pytest.raises(Untraceable):
        shrink(model, "1", IMAGES, 0.5, Multiplications(model, "1", PIXELS_IN))
    narrow = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = traced(narrow, PIXELS_IN[:2])
    with pytest.raises(SubspectError, match=r"1 is left; ask for none: it has no channels"):
        shrink(model, "4", IMAGES, 0.5, Multiplications(model, "4", PIXELS_IN), step=4)


def test_a_time_is_a_share_of_that_of_the_network_with_all_its_classes(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, shares = list[Any](), iter([0.6, 0.5])

    class Timed(Multiplications):
        def __init__(self, whole: nn.Module, head: str, pixels: Tensor, *_: object) -> None:
            super().__init__(traced(whole, pixels[:2]), head, pixels)
            given.append(whole)

        def __call__(self, _: object) -> float:
            return next(shares)

    monkeypatch.setattr("subspect.giving.budget.Time", Timed)
    found = case.within(budget=None, times_as_fast=1.6, classes=["a", "b"])  # fewer classes take less: that is enough
    assert given == [case.network.model] and found.asked == "1 / 1.6 of the time"
    assert next(shares) == 0.5 and not found.widths and not found.branches and found.size is None


def test_a_training_that_is_stopped_ends_as_it_would_have(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = case.within(**case.learning(tmp_path / "whole"))
    learn, count = Run._learn, 0

    def killed(self: Run, *given: object) -> None:
        nonlocal count
        count += 1
        if count in (3, 8):
            raise KeyboardInterrupt
        learn(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_learn", killed)
        patch.setattr("subspect.giving.training._EVERY", -1)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                case.within(**case.learning(tmp_path / "stopped"))
        again = case.within(**case.learning(tmp_path / "stopped"))
    assert whole.trained is not None and again.trained is not None and again.trained.epochs == whole.trained.epochs
    assert torch.equal(again.model(PIXELS_IN), whole.model(PIXELS_IN))
    # A state knows what was taken out: that of another plan is none of this training's.
    (tmp_path / "stopped" / "plan.json").unlink()
    monkeypatch.setattr("subspect.giving.budget.shrink", lambda *_: Plan())
    with pytest.raises(SubspectError, match="choose another folder"):
        case.within(**case.learning(tmp_path / "stopped"))


def test_narrowing_goes_on_where_it_was_stopped(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case.within(budget=0.4, **case.learning(tmp_path / "whole"))
    write, rounds = Plans.write, []

    def stopped(self: Plans, plan: Plan, done: bool = False) -> None:
        write(self, plan, done)
        rounds.append(len(plan.rounds))
        if len(rounds) in (2, 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plans, "write", stopped)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                case.within(budget=0.4, **case.learning(tmp_path / "stopped"))
        again = case.within(budget=0.4, **case.learning(tmp_path / "stopped"))
    assert rounds == [*range(1, rounds[-1] + 1), rounds[-1]] and rounds[-1] >= 3
    plans = [(tmp_path / name / "plan.json").read_bytes() for name in ("whole", "stopped")]
    assert plans[0] == plans[1] and torch.equal(again.model(PIXELS_IN), whole.model(PIXELS_IN))
    (tmp_path / "stopped" / "state.safetensors").unlink()  # as is said: what was taken out stays, to train anew
    with monkeypatch.context() as patch:
        patch.setattr("subspect.giving.budget.shrink", None)
        other = case.within(budget=0.4, **case.learning(tmp_path / "stopped", epochs=1))
    assert other.trained is not None and len(other.trained.epochs) == 1


def test_a_network_that_no_epoch_makes_better_stays_as_it_was(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shares = iter([0.9, 0.8, 0.9])  # before, and after each epoch: of equals the start is kept
    monkeypatch.setattr("subspect.giving.training._share", lambda *_: next(shares))
    found = case.within(**case.learning(tmp_path / "small"))
    assert found.trained is not None and found.trained.best == 0 and found.trained.start == 0.9
    assert found.among["small"] == found.among["small, before training"]
    assert "no epoch is nearer to the teacher than the network was before" in caplog.text
    assert found.to_json()["trained"]["best"] == 0


def test_of_epochs_alike_the_last_is_kept_where_a_teacher_is_learned_from(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.9, 0.9, 0.8])
    monkeypatch.setattr("subspect.giving.training._share", lambda *_: next(shares))
    found = case.within(**case.learning(tmp_path / "small", epochs=3))
    assert found.trained is not None and found.trained.best == 2
    assert [epoch.held_out for epoch in found.trained.epochs] == [0.9, 0.9, 0.8]


def test_images_that_cannot_be_learned_from_are_told(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = sorted(case.train.glob("a/*.png"))[3]
    damaged = tmp_path / "damaged"
    shutil.copytree(case.train, damaged)
    (damaged / "a" / path.name).write_bytes(path.read_bytes()[:60])
    case.within(**{**case.learning(tmp_path / "small"), "train": damaged})
    assert re.search(
        rf"small: 1 of \d\d images could not be used, and were left out: a/{path.name} \(.+\)", caplog.text
    )


def test_what_is_in_the_way_of_a_training_is_told_before_it_is_narrowed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("narrowed")

    case.within(**case.learning(tmp_path / "small"))
    monkeypatch.setattr("subspect.giving.budget.narrowed", never)
    for changed, other in (({"seed": 1}, "seed"), ({"epochs": 3, "flip": True}, "epochs, flip")):
        with pytest.raises(
            SubspectError, match=f"with other {other}; choose another folder, or delete state.safetensors"
        ):
            case.within(**case.learning(tmp_path / "small", **changed))
    fewer = {**case.learning(tmp_path / "small"), "train": case.test}
    with pytest.raises(SubspectError, match="a training with other images; choose another folder"):
        case.within(**fewer)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "log.json").write_text("mine")
    with pytest.raises(SubspectError, match=r"log.json"):
        case.within(**case.learning(tmp_path / "full"))
    with pytest.raises(SubspectError, match="60 images are too few"):
        case.within(**case.learning(tmp_path / "few", batch_size=64))
    for settings, text in (
        ({"epoch": 1}, r"settings have no epoch \(did you mean 'epochs'\?\); give only epochs, batch_size"),
        ({"layers": ("fc",)}, "give no layers and no without_cues"),
        ({"without_cues": ("border",)}, "give no layers and no without_cues"),
    ):
        with pytest.raises(SubspectError, match=text):
            case.within(**case.learning(tmp_path / "none", **settings))
    for options in ({"settings": {"epochs": 1}}, {"class_map": {"a": 0}}, {"folder": tmp_path / "none"}):
        with pytest.raises(SubspectError, match="settings or class_map only with them"):
            case.within(**options)
    assert not (tmp_path / "none").exists()
