"""The report: self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import nn

import subspect
from conftest import PIXELS, Tiny
from subspect import Network, Study, SubspectError, decompose, edit, evaluate, write_report
from subspect.ground.unfinished import is_part, part_name
from subspect.heads.cost import head_costs
from subspect.heads.terms import terms
from subspect.report.gallery import SHOWN, Shot, gallery_of
from subspect.report.overview import overview_of
from subspect.report.rendering import environment


def report(study: Study, **options: object) -> str:
    decomposition = decompose(study, 2)
    return write_report(study, decomposition, fidelity=evaluate(study, decomposition), **options).read_text()  # type: ignore[arg-type]


class Links(HTMLParser):
    """Collects everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        assert tag not in ("link", "iframe", "object", "embed")


def test_it_holds_all_that_it_shows(study: Study) -> None:
    page = report(study)
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith(("#", "data:image/")) for link in links.found)
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", page))
    decomposition = subspect.load_decomposition(study)
    for label in range(3):
        for row in decomposition.rows(label):
            assert f'<a href="#f{row.feature}">{row.feature}</a>' in page and f'<details id="f{row.feature}"' in page
            assert f"{abs(row.weight):.3f}" in page


def test_what_it_costs_to_run(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    page = " ".join(report(study).split())
    dense, few = head_costs(subspect.load_decomposition(study).layer())
    for one in (dense, few):
        assert f"<td>{one.multiplications}</td><td>{one.bytes}</td><td>{one.features}</td>" in page
    assert "of the whole network's" not in page and "The whole network has" not in page
    assert "On a CPU this one is computed by a dense product, with zeros, no cheaper than the dense head;" in page
    page = " ".join(report(study, network=Network(tiny)).split())
    parameters = sum(parameter.numel() for parameter in tiny.parameters())
    assert (
        f"The whole network has {parameters:,} parameters" in page and "of the whole network's multiplications" in page
    )
    shutil.move(study.image_set("train").manifest.root or "", tmp_path / "moved")
    page = " ".join(report(study, network=Network(tiny)).split())
    assert "The whole network has" not in page  # there is no image to run it on


def test_pictures_are_of_the_images_that_activate_most(study: Study, tmp_path: Path) -> None:
    page = report(study)
    decomposition = subspect.load_decomposition(study)
    feature = decomposition.rows(0)[0].feature
    (chunk,) = study.image_set("train").chunks()
    best = chunk.ids[int(chunk.features[:, feature].argmax())]
    [section] = re.findall(rf'<details id="f{feature}".*?</details>', page, re.DOTALL)
    data = re.search(r'<img src="data:image/webp;base64,(.*?)"', section)
    assert data is not None
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.group(1)))), dtype=float)
    expected = np.asarray(Image.open(tmp_path / "train" / best).resize((64, 64), Image.Resampling.NEAREST), dtype=float)
    assert np.abs(first - expected).mean() < 12  # lossy
    assert f"{best}: " in page and str(tmp_path / "train") not in page


def test_without_images(study: Study) -> None:
    page = report(study, show_images=False)
    assert "Images and texts were left out." in page and "data:image/webp" not in page and ".png" not in page


def test_images_that_were_moved(study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train" / "a" / "000.png").unlink()
    shutil.move(tmp_path / "train" / "b", tmp_path / "gone")
    page = report(study)
    missing = int(re.search(r"(\d+) images could not be read again", caplog.text).group(1))  # type: ignore[union-attr]
    assert missing > 1 and f"{missing} images could not be read again and are left grey: " in page
    shutil.move(tmp_path / "gone", tmp_path / "moved" / "b")
    for name in ("a", "c"):
        shutil.copytree(tmp_path / "train" / name, tmp_path / "moved" / name)
    caplog.clear()
    page = report(study, images=tmp_path / "moved")
    assert "1 image could not be read again" in caplog.text or "could not be read" not in page


class Drifting(Tiny):
    """The same weights, and other features than at first."""

    drift = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.drift)


