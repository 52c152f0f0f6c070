"""What is summed, observed or chosen is the same to the bit whoever does which piece, in which order, and however often."""

from __future__ import annotations

import http.server
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import subspect
from conftest import Tiny, write_images
from elsewhere import files, wait_for
from shuffled import Shuffled
from subspect import Network, Study, SubspectError, engine, observe
from subspect.cli import app
from subspect.ground import actors, clusters
from subspect.ground.engines import forget, in_order, on_engine, sharing, soon, using
from subspect.ground.errors import MissingExtra
from subspect.studies.blocks import Given, Kept, Mapped, merged, total
from subspect.studies.rows import Rows


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small blocks, none too small to be sent."""
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 8)
    monkeypatch.setattr("subspect.studies.rows._ROWS", 16)
    monkeypatch.setattr("subspect.studies.blocks.SMALL", -1)


# Sums -----------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e9, 1e9), max_size=5), max_size=70), st.integers(1, 40), st.integers(0, 10))
def test_a_sum_is_the_same_to_the_bit_by_any_engine(values: list[list[float]], runs: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.studies.blocks.RUNS", runs)
        patch.setattr("subspect.studies.blocks.SMALL", -1)

        def add(so_far: tuple[float, int, list[float]], block: list[float]) -> tuple[float, int, list[float]]:
            return so_far[0] + sum(block), so_far[1] + len(block), [*so_far[2], *block]

        found = total(values, lambda: (0.0, 0, []), add)
        with using(Shuffled(seed)):
            again = total(values, lambda: (0.0, 0, []), add)
    assert found == again
    everything = [value for block in values for value in block]
    assert found[1:] == (len(everything), everything)
    assert found[0] == pytest.approx(sum(everything), abs=1e-3)


def test_sums_of_all_kinds_are_joined() -> None:
    assert merged(1, 2) == 3
    assert merged((1, [1.0]), (2, [2.0])) == (3, [1.0, 2.0])
    one = np.arange(3)
    assert merged(one, np.ones(3, np.int64)) is one and one.tolist() == [1, 2, 3]


def test_there_are_never_more_sums_than_the_whole_and_a_part() -> None:
    class Sum:
        alive = most = 0

        def __init__(self) -> None:
            Sum.alive += 1
            Sum.most = max(Sum.most, Sum.alive)

        def __del__(self) -> None:
            Sum.alive -= 1

        def __iadd__(self, other: Sum) -> Sum:
            return self

    total(list(range(100)), Sum, lambda so_far, _: so_far)
    assert Sum.most <= 2


def test_results_come_in_order_and_what_is_kept_is_let_go() -> None:
    blocks = Mapped(Given([1, 2, 3]), float, 1, memory=1)
    sent = ray.cloudpickle.dumps(blocks)
    first, second = ray.cloudpickle.loads(sent), ray.cloudpickle.loads(sent)
    assert first is second and first is not blocks and list(first) == [1.0, 2.0, 3.0]
    name = vars(blocks)["_sent_as"]
    forget([name, "nothing"])
    assert ray.cloudpickle.loads(sent) is not first

    def work(pieces: Iterable[int]) -> Iterator[int]:
        return (10 * piece for piece in pieces)

    with using(Shuffled(3)):
        assert list(in_order(work, range(9))) == [10 * piece for piece in range(9)]
        assert sorted(on_engine(work, [4, 2])) == [(2, 20), (4, 40)]


# Everything after observing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"k": 2}, {"k": "auto"}, {"k": 2, "method": "frequency", "refit": True}])
@pytest.mark.usefixtures("small")
def test_decompositions_and_their_cost_are_the_same_by_any_engine(study: Study, how: dict[str, Any]) -> None:
    one = study.decompose(**how, show_progress=False)
    one = one[0] if isinstance(one, list) else one
    cost = one.evaluate(on="test")
    (study.path / "decompositions" / f"{one.name}.safetensors").unlink()
    with using(Shuffled(1)):
        other = study.decompose(**how, show_progress=False)
        other = other[0] if isinstance(other, list) else other
        again = other.evaluate(on="test")
    assert one.to_json() == other.to_json()
    assert torch.equal(one.weights, other.weights) and torch.equal(one.bias, other.bias)
    assert cost == again


@pytest.mark.usefixtures("small")
def test_cues_are_the_same_by_any_engine(study: Study) -> None:
    decomposition = study.decompose(2, show_progress=False)
    network = Network(Tiny())
    whole = decomposition.cues(network, cues=["border", "colour"], show_progress=False)
    (study.path / "cues" / f"{decomposition.name}.safetensors").unlink()
    with using(Shuffled(2)):
        again = decomposition.cues(network, cues=["border", "colour"], show_progress=False)
    assert whole.to_json() == again.to_json()


# Ray ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined() -> Iterator[None]:
    """A cluster of this machine, for all tests of this file."""
    ray.init(num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


class Killed(Tiny):
    """A network whose process is killed in the middle of some shards, once each; it notes how many images it has seen."""

    def __init__(self, folder: Path, at: Sequence[int]) -> None:
        super().__init__()
        self.folder, self.at, self.here = folder, at, os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.here:
            with (self.folder / "seen").open("a") as file:
                file.write(f"{len(x)}\n")
            images = sum(map(int, (self.folder / "seen").read_text().split()))
            for at in self.at:
                mark = self.folder / f"killed-{at}"
                if images >= at and not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@pytest.mark.usefixtures("joined", "small")
@pytest.mark.parametrize("shared", [True, False])
def test_actors_that_are_killed_change_nothing(tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_images(tmp_path / "images", each=40)
    (images / "b" / "005.png").write_text("not an image")
    observe(Network(Tiny()), images, tmp_path / "one", batch_size=4, max_failed=0.1)
    if not shared:
        monkeypatch.setattr("subspect.studies.filling.Filling.described", _blind)
    network = Network(Killed(tmp_path, (30, 60)), name="Tiny")
    with engine("ray", actors=2):
        observe(network, images, tmp_path / "two", batch_size=4, max_failed=0.1)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "killed-30").exists() and (tmp_path / "killed-60").exists()
    seen = sum(map(int, (tmp_path / "seen").read_text().split()))
    assert (
        119 <= seen <= 119 + 2 * 2 * 2 * 8
    )  # two kills, each of one actor with at most two shards, twice that for the race


def _blind(self: Any) -> dict[str, Any]:
    """Describe a filling to a process that doesn't see the folder."""
    return {**vars(self), "advance": lambda _: None, "away": True, "mark": "not there"}


