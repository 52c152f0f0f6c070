"""A study at an address, S3 or file://: the same bytes as in a folder, and what is said where something fails."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from commands import MODEL, command, said
from conftest import Tiny, write_images
from elsewhere import Slow, files, observing_slowly
from subspect import (
    Network,
    Study,
    SubspectError,
    decompose,
    engine,
    evaluate,
    from_features,
    name_features,
    observe,
    open_study,
    verify,
)
from subspect.ground import addresses
from subspect.ground.addresses import place
from subspect.ground.files import explain
from subspect.report import write_report

fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install -c constraints.txt -e '.[dev]'")
pytest.importorskip("s3fs", reason="needs s3fs: pip install -c constraints.txt -e '.[dev]'")
pytest.importorskip("moto", reason="needs moto: pip install -c constraints.txt -e '.[dev]'")
MakeFolder = Callable[..., Path]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A store that speaks S3, in a process group of its own."""
    url = f"http://127.0.0.1:{free_port()}"
    line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/data.json"):
                break
            time.sleep(0.05)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture
def s3(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of a test's own."""
    settings = {
        "ENDPOINT_URL": server,
        "ACCESS_KEY_ID": "key",
        "SECRET_ACCESS_KEY": "secret",
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("SUBSPECT_CACHE", str(tmp_path / "cache"))
    bucket = f"b{abs(hash(tmp_path)):x}"
    store("s3://b").mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/deep/study"
    monkeypatch.setenv("SUBSPECT_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/store/study"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 8)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Work as on another machine: with a cache of its own."""
    return lambda name: monkeypatch.setenv("SUBSPECT_CACHE", str(tmp_path / f"cache-{name}"))


def store(address: str) -> Any:
    return fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)[0]


def stored(address: str) -> dict[str, bytes]:
    """All files of a study at an address, by relative path."""
    files, root = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    with suppress(FileNotFoundError):
        return {path[len(root) + 1 :]: files.cat_file(path) for path in files.find(root)}
    return {}


def put(address: str, data: bytes | None) -> None:
    """Write a file of the store past subspect, or remove it, a moment later: a copy keeps what it got just then."""
    time.sleep(0.05)
    files, path = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    if data is None:
        files.rm_file(path)
    else:
        files.pipe_file(path, data)


def filled(study: Path | str, folder: Path, test: Path) -> Study:
    """The main job, step by step."""
    for images, name in ((folder, "train"), (test, "test")):
        opened = observe(Network(Tiny()), images, study, name, batch_size=4, show_progress=False)
    decomposition = decompose(opened, 2, show_progress=False)
    name_features(opened, {1: "whiskers"})
    write_report(opened, decomposition, show_progress=False)
    return opened


# The same bytes -------------------------------------------------------------------------------------------------------


def test_the_same_bytes_as_in_a_folder(
    address: str, make_folder: MakeFolder, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    folder, test = make_folder(each=11), make_folder("test", seed=1)
    study, local = filled(address, folder, test), filled(tmp_path / "local", folder, test)
    assert stored(address) == files(tmp_path / "local") == files(study.path)
    assert str(study.address) == address and str(tmp_path / "cache") in str(study.path)
    assert repr(study).startswith(f"Study({address!r}: ") and study.to_json()["path"] == address
    cost = evaluate(local, "pursuit-k2").to_json()
    for name in ("", "another", "another"):  # what was fetched is there, and what wasn't is fetched
        if name:
            machine(name)
        again = open_study(address)
        assert evaluate(again, "pursuit-k2").to_json() == cost == evaluate(address, "pursuit-k2").to_json()
        assert dict(again.feature_names) == {1: "whiskers"} and again.set_names == ["train", "test"]
        assert verify(address).sound and verify(again).study == address and not verify(again).notes
    decompose(address, 3, show_progress=False)
    decompose(local, 3, show_progress=False)
    machine("")
    assert open_study(address).decomposition_names == ["pursuit-k2", "pursuit-k3"]
    assert evaluate(address, "pursuit-k3").to_json() == evaluate(local, "pursuit-k3").to_json()
    assert stored(address) == files(tmp_path / "local")


def test_killed_in_the_middle(
    address: str, make_folder: MakeFolder, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    folder = make_folder(each=20)
    observe(Network(Slow()), folder, tmp_path / "whole", batch_size=4, show_progress=False)
    for name, shards in (("", 1), ("other", 3)):
        machine(name)
        process = observing_slowly(folder, address, 0.1)
        deadline, there = time.monotonic() + 60, store(address)
        while not there.exists(f"{address}/sets/train/{shards:05d}.arrow") and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        names = {name for name in stored(address) if not name.rpartition("/")[2].startswith(".subspect-")}
        assert names < set(files(tmp_path / "whole"))
        assert open_study(address).unfinished == ["train"]
    process = observing_slowly(folder, address)
    assert process.communicate()[1] is not None and process.returncode == 0
    whole = files(tmp_path / "whole")
    assert {name: data for name, data in stored(address).items() if name in whole} == whole
    assert verify(address).sound and verify(address).notes == ()


def test_parts_on_two_machines(
    address: str, make_folder: MakeFolder, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    folder = make_folder(each=11)
    observe(Network(Tiny()), folder, tmp_path / "whole", batch_size=4, show_progress=False)
    for name in ("1", "2"):
        machine(name)
        study = observe(Network(Tiny()), folder, address, batch_size=4, part=f"{name}/2", show_progress=False)
    assert study.set_names == ["train"] and stored(address) == files(tmp_path / "whole")
    machine("1")
    assert len(open_study(address).image_set("train")) == 33
    machine("3")
    with pytest.raises(SubspectError, match=f"'train' in {address} was begun with batch size 4, but 8 was given"):
        observe(Network(Tiny()), folder, address, batch_size=8, show_progress=False)


def test_by_actors_on_other_machines(
    s3: str, make_folder: MakeFolder, tmp_path: Path, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, test = make_folder(each=11), make_folder("test", seed=1)
    filled(tmp_path / "local", folder, test)
    monkeypatch.setattr("subspect.studies.blocks.SMALL", -1)
    machine("actors")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        machine("driver")
        with engine("ray", actors=2):
            filled(f"{s3}/study", folder, test)
        assert stored(f"{s3}/study") == files(tmp_path / "local")
        theirs = [path.name for path in (tmp_path / "cache-actors").rglob("*.arrow") if path.stat().st_size]
        assert len(theirs) > 4  # written there, or fetched
    finally:
        ray.shutdown()


def test_at_once_on_one_machine(s3: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    """Processes that share a cache, while another looks on."""
    address = f"{s3}/deep/study"
    folder = make_folder(each=20)
    observe(Network(Slow()), folder, tmp_path / "whole", batch_size=4, show_progress=False)
    others = [observing_slowly(folder, address, 0.03, (number, 3)) for number in (1, 2, 3)]
    while any(other.poll() is None for other in others):
        place(address)
        with suppress(SubspectError):  # not begun yet
            study = open_study(address)
            for name in study.unfinished:
                image_set = study.as_set(name, study.manifest(name))
                assert all(len(image_set.shard(index)[0].ids) for index in image_set.done)
    assert [(other.communicate()[1], other.returncode) for other in others] == [("", 0)] * 3
    assert stored(address) == files(tmp_path / "whole") and open_study(address).set_names == ["train"]


def test_features_alone(address: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    head = rows[:3], np.zeros(3)
    for study in (address, tmp_path / "local"):
        from_features(rows, *head, study, labels=np.arange(30) % 3, show_progress=False)
    assert stored(address) == files(tmp_path / "local")


def test_a_report_with_pages(s3: str, tmp_path: Path, machine: Callable[[str], None]) -> None:
    address = f"{s3}/deep/study"
    folder = write_images(tmp_path / "many", [f"c{number:02d}" for number in range(61)], each=1)
    network = Network(Tiny(61, 8))
    for study in (tmp_path / "local", address):
        opened = observe(network, folder, study, batch_size=16, show_progress=False)
        for k in (1, 2):  # the second takes the place of the first
            write_report(opened, decompose(opened, k, hold_out=0, draws=0, show_progress=False), show_progress=False)
        machine("other")
        write_report(open_study(study), "pursuit-k1", show_progress=False)
        assert verify(study).sound
    assert stored(address) == files(tmp_path / "local") and sum("class-" in name for name in stored(address)) == 61


# What changes in the store, or in the cache ---------------------------------------------------------------------------


def test_what_others_change_is_seen(address: str, make_folder: MakeFolder, machine: Callable[[str], None]) -> None:
    study = filled(address, make_folder(each=8), make_folder("test", seed=1))
    decompose(study, 3, show_progress=False)
    machine("other")
    name_features(address, {1: None, 2: "tail"})
    put(f"{address}/decompositions/pursuit-k2.safetensors", None)
    machine("")
    again = open_study(address)
    assert dict(again.feature_names) == {2: "tail"} and again.decomposition_names == ["pursuit-k3"]
    for name in list(stored(address)):
        put(f"{address}/{name}", None)
    with pytest.raises(SubspectError, match=f"no study in {address}: it has no study.json; make one with"):
        open_study(address)
    assert not files(again.path)  # no ghosts


def test_the_cache_may_be_deleted(address: str, make_folder: MakeFolder) -> None:
    folder = make_folder(each=8)
    study = filled(address, folder, make_folder("test", seed=1))
    cost, before = evaluate(study, "pursuit-k2").to_json(), stored(address)
    (study.path / "sets/test/00001.arrow").unlink()
    assert evaluate(study, "pursuit-k2").to_json() == cost  # even while it is open
    cache = study.path.parents[2]
    for left in ("study", "known", "coming", "."):
        shutil.rmtree(study.path.parent / left)
        assert evaluate(address, "pursuit-k2").to_json() == cost
        assert observe(Network(Tiny()), folder, address, batch_size=4, show_progress=False).set_names == [
            "train",
            "test",
        ]
    assert stored(address) == before and cache.is_dir()
    (study.path / "study.json").write_text("{}")  # the copy, not the study
    assert open_study(address).set_names == ["train", "test"]


def test_damage_in_the_store_is_told(address: str, make_folder: MakeFolder) -> None:
    folder = make_folder(each=8)
    study = filled(address, folder, make_folder("test", seed=1))
    before, name = stored(address), "sets/train/00001.arrow"
    for data in (b"", before[name][:-100], before[name][:500] + b"?" + before[name][501:]):
        put(f"{address}/{name}", data)
        with pytest.raises(
            SubspectError, match=rf"shard {address}/{name} is damaged .*; delete it and run the same observe"
        ):
            decompose(address, 2, on="train", hold_out=0, show_progress=False)
        [fault] = verify(study).faults
        assert fault.path == name and address in fault.what
    put(f"{address}/{name}", None)
    assert open_study(address).unfinished == ["train"]
    observe(Network(Tiny()), folder, address, batch_size=4, show_progress=False)
    assert stored(address) == before
    put(f"{address}/study.json", before["study.json"].replace(b"Tiny", b"Tony"))
    with pytest.raises(SubspectError, match=f"{address}/study.json is damaged: .*; restore it from a backup"):
        open_study(address)
    put(f"{address}/study.json", before["study.json"])
    put(f"{address}/decompositions/pursuit-k2.safetensors", b"not one")
    with pytest.raises(SubspectError, match=f"{address}/decompositions/pursuit-k2.safetensors is not a decomp"):
        evaluate(address, "pursuit-k2")


def test_what_isn_t_stored_isn_t_there(address: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(each=11)
    observe(Network(Tiny()), folder, tmp_path / "whole", batch_size=4, show_progress=False)
    kind, shards = type(store(address)), [0]
    put_file = kind.put_file

    def put_few(self: Any, file: str, path: str, **options: Any) -> None:
        shards[0] += Path(file).parent.name == "train"
        if shards[0] > 3:  # the manifest, and two shards
            raise OSError("the line is dead")
        put_file(self, file, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "put_file", put_few)
        with pytest.raises(
            SubspectError, match=rf"cannot write to {address} \(OSError: the line is dead\).*goes on from"
        ):
            observe(Network(Tiny()), folder, address, batch_size=4, show_progress=False)
    there = [
        "head.safetensors",
        "sets/train/00000.arrow",
        "sets/train/00001.arrow",
        "sets/train/set.json",
        "study.json",
    ]
    assert sorted(stored(address)) == there == sorted(files(place(address)))
    observe(Network(Tiny()), folder, address, batch_size=4, show_progress=False)
    assert stored(address) == files(tmp_path / "whole")


def test_a_folder_that_was_copied_into_a_store(s3: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    """With its locks, and with what consoles and mounts put in the place of folders."""
    folder = make_folder(each=8)
    filled(tmp_path / "local", folder, make_folder("test", seed=1))
    there = store(s3)
    for name in ("", "sets/", "sets/train/", "sets/train/.lock", ".lock"):
        there.call_s3("put_object", Bucket=s3.removeprefix("s3://"), Key=f"study/{name}", Body=b"")
    for name, data in files(tmp_path / "local").items():
        there.pipe_file(f"{s3}/study/{name}", data)
    assert verify(f"{s3}/study").to_json() == {**verify(tmp_path / "local").to_json(), "study": f"{s3}/study"}
    assert open_study(f"{s3}/study/").set_names == ["train", "test"]


def test_foreign_files_and_folders(address: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    files = store(address)
    path = address.removeprefix("s3://").removeprefix("file://")
    if address.startswith("file"):
        files.makedirs(f"{path}/photos")
    files.pipe_file(f"{path}/photos/1.png", b"")
    files.pipe_file(f"{path}/notes.txt", b"")
    with pytest.raises(SubspectError, match=f"{address} contains notes.txt, photos and is not a study; choose another"):
        observe(Network(Tiny()), make_folder(), address, show_progress=False)
    assert sorted(stored(address)) == ["notes.txt", "photos/1.png"]


# On the command line --------------------------------------------------------------------------------------------------


def test_on_the_command_line(s3: str, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    make_folder(each=20)
    study = f"{s3}/study"
    lines = [
        f"run python:model.py:declared images -o {study} -k 2 --device cpu",
        f"observe python:model.py:declared images -o {study} --name again --device cpu",
        f"decompose {study} -k 3",
        f"evaluate {study}",
        f"show {study}",
        f"check {study}",
        f"verify {study}",
        f"cues {study} --network python:model.py:declared",
        f"compare {study} a b",
        f"diff {study} {study}",
        f"name {study} 1 whiskers",
        f"explain {study} images/a/000.png --network python:model.py:declared",
        f"geometry {study} --on train",
        f"edit {study} --drop a:1",
        f"export {study} -o small.safetensors",
        f"report {study} -o shared.html --no-images",
        f"report {study}",
    ]
    for line in lines:
        result = command(line, None)
        assert result.exit_code in (0, 1) and "error" not in result.stderr, (line, result.output)
        assert str(tmp_path / "cache") not in result.output.replace("\n", ""), line
    assert f"report: {study}/report.html" in result.stdout
    assert json.loads(command(f"show {study} --json").stdout)["path"] == study
    assert (tmp_path / "shared.html").is_file() and not (tmp_path / "s3:").exists()
    assert "report.html" in stored(study) and str(tmp_path / "cache").encode() not in b"".join(stored(study).values())
    for line in (f"export {study} -o {s3}/x.safetensors", f"report {study} -o {s3}/x.html", f"demo -o {s3}/demo"):
        assert "is an address, not a path; only a study can lie at one: name a place on this machine" in said(line, 1)
    assert not (tmp_path / "s3:").exists()


# What is refused ------------------------------------------------------------------------------------------------------


def test_addresses_that_lead_nowhere(s3: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: dict[str | Path, str] = {
        "s3://no-such-bucket/study": "cannot read s3://no-such-bucket/study: The specified bucket does not exist; check the",
        "s33://bucket/study": r"begins with 's33', and fsspec knows no store of that name \(did you mean 's3'",
        "ftp://me:secret@host/study": "ftp://host/… has a password in it, which would be shown; leave it to the environment",
        "simplecache::s3://bucket/study": "begins with 'simplecache::s3', and fsspec knows no store",
        Path("s3://bucket/study"): "s3:/bucket/study is an address, not a path; give it with two slashes, and as text",
        "s3://": "s3:// names no place in the store; give one such as s3://bucket/study",
    }
    for given, why in refused.items():
        with pytest.raises(SubspectError, match=why) as caught:
            observe(Network(Tiny()), make_folder(), given, show_progress=False)
        assert "secret" not in str(caught.value)
    with pytest.raises(SubspectError, match=f"no study in {s3}/study: it has no study.json"):
        open_study(f"{s3}/study")
    with pytest.raises(SubspectError, match="a study must be a folder, an address or a subspect.Study, got int"):
        open_study(1)  # type: ignore[arg-type]


def test_an_address_that_doesn_t_answer(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        for port, why in ((free_port(), "EndpointConnectionError"), (silent.getsockname()[1], "ReadTimeoutError")):
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            start = time.monotonic()
            with pytest.raises(
                SubspectError, match=rf"cannot read {s3}/study \({why}: .*check the address, the connection"
            ):
                open_study(f"{s3}/study")
            assert time.monotonic() - start < 15
    monkeypatch.setattr("subspect.ground.addresses._PATIENCE", 0.1)
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.ls", lambda *_, **__: time.sleep(1))
    with pytest.raises(SubspectError, match="file:///nowhere/study does not answer within 0 s; check the address"):
        open_study("file:///nowhere/study")


@pytest.mark.parametrize("package", ["fsspec", "s3fs"])
def test_without_the_extra(s3: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SubspectError, match=rf"a study at {s3}/study needs the package '{package}'; .*\.\[remote\]"):
        open_study(f"{s3}/study")


def test_another_store_s_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SubspectError, match="a study at gs://bucket/study needs another package: Please install gcsfs"):
        open_study("gs://bucket/study")


def free_actions(server: str, count: bytes) -> None:
    """Have the server ask for rights after so many requests."""
    request = urllib.request.Request(f"{server}/moto-api/reset-auth", count, {"Content-Type": "text/plain"})
    urllib.request.urlopen(request).close()


def test_rights(s3: str, server: str, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    folder = make_folder(each=8)
    study = filled(f"{s3}/study", folder, make_folder("test", seed=1))
    before, cost = stored(study.address), evaluate(study, "pursuit-k2").to_json()
    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    rule = {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    monkeypatch.setattr(addresses, "_mirrors", {})
    free_actions(server, b"0")
    try:
        with pytest.raises(
            SubspectError, match=rf"no rights to read {s3}/study \(PermissionError: .*; check the credentials"
        ):
            open_study(study.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        assert evaluate(study.address, "pursuit-k2").to_json() == cost
        for ask in (
            lambda: decompose(study.address, 2, show_progress=False),
            lambda: observe(Network(Tiny()), folder, study.address, "more", show_progress=False),
            lambda: observe(Network(Tiny()), folder, f"{s3}/another", show_progress=False),
            lambda: name_features(study.address, {1: "tail"}),
        ):
            with pytest.raises(SubspectError, match=rf"no rights to write to {s3}/.*PermissionError"):
                ask()
        assert open_study(study.address).decomposition_names == ["pursuit-k2"]
    finally:
        free_actions(server, b"inf")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert stored(study.address) == before


def test_links_of_a_store_are_refused(tmp_path: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBSPECT_CACHE", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/store"
    study = observe(Network(Tiny()), make_folder(), address, batch_size=4, show_progress=False)
    (tmp_path / "store/sets/train").rename(tmp_path / "elsewhere")
    (tmp_path / "store/sets/train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SubspectError, match=f"{address}/sets/train is a link, and nothing outside a study is read"):
        open_study(study.address)
    (tmp_path / "linked").symlink_to(tmp_path / "store")  # the study as a whole may be one
    (tmp_path / "store/sets/train").unlink()
    assert open_study(f"file://{tmp_path}/linked").set_names == []


def test_no_room_for_the_copy(
    s3: str, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = rf"\(in its copy below {tmp_path}/cache; SUBSPECT_CACHE names another place\)"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(SubspectError, match=rf"not enough disk for the study {s3}/study/sets/train {where}: about"):
        observe(Network(Tiny()), make_folder(), f"{s3}/study", show_progress=False)
    full = explain(OSError(errno.ENOSPC, "full"), open_study(f"{s3}/study").path / "report.html")
    assert re.search(rf"could not write .*/report.html {where}; free some space", full)


def test_a_file_that_changes_while_it_is_read(address: str, make_folder: MakeFolder) -> None:
    study = observe(Network(Tiny()), make_folder(), address, batch_size=4, show_progress=False)
    (study.path / "sets/train/00000.arrow").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.ground.mirrors._sync", lambda path: path.write_bytes(b"half"))
        with pytest.raises(SubspectError, match="sets/train/00000.arrow changed while it was read; try again"):
            study.image_set("train").shard(0)
    assert len(study.image_set("train").shard(0)[0].ids) == 8


def test_a_cache_that_can_t_be_written(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SUBSPECT_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        SubspectError, match=f"cannot keep a copy of {s3}/study below .*; have SUBSPECT_CACHE name a folder"
    ):
        open_study(f"{s3}/study")