def test_a_network_that_gives_the_same_files_other_features_is_told(
    make_folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Drifting()
    made = subspect.observe(Network(model), make_folder(each=10), tmp_path / "drifting")
    model.drift = 0.5
    page = report(made, network=Network(model))
    said = r"he network gives (\d+) of \1 images other features than when .{1,5}train.{1,5} was observed, though their files "
    assert re.search(said + "are the same: ", page) and re.search(
        said + r"are the same: .*; usual causes are another precision, device or version of a library", caplog.text
    )
    assert "not those that were observed" not in page + caplog.text


def test_other_images_under_the_same_names_are_told(
    study: Study, tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (tmp_path / "train" / "a").glob("*.png"):
        with Image.open(path) as picture:
            inverted = ImageChops.invert(picture.convert("RGB"))
        inverted.save(path)
    page = report(study, network=Network(tiny), images=tmp_path / "train")
    found = re.search(r"(\d+) images are not those that were observed as 'train'", caplog.text)
    assert found is not None and 0 < int(found[1]) <= len(set(re.findall(r"a/\d+\.png", page)))
    assert f"{found[1]} images are not those that were observed as &#39;train&#39;: a/" in page
    caplog.clear()
    page = report(study)  # where only the study says where they are, they are not shown at all
    assert f"{found[1]} images could not be read again and are left grey: a/" in page
    assert "it is not the image that was observed" in caplog.text


def test_what_does_not_belong_to_the_study(study: Study) -> None:
    one, other = decompose(study, 1), decompose(study, 2)
    with pytest.raises(SubspectError, match="the fidelity given is that of 'pursuit-k1', not of 'pursuit-k2'"):
        write_report(study, other, fidelity=evaluate(study, one))
    with pytest.raises(SubspectError, match="decomposition 'pursuit-k2' is of another network"):
        write_report(study, replace(other, fingerprint="0" * 64), fidelity=evaluate(study, other))


def test_what_was_edited_is_told(study: Study) -> None:
    made = decompose(study, 2)
    feature = int(made.supports[1][0])
    edited = edit(study, made, drop=[(1, feature)], refit_on="test")
    page = write_report(study, edited.decomposition, fidelity=edited.after).read_text()
    assert f"b without feature {feature}; weights re-learned on test towards the labels" in page


def test_what_the_right_class_lacks(study: Study) -> None:
    made = decompose(study, 2)
    over = overview_of(study, made, evaluate(study, made))
    (chunk,) = study.image_set("test").chunks()
    said = made.layer()(torch.from_numpy(np.array(chunk.features))).argmax(dim=1).numpy()
    for one in over.confused:
        mean = chunk.features[(chunk.labels == one.label) & (said == one.predicted)].mean(axis=0)
        less = {row.feature: row.weight * (row.mean - mean[row.feature]) for row in made.rows(one.label)}
        assert dict(one.lacking) == pytest.approx({f: v for f, v in less.items() if v > 0}, abs=1e-4)


def test_images_in_memory(tiny: Tiny, tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
    study = subspect.observe(Network(tiny), (images, labels), tmp_path / "study")
    assert "were in memory (arrays), so there are none to show" in report(study)
    assert "data:image/webp" in report(study, images=(images, labels))
    ready = subspect.observe(Network(tiny), torch.rand(60, 3, 8, 8), tmp_path / "ready")
    page = report(ready, images=torch.rand(60, 3, 8, 8))
    assert "data:image/webp" in page and "There are no labels: the class is the network&#39;s own prediction" in page


def test_names_and_paths_are_shown_as_text(tmp_path: Path) -> None:
    names = ("<script>alert(1)</script>", "\"quoted\" & 'so'", "猫 кот")
    generator = np.random.default_rng(0)
    for index in range(30):
        folder = tmp_path / "images" / ("猫 кот", "dog", "bird")[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"<b>{index}&'.png"
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    network = Network(Tiny(), class_names=names, preprocessing=PIXELS, name="<i>network</i>")
    study = subspect.observe(
        network, tmp_path / "images", tmp_path / "study", class_map={"猫 кот": 2, "dog": 0, "bird": 1}
    )
    page = report(study)
    for raw in ("<script>alert", "<i>network", "<b>1"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "猫 кот" in page and "&#34;quoted&#34; &amp;" in page


def test_names_from_outside_act_neither_on_the_page_nor_on_a_shell(tmp_path: Path) -> None:
    odd, cost = "a\u202eb\x1b[31m", "it's $(rm) `x` $0_to_$10"
    network = Network(Tiny(), class_names=(odd, cost, "\u2028"), preprocessing=PIXELS, name="net\u2066\x07")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    study = subspect.observe(network, (images, np.arange(60) % 3), tmp_path / "study", show_progress=False)
    page = report(study, images=(images, np.arange(60) % 3))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    assert "a\\u202eb\\x1b[31m" in page and "net\\u2066\\x07" in page and "\\u2028" in page
    shown = environment().from_string("{{ a }}").render(a="<\ud800>")
    assert shown == "&lt;\\ud800&gt;"
    data = json.loads(re.search(r'id="what-if">(.*?)</script>', page).group(1))  # type: ignore[union-attr]
    assert shlex.split(data["command"]) == ["--decomposition", "pursuit-k2", "--on", "train"]
    assert [shlex.split(f"{word}:7") for word in data["words"]] == [["0:7"], [f"{cost}:7"], ["2:7"]]


def test_unseen_classes_and_failed_images_are_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "images" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "images" / "a" / "text.png").write_text("text")
    study = subspect.observe(
        Network(tiny), tmp_path / "images", tmp_path / "study", class_map={"a": 0, "b": 1}, max_failed=0.1
    )
    page = report(study)
    assert "a/text.png: not an image" in page and "1 could not be used" in page
    assert "No images of this class were seen in train, so no features could be chosen: it keeps all 6" in page
    assert "are among those of" not in page
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    report(study, path=tmp_path / "many.html")
    (unseen,), (seen,) = ([*tmp_path.glob(f"many-pages/*/class-{label}.html")] for label in (2, 0))
    remark = "that activate a feature most"  # of no use where no feature is shown
    assert remark in seen.read_text(encoding="utf-8") and remark not in unseen.read_text(encoding="utf-8")
    assert re.search(r"No two classes share a feature\.|The two classes share \d of their features\.", page)


def test_a_class_without_images_to_measure_on(tiny: Tiny, tmp_path: Path) -> None:
    images, network = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), Network(tiny)
    subspect.observe(network, (images, np.arange(60) % 3), tmp_path / "study", show_progress=False)
    study = subspect.observe(
        network, (images[::-1], np.arange(60) % 2), tmp_path / "study", "test", show_progress=False
    )
    page = report(study)
    assert page.count("No images of this class are among those of test that the cost was measured on.") == 1


def test_a_caption_keeps_the_end_of_a_long_name() -> None:
    for name, short in (
        ("English springer (dog).", "English springer (dog)."),
        ("x" * 30, "x" * 30),
        ("0217_n02102040_English_springer", "0217_n0210…40_English_springer"),
    ):
        shot = Shot("", "1.png", name, 1.0)
        assert shot.short == short and len(short) <= 30 and shot.caption == f"{name}, 1.png: 1"


def test_elsewhere(study: Study, tmp_path: Path) -> None:
    report(study, path=tmp_path / "shared" / "page.html")
    assert (tmp_path / "shared" / "page.html").exists() and not (study.path / "report.html").exists()


def test_strips_are_of_the_images_in_and_outside_the_class(study: Study) -> None:
    decomposition = decompose(study, 2)
    made = gallery_of(study, decomposition, Network(Tiny()), None, False)
    (chunk,) = study.image_set("train").chunks()
    for label in range(3):
        for feature in decomposition.supports[label].tolist():
            values = chunk.features[:, feature]
            for strips, rows in ((made.inside, chunk.labels == label), (made.outside, chunk.labels != label)):
                order = sorted(np.flatnonzero(rows), key=lambda row: (-values[row], chunk.ids[row]))
                assert [shot.id for shot in strips[label, feature]] == [chunk.ids[row] for row in order[:SHOWN]]
    assert "Amber: where in the image the feature is active." in made.remark
    told = gallery_of(study, decomposition, None, None, False).remark
    assert "Where in the image a feature is active is not shown: the report was made without the network." in told


class Flattened(Tiny):
    """The network reads all places at once, so that no feature has a map."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(6 * 6 * 6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.wide(self.conv(x).flatten(1)).tanh())
        return out


def test_why_nothing_shows_where_features_look(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    network = Network(Flattened())
    study = subspect.observe(network, make_folder("flat", each=10), tmp_path / "flat-study", show_progress=False)
    remark = gallery_of(study, decompose(study, 2), network, None, False).remark
    assert (
        "Where in the image a feature is active is not shown: the features are what 'tanh' makes, and not the" in remark
    )


def test_with_many_classes_the_other_pages_lie_in_a_folder(study: Study, many: Callable[..., Path]) -> None:
    path = many("a #1.html", network=Network(Tiny()))
    [folder] = generations(path)
    used = {f"feature-{feature}.html" for feature in decompose(study, 2).supports.flat.tolist()}
    pages = used | {f"class-{label}.html" for label in range(3)}
    assert {page.name for page in folder.iterdir()} == pages | {"SHA256SUMS"}
    assert folder.name == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()[:12]
    checked = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, check=True)
    assert len(checked.stdout.splitlines()) == len(pages)
    for page in (path, *(folder / name for name in pages)):
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        targets = [unquote(link.partition("#")[0]) for link in links.found if not link.startswith(("#", "data:image/"))]
        assert targets and all((page.parent / target).is_file() for target in targets)
        assert page == path or any((page.parent / target).resolve() == path for target in targets)
    assert "data:image/webp" in path.read_text() and "data:image/webp" in (folder / "class-1.html").read_text()
    before = content(path.parent)
    assert content(many("a #1.html", network=Network(Tiny())).parent) == before  # the same in every run
    many("a #1.html", show_images=False)
    [other] = generations(path)
    assert other.name != folder.name and f"/{other.name}/class-1.html" in path.read_text()


def test_what_is_no_report_stays_and_is_refused_before_the_work(
    many: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.report.gallery_of", None)  # the work
    here = tmp_path / "here"
    for name in ("file", "link", "notes.txt", "0123456789ab", ".lock", "class-1.html", part_name()):
        shutil.rmtree(here, ignore_errors=True)
        place(here / "holiday-pages", name, tmp_path / "study")
        before = content(here)
        with pytest.raises(
            SubspectError, match=rf"holiday-pages.* (exists|a link|{re.escape(name[:10])}).*choose another"
        ):
            many("here/holiday.html")
        assert content(here) == before
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(SubspectError, match=r"mine\.html is there already, and not as subspect wrote it"):
        many("mine.html")
    with pytest.raises(SubspectError, match=r"the report is HTML; name a file that ends in \.html, not 'a\.htm'"):
        many("a.htm")
    with pytest.raises(SubspectError, match="File name too long"):
        many(f"{'x' * 250}.html")


def place(folder: Path, name: str, elsewhere: Path) -> None:
    """Put something of the user's where pages are to go."""
    folder.parent.mkdir()
    if name == "file":
        folder.write_text("mine")
    elif name == "link":
        folder.symlink_to(elsewhere)
    elif name == "0123456789ab":  # like a generation, but not by its checksums
        (folder / name).mkdir(parents=True)
        (folder / name / "class-1.html").write_text("mine")
        (folder / name / "SHA256SUMS").write_text(f"{hashlib.sha256(b'mine').hexdigest()}  class-1.html\n")
    elif is_part(name):
        folder.mkdir()
        (folder / name).symlink_to(elsewhere)
    else:
        folder.mkdir()
        (folder / name).write_text("mine")


def test_a_report_is_replaced_but_not_what_was_added_or_changed(
    many: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = many("a.html")
    [old] = generations(path)
    (old / "notes.txt").write_text("mine")
    (old / "class-1.html").write_text("mine")
    (old.parent / part_name()).write_bytes(b"half")  # of a killed writer
    for _ in range(2):
        caplog.clear()
        many("a.html", show_images=False)
        assert (
            f"{old.name}/class-1.html, {old.name}/notes.txt stayed, since it is not as subspect wrote it" in caplog.text
        )
        assert sorted(page.name for page in old.iterdir()) == ["SHA256SUMS", "class-1.html", "notes.txt"]
    assert len(generations(path)) == 2 and len(list(old.parent.iterdir())) == 3  # and the lock
    shown = path.read_bytes()
    with pytest.raises(
        SubspectError, match=rf"{old.name} holds pages that are not as subspect wrote them: class-1.html"
    ):
        many("a.html")
    assert path.read_bytes() == shown and len(generations(path)) == 2
    (old / "class-1.html").unlink()
    many("a.html")  # adds what is missing
    assert "<h1>b</h1>" in (old / "class-1.html").read_text() and generations(path) == [old]


def test_names_and_links_that_are_put_into_checksums_lead_nowhere(many: Callable[..., Path], tmp_path: Path) -> None:
    path = many("a.html")
    (tmp_path / "mine.html").write_text("mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    part = tmp_path / "a-pages" / part_name()
    part.mkdir()
    (part / "class-9.html").symlink_to(tmp_path / "mine.html")
    (part / "SHA256SUMS").write_text(f"{digest}  class-9.html\n{digest}  ../../mine.html\n")
    again = part.with_name(part_name())
    again.mkdir()
    (again / "class-9.html").symlink_to(tmp_path / "mine.html")
    (again / "SHA256SUMS").write_text(f"{digest}  class-9.html\n{digest}  class-10.ht")
    many("a.html")
    assert (tmp_path / "mine.html").read_text() == "mine" and path.exists()
    assert (part / "class-9.html").is_symlink() and (again / "class-9.html").is_symlink()


KILLS = """
import hashlib, os, sys
from pathlib import Path
from subspect.ground import pages

os.chdir(sys.argv[1])
left, plain, killed = 10**9, Path("plain"), Path("killed")

def step(event, _):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)

def write(folder, said):
    folder.mkdir(exist_ok=True)
    given = ((f"class-{n}.html", f"page {n} of {said}".encode() * 1000) for n in range(2))
    pages.remove_others(folder, pages.write_generation(folder, given))

def dies(steps):
    global left
    child = os.fork()
    if not child:
        try:
            left = steps
            write(killed, "new")
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, 9)
    return status == 9

def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else "" for path in folder.rglob("*")}

def whole(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return len(lines) == 2 and all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for digest, name in map(str.split, lines)
    )

sys.addaudithook(step)
write(plain, "new")
write(killed, "old")
[old], steps = killed.glob("[0-9a-f]*"), 0
while dies(steps):
    pages.check_pages(killed)
    assert all(whole(one) for one in killed.glob("[0-9a-f]*") if one != old), steps
    assert any(whole(one) for one in killed.glob("[0-9a-f]*")), steps
    write(killed, "new")
    assert content(killed) == content(plain), steps
    write(killed, "old")
    steps += 1
print(steps)
"""


def test_a_kill_at_any_step_leaves_whole_pages_and_the_next_run_mends_the_rest(tmp_path: Path) -> None:
    """Each call that touches the disk is the last one once."""
    done = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_two_reports_at_once(
    many: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    path = many("a.html")
    expected = content(path.parent)
    with ThreadPoolExecutor() as pool:
        for made in [pool.submit(many, "a.html", show_images=which) for which in (True, False, True, False)]:
            made.result()
        many("a.html")
    assert content(path.parent) == expected and f"waiting: another process is writing the report {path}" in caplog.text


@pytest.fixture
def many(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a report with pages, under a name."""
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    decomposition = decompose(study, 2)
    cost = evaluate(study, decomposition)
    return lambda name, **options: write_report(
        study, decomposition, fidelity=cost, path=tmp_path / name, show_progress=False, **options
    )


def generations(path: Path) -> list[Path]:
    return sorted(one for one in path.with_name(f"{path.stem}-pages").iterdir() if len(one.name) == 12)


def content(folder: Path) -> dict[str, bytes | str]:
    """Return what lies in a folder, whatever it is."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
        if not any(part == "study" for part in path.parts[len(folder.parts) :])
    }


def test_what_if_data_give_back_the_figures(study: Study) -> None:
    decomposition = decompose(study, 2)
    page = report(study)
    data = json.loads(re.search(r'id="what-if">(.*?)</script>', page).group(1))  # type: ignore[union-attr]
    n = len(data["labels"])
    x = dict(zip(data["columns"], np.frombuffer(base64.b64decode(data["features"]), "<f4").reshape(-1, n), strict=True))
    logits = [one["bias"] + sum(weight * x[feature] for feature, weight in one["weights"]) for one in data["classes"]]
    said = np.argmax(logits, axis=0)
    cost = evaluate(study, decomposition).overall
    assert np.mean(said == data["labels"]) == pytest.approx(cost.accuracy.value)
    assert np.mean(said == data["said"]) == pytest.approx(cost.fidelity.value)


def test_confusions_and_what_is_behind_them(study: Study) -> None:
    decomposition = decompose(study, 2)
    cost = evaluate(study, decomposition)
    over = overview_of(study, decomposition, cost)
    (chunk,) = study.image_set("test").chunks()
    logits = decomposition.layer()(torch.from_numpy(np.array(chunk.features))).detach().numpy()
    said = logits.argmax(axis=1)
    assert over.confused and sum(one.images for one in over.confused) == int((said != chunk.labels).sum())
    for one in over.confused:
        rows = (chunk.labels == one.label) & (said == one.predicted)
        assert one.images == rows.sum() and one.of == (chunk.labels == one.label).sum()
        assert one.dense == ((chunk.labels == one.label) & (chunk.predictions == one.predicted)).sum()
        gap = (logits[rows, one.predicted] - logits[rows, one.label]).mean()
        mean = chunk.features[rows].astype(float).mean(axis=0)
        found, bias = terms(decomposition, mean, one.predicted, one.label)
        assert sum(term.contribution for term in found) + bias == pytest.approx(gap, abs=1e-5)
        assert one.bias == bias and all(term.contribution > 0 for term in one.terms)
    assert over.dense.images.sum() == len(said) == over.decomposed.images.sum()