@pytest.mark.usefixtures("joined", "small")
def test_one_two_and_three_actors_decompose_alike(study: Study) -> None:
    expected = study.decompose(2, show_progress=False)
    cost = expected.evaluate(on="test")
    for number in (1, 2, 3):
        (study.path / "decompositions" / f"{expected.name}.safetensors").unlink()
        with engine("ray", actors=number):
            found = study.decompose(2, show_progress=False)
            assert found.evaluate(on="test") == cost
        assert found.to_json() == expected.to_json() and torch.equal(found.weights, expected.weights)


@pytest.mark.usefixtures("joined")
def test_filters_by_actors(study: Study) -> None:
    decomposition, network = study.decompose(2, show_progress=False), Network(Tiny())
    whole = decomposition.filters(network, show_progress=False)
    (study.path / "filters" / f"{decomposition.name}.safetensors").unlink()
    with engine("ray", actors=2):
        again = decomposition.filters(network, show_progress=False)
    assert whole.to_json() == again.to_json()
    [one], [other] = whole.layers, again.layers
    assert one.effect.tobytes() == other.effect.tobytes() and one.peaks.tobytes() == other.peaks.tobytes()


@pytest.mark.usefixtures("joined")
def test_cues_by_actors_and_errors_of_the_work(study: Study, tmp_path: Path) -> None:
    decomposition = study.decompose(2, show_progress=False)
    network = Network(Tiny())
    whole = decomposition.cues(network, cues=["border"], show_progress=False)
    (study.path / "cues" / f"{decomposition.name}.safetensors").unlink()

    def work(pieces: Iterable[int]) -> Iterator[int]:
        for piece in pieces:
            if piece == 3:
                raise SubspectError("piece 3 has no images; take another")
            if piece == 5:
                raise ValueError("odd")
            yield piece

    def deaf(pieces: Iterable[int]) -> Iterator[int]:
        for _ in pieces:
            os.kill(os.getpid(), signal.SIGKILL)
            yield 0

    with engine("ray", actors=2):
        assert whole.to_json() == decomposition.cues(network, cues=["border"], show_progress=False).to_json()
        assert sorted(on_engine(work, [0, 1, 2])) == [(0, 0), (1, 1), (2, 2)]
        assert list(on_engine(work, [])) == []
        with pytest.raises(SubspectError, match="^piece 3 has no images; take another$"):
            list(on_engine(work, range(5)))
        with pytest.raises(ValueError, match="^odd") as told:
            list(on_engine(work, [5]))
        assert "in a Ray actor" in told.value.__notes__[0] and 'raise ValueError("odd")' in told.value.__notes__[0]
        with pytest.raises(
            SubspectError,
            match=r"5 actors were lost while they did the same piece of work, the 3\. of 3, .* of the last: .*died",
        ):
            list(on_engine(deaf, [2]))


class Unlike(Exception):
    """An error that can't be pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("unlike")


def test_errors_that_cannot_be_sent_are_told() -> None:
    assert repr(pickle.loads(actors.as_bytes(Unlike(1, 2)))) == "SubspectError('Unlike: unlike')"
    assert isinstance(pickle.loads(actors.as_bytes(KeyError("a"))), KeyError)


@pytest.mark.usefixtures("joined")
def test_memory_and_shares_in_actors() -> None:
    def work(pieces: Iterable[int]) -> Iterator[tuple[int, int]]:
        from subspect.ground.memory import budget

        return ((sharing(), budget()) for _ in pieces)

    with engine("ray", actors=2), subspect.memory_limit("100M"):
        assert [result for _, result in on_engine(work, [0])] == [(2, 100 * 2**20)]


@pytest.mark.usefixtures("joined")
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = actors.versions()
    monkeypatch.setattr(actors, "versions", lambda: {**own, "subspect": "9.9"})
    with (
        engine("ray", actors=1),
        pytest.raises(
            SubspectError, match=f"the Ray cluster has other versions.*subspect {own['subspect']} instead of 9.9;"
        ),
    ):
        list(on_engine(lambda pieces: iter(pieces), [1]))


def test_what_an_engine_may_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, about, message in (
        ("rai", {}, r"the engine \(--engine\) is one of local, ray; got 'rai' \(did you mean 'ray'\?\)"),
        ("local", {"actors": 2}, r"an address or a number of actors goes with the engine 'ray' \(--engine ray\)"),
        ("ray", {"actors": 0}, r"actors \(--actors\) must be a whole number of at least 1; got 0"),
        ("ray", {"address": "nowhere"}, r"'auto', HOST:PORT or ray://HOST:PORT; got 'nowhere'"),
        ("ray", {"address": 5}, r"the address \(--address\) of a Ray cluster is text; got 5"),
        ("ray", {"address": "a:b:c"}, r"'auto', HOST:PORT or ray://HOST:PORT; got 'a:b:c'"),
        ("ray", {"address": "127.0.0.1:1"}, r"no Ray cluster answers at '127.0.0.1:1' \(.*\); see that it runs"),
    ):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(SubspectError, match=message), engine(name, **about):
            pass
    with engine("local"):
        assert sharing() == 1
    found = CliRunner().invoke(app, ["decompose", "s", "-k", "5", "--address", "auto"])
    assert found.exit_code == 1 and "an address or a number of actors goes with the engine 'ray'" in found.output


def test_another_server_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        message = f"what answers at '{place}' is no Ray cluster: it doesn't speak gRPC; check the port"
        with pytest.raises(SubspectError, match=message), engine("ray", place):
            pass
        server.shutdown()


@pytest.mark.usefixtures("joined")
def test_a_cluster_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(pieces: Iterable[int]) -> Iterator[int]:
        for _ in pieces:
            os.kill(os.getpid(), signal.SIGKILL)
            yield 0

    monkeypatch.setattr(clusters, "_gone", lambda _: True)
    with (
        engine(actors=1),
        pytest.raises(
            SubspectError, match="the Ray cluster no longer answers; what was stored is kept: the same command"
        ),
    ):
        list(on_engine(work, [0]))


@pytest.mark.usefixtures("joined")
def test_a_cluster_is_there_and_no_more_actors_than_pieces(caplog: pytest.LogCaptureFixture) -> None:
    assert not clusters._gone(ray)
    with caplog.at_level(logging.INFO, logger="subspect"), engine(actors=3):
        list(on_engine(lambda pieces: iter(pieces), [1, 2]))
        list(on_engine(lambda pieces: iter(pieces), range(9)))
    assert caplog.messages == ["Ray: 2 of 3 actors start", "Ray: 1 of 3 actors start"]


@pytest.mark.usefixtures("joined")
def test_actors_that_start_before_there_is_work(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="subspect"), engine(actors=2):
        soon(0, gpu=False)
        assert caplog.messages == []
        soon(9, gpu=False)
        soon(9, gpu=False)
        list(on_engine(lambda pieces: iter(pieces), range(9)))
    assert caplog.messages == ["Ray: 2 of 2 actors start"]
    with engine(actors=2):  # no work comes, as where images turn out to be unusable meanwhile
        soon(9, gpu=True)
    with pytest.raises(SubspectError, match="the cluster has none; leave --device out"), engine(actors=2):
        soon(9, gpu=True)
        list(on_engine(lambda pieces: iter(pieces), range(9)))


def test_a_cluster_that_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError("it is\nbusy")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    for address, where in ((None, "on this machine"), ("auto", "at 'auto'")):
        message = f"no Ray cluster {where}: it is busy; start one with ray start --head .*RAY_AUTH_MODE=token"
        with pytest.raises(SubspectError, match=message), engine("ray", address):
            list(on_engine(lambda pieces: iter(pieces), [1]))


@pytest.mark.usefixtures("joined")
def test_more_actors_than_there_are_processors() -> None:
    with (
        pytest.raises(
            SubspectError,
            match=r"9 actors \(--actors\) need as many CPUs, and the cluster has 4; ask for no more",
        ),
        engine(actors=9),
    ):
        pass

    class OnGpu:
        gpu = True

        def __call__(self, pieces: Iterable[int]) -> Iterator[int]:
            return iter(pieces)

    with (
        engine(actors=1),
        pytest.raises(SubspectError, match=r"a GPU was asked for \(--device\), and the cluster has none"),
    ):
        list(on_engine(OnGpu(), [1]))


@pytest.mark.usefixtures("joined")
def test_actors_for_whom_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_START", 0.01)
    with (
        engine(actors=1),
        pytest.raises(SubspectError, match=r"no Ray actor of 1 could start within 0 seconds; free"),
    ):
        list(on_engine(lambda pieces: iter(pieces), [1]))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"the engine 'ray' needs the package 'ray'.*\[ray\]"), engine():
        pass


DRIVER = """
import importlib, sys
sys.path[:0] = {paths!r}
from elsewhere import Slow
import subspect
importlib.import_module("subspect.studies.shards")._SHARD_IMAGES = 8
with subspect.engine("ray", {address!r}, actors=2):
    subspect.observe(subspect.Network(Slow(0.2), name="Tiny"), {folder!r}, {study!r}, batch_size=4, show_progress=False)
"""


def wait_for_answer(port: int, seconds: float = 60) -> None:
    """Wait until something listens, and a moment more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            time.sleep(2)
            return
        time.sleep(0.1)


@pytest.mark.usefixtures("small")
def test_a_driver_that_is_killed_goes_on_by_itself_and_by_a_cluster_of_others(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", each=60)
    observe(Network(Tiny()), images, tmp_path / "one", batch_size=4)
    port = 6300 + os.getpid() % 600
    folder = f"/tmp/subspect-ray-{os.getpid()}"  # a short name, for sockets lie there
    about = {"num-cpus": 3, "port": port, "include-dashboard": "false", "temp-dir": folder}
    starting = [f"--{name}={value}" for name, value in about.items()]
    cluster = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--disable-usage-stats", *starting],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    try:
        wait_for_answer(port)
        source = DRIVER.format(
            paths=sys.path, address=f"127.0.0.1:{port}", folder=str(images), study=str(tmp_path / "two")
        )
        as_there = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        with (tmp_path / "said").open("w") as said:
            driver = subprocess.Popen([sys.executable, "-c", source], stderr=said, env=as_there)
        wait_for(tmp_path / "two" / "sets" / "train" / "00003.arrow", 180)
        driver.kill()
        driver.wait()
        done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.arrow")}
        assert 0 < len(done) < 23, (tmp_path / "said").read_text()[-2000:]
        assert subprocess.run([sys.executable, "-c", source], check=False, env=as_there).returncode == 0
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)
        cluster.wait()
        shutil.rmtree(folder, ignore_errors=True)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.arrow")}
    assert {name: after[name] for name in done} == done


@pytest.mark.usefixtures("small")
def test_rows_of_a_study_are_kept_by_each_actor_as_its_share_allows(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: Kept[Any] = Rows(study.image_set("train"), memory=100 * 4 * 6)
    assert not rows.fits
    monkeypatch.setattr("subspect.ground.engines._sharing", [2])
    assert Rows(study.image_set("train"), memory=100 * 4 * 6).fits
    features: npt.NDArray[np.float32] = np.concatenate([block.features for block in rows])
    assert features.shape == (120, 6)
