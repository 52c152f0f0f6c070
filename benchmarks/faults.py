"""What becomes of a study when things go wrong: kills, full and read-only disks, flipped bits, two writers, others' files.

Each part does the real thing to a small study and looks at what is left:

- kills: ``kill -9`` before single file operations and at random moments of every writing command, then the same command
  again. Nothing half-written, nothing of ours left behind, the same bytes as unbroken, at most one shard computed again.
- disks: no space from a file operation on; a small tmpfs that fills up; a read-only one (both need root on Linux).
- damage: single flipped bits, cut, emptied, doubled and swapped files over all files of a study; each is noticed by one of
  our own errors or changes no figure, and none ends the process.
- pairs: every two writing commands at once.
- cluster: actors and drivers of a Ray cluster killed, two drivers at once; networks that a device has no memory for, or that
  give NaN for some images.
- decoys: folders full of files, links and folders with names like ours; all as before after every command.

A study of 96 images; about 40 minutes on two cores, or as much as --share says of it.

Example: python benchmarks/faults.py --json faults.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import subspect
from _children import Ended, Tree, copy, parts, prepare, run, start, tree
from _cluster_faults import cluster
from _rows import Row, publish, row
from subspect import Study, SubspectError
from subspect.ground.seals import is_sealed

NETWORK = "--network python:model.py:small"
COMMANDS = {
    "observe": "observe python:model.py:small train -o new --batch-size 8",
    "observe a part": "observe python:model.py:small train -o new --batch-size 8 --part 2/2",
    "observe the other part": "observe python:model.py:small train -o new --batch-size 8 --part 1/2",
    "observe more": "observe python:model.py:small many/00 -o study --name other --batch-size 1",
    "observe with workers": "observe python:model.py:small train -o new --batch-size 8 --workers 2",
    "decompose": "decompose study -k 2",
    "decompose again": "decompose study -k 3",
    "decompose a file": "decompose study --supports mine.json --refit",
    "edit": "edit study --decomposition frequency-k2 --refit-on test",
    "report": f"report study {NETWORK}",
    "report with pages": "report wide -o out/pages.html",
    "show": "show study --decomposition pursuit-k3 --figure out/curve.svg",
    "geometry": "geometry study --points 50 --figure out/geometry.png",
    "explain": f"explain study train/00/000.png {NETWORK} -o out",
    "export": "export study -o out/small.safetensors",
    "run": "run python:model.py:small train --test test -o new -k 2 --batch-size 8",
    "retrain": f"retrain study train {NETWORK} --epochs 2 --batch-size 16 -o out/retrained",
    "tradeoff": f"tradeoff study {NETWORK} --pool 3 --pool 5 -k 2 --figure out/tradeoff.pdf",
}
ONCE = ("export", "explain")  # what is there already isn't written again: another name, or a refusal
KILLS, FLIPS, ROUNDS = 300, 2000, 5


def main() -> int:
    """Do all parts, or those that were asked for, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="a part; may be repeated")
    parser.add_argument("--share", type=float, default=1.0, help="of the tries")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        ready = prepare(Path(place) / "ready")
        for name in arguments.only or PARTS:
            begun = time.perf_counter()
            rows += PARTS[name](ready, Path(place), arguments.share, random.Random(arguments.seed))
            rows += row(f"{name}, seconds", time.perf_counter() - begun, "s")
    return 0 if publish("What faults do", rows, arguments.json) else 1


# Kills ----------------------------------------------------------------------------------------------------------------


def kills(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Kill every command at file operations and at random moments, and run it again."""
    each, wrong, count = max(2, round(KILLS * share / len(COMMANDS))), list[str](), 0
    for name, line in COMMANDS.items():
        sandbox = copy(ready, place / "sandbox")
        before, whole = tree(sandbox), run(line.split(), sandbox)
        if whole.code:
            raise RuntimeError(f"{line}: {whole.said}")
        after = tree(sandbox)
        places = sorted(draw.sample(range(1, whole.operations + 1), min(whole.operations, (each + 1) // 2)))
        moments = [draw.uniform(0, whole.seconds) for _ in range(each - len(places))]
        for how in (*places, *moments):
            sandbox, count = copy(ready, place / "sandbox"), count + 1
            at = {"kill_at": how} if isinstance(how, int) else {"kill_after": how}
            run(line.split(), sandbox, **at)
            wrong += [f"{name} killed at {how}: {what}" for what in _after_kill(sandbox, name, line, before, after)]
        print(f"{name}: {whole.operations} file operations, {count} kills, {len(wrong)} wrong", flush=True)
    for one in wrong[:20]:
        print(one)
    return [*row("kills", count, ""), *row("kills after which something was wrong", len(wrong), "", "<= 0")]


def _after_kill(sandbox: Path, name: str, line: str, before: Tree, after: Tree) -> Iterator[str]:
    """Say what is wrong after a kill, and after the same command was run again."""
    left = tree(sandbox)
    for path, data in left.items():
        within = any(path.startswith(part) for part in parts(sandbox))
        if not within and data not in (before.get(path), after.get(path)) and not is_sealed(sandbox / path):
            yield f"half-written {path}"
    shards = {path: path.stat().st_ino for path in sandbox.rglob("*.arrow")}
    again = run(line.split(), sandbox)
    anew = [str(path.relative_to(sandbox)) for path, number in shards.items() if path.stat().st_ino != number]
    if anew:
        yield f"shards that were there computed again: {anew}"
    if again.code and not (name in ONCE and "exists" in again.said):
        yield f"run again it ended with {again.code}: {again.said[-300:]}"
    if parts(sandbox):
        yield f"left behind: {parts(sandbox)}"
    now = tree(sandbox)
    if name in ONCE:
        now = {path: data for path, data in now.items() if path in after}
    differ = [path for path in now.keys() | after.keys() if now.get(path) != after.get(path)]
    if differ:
        yield f"other bytes than unbroken: {sorted(differ)}"


def workers(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Kill the processes that read images, and the command with its workers."""
    line, wrong, tries = COMMANDS["observe with workers"], list[str](), max(2, round(10 * share))
    whole = copy(ready, place / "sandbox")
    run(line.split(), whole)
    after = tree(whole)
    for number in range(tries):
        sandbox = copy(ready, place / "sandbox")
        ended = _with_a_worker_killed(line, sandbox, draw)
        if not ended.in_words:
            wrong.append(f"{number}: {ended.said[-300:]}")
        again = run(line.split(), sandbox)
        if again.code or tree(sandbox) != after or parts(sandbox):
            wrong.append(f"{number}, run again: {again.said[-300:]}")
    for one in wrong:
        print(one)
    return [*row("loader workers killed", tries, ""), *row("of these, something was wrong", len(wrong), "", "<= 0")]


def _with_a_worker_killed(line: str, sandbox: Path, draw: random.Random) -> Ended:
    child = start(line.split(), sandbox)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        pids = found.read_text().split() if found.exists() else []
        if pids:
            time.sleep(draw.uniform(0, 0.05))
            try:
                os.kill(int(draw.choice(pids)), 9)
            except ProcessLookupError:
                break
            break
    return child.wait()


# Disks ----------------------------------------------------------------------------------------------------------------


def disks(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Let the disk be full from a file operation on, and, where file systems can be mounted, small or read-only."""
    wrong, tries = list[str](), 0
    for name, line in COMMANDS.items():
        sandbox = copy(ready, place / "sandbox")
        whole, after = run(line.split(), sandbox), tree(sandbox)
        count = min(whole.operations, max(1, round(8 * share)))
        for at in sorted(draw.sample(range(1, whole.operations + 1), count)):
            sandbox, tries = copy(ready, place / "sandbox"), tries + 1
            ended = run(line.split(), sandbox, full_at=at)
            if not ended.in_words or (ended.code and "disk is full" not in ended.said):
                wrong.append(f"{name}, full from operation {at} of {whole.operations}: {ended.said[-300:]}")
            wrong += [f"{name}, {what}" for what in _after_kill(sandbox, name, line, tree(ready), after)]
    rows = [*row("disks full from a file operation on", tries, ""), *row("of these, wrong", len(wrong), "", "<= 0")]
    if os.geteuid() == 0 and sys.platform == "linux":
        rows += _mounted(ready, place, share, wrong)
    else:
        print("small and read-only file systems: left out, as mounting them takes root on Linux")
    for one in wrong[:20]:
        print(one)
    return rows


def _mounted(ready: Path, place: Path, share: float, wrong: list[str]) -> list[Row]:
    tries, already = 0, len(wrong)
    for name, line in COMMANDS.items():
        with _small_disk(ready, place / "mounted", 1 << 15) as sandbox:  # a set says where its images lie
            run(line.split(), sandbox)
            after = tree(sandbox)
        sizes = (0, 8, 32, 128)[: max(1, round(4 * share))]
        for free in sizes:
            tries += 1
            with _small_disk(ready, place / "mounted", free) as sandbox:
                ended = run(line.split(), sandbox)
                if not ended.in_words or (ended.code and "disk" not in ended.said):
                    wrong.append(f"{name}, {free} kB free: {ended.said[-300:]}")
                _mount("-o", "remount,size=64m", str(sandbox.parent))
                wrong += [f"{name}, {free} kB: {what}" for what in _after_kill(sandbox, name, line, tree(ready), after)]
        with _small_disk(ready, place / "mounted", 1024) as sandbox:
            tries += 1
            before = tree(sandbox)
            _mount("-o", "remount,ro", str(sandbox.parent))
            ended = run(line.split(), sandbox)
            if (
                not ended.in_words
                or not ended.code
                or not ("Read-only file system" in ended.said or "cannot write to" in ended.said)
                or tree(sandbox) != before
            ):
                wrong.append(f"{name}, read-only: {ended.code} {ended.said[-300:]}")
    return [
        *row("small and read-only file systems", tries, ""),
        *row("of these, wrong", len(wrong) - already, "", "<= 0"),
    ]


@contextmanager
def _small_disk(ready: Path, mount: Path, free: int) -> Iterator[Path]:
    """Mount a tmpfs that holds a copy, and as many kilobytes more as are given."""
    mount.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount))
    try:
        sandbox = copy(ready, mount / "sandbox")
        usage = shutil.disk_usage(mount)
        _mount("-o", f"remount,size={usage.used // 1024 + free}k", str(mount))
        yield sandbox
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


# Damage ---------------------------------------------------------------------------------------------------------------


def figures(study: Path) -> str:
    """Return all figures of a study, through every reader, as text."""
    opened = Study.open(study)
    said: list[object] = [opened.to_json()]
    for name in opened.decomposition_names:
        made = subspect.load_decomposition(opened, name)
        said += [made.to_json(), subspect.evaluate(opened, made, on="test").to_json()]
        said.append(subspect.compare(opened, made, first=0, second=1).to_json())
    said.append(subspect.selectivity(opened, on="train").to_json())
    for image_set in (opened.image_set("train"), opened.image_set("test")):
        whole = image_set.whole()
        said += [whole.ids, whole.labels.tolist(), whole.predictions.tolist(), whole.features.tolist()]
        said.append([digest and digest.hex() for digest in whole.digests])
    said += [tensor.tolist() for tensor in opened.head()]
    return json.dumps(said)


def damage(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Damage single files of a study, and ask it all that can be asked."""
    sandbox = copy(ready, place / "sandbox")
    run(f"report study {NETWORK}".split(), sandbox)
    study, good = sandbox / "study", place / "good"
    copy(study, good)
    files = [path for path in sorted(good.rglob("*")) if path.is_file() and path.stat().st_size]
    out = place / "figures"
    if _ask(study, out) != "figures":
        raise RuntimeError("a sound study gives no figures")
    wanted, foreign = out.read_text(), _foreign(ready, place)
    tries = [
        (path, f"bit {draw.randrange(8 * path.stat().st_size)}") for path in draw.choices(files, k=round(FLIPS * share))
    ]
    tries += [(path, how) for path in files for how in ("cut", "emptied", "doubled", "swapped", "foreign", "missing")]
    ends: Counter[str] = Counter()
    for path, how in tries:
        target = study / path.relative_to(good)
        _damage(target, path, how, files, foreign / path.relative_to(good), draw)
        twin = target.exists() and target.read_bytes() == path.read_bytes()
        if twin or (how == "missing" and target.parent.name == "decompositions"):  # which its owner may remove
            shutil.copyfile(path, target)
            continue
        end = _ask(study, out)
        if end == "figures":
            end = "without effect" if out.read_text() == wanted else "silent"
        kind = "flips" if how.startswith("bit") else "other damage"
        ends[f"{kind}: {end}"] += 1
        if end in ("silent", "death", "traceback"):
            print(f"{path.relative_to(good)}, {how}: {end}", flush=True)
        shutil.copyfile(path, target)
    rows = []
    for kind in ("flips", "other damage"):
        for end in ("noticed", "without effect"):
            rows += row(f"{kind}: {end}", ends[f"{kind}: {end}"], "")
        for end in ("silent", "death", "traceback"):
            rows += row(f"{kind}: {end}", ends[f"{kind}: {end}"], "", "<= 0")
    return rows


def _damage(target: Path, path: Path, how: str, files: list[Path], foreign: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    alike = [one for one in files if one.suffix == path.suffix and one != path]
    if how.startswith("bit"):
        bit = int(how[4:])
        data[bit // 8] ^= 1 << bit % 8
    elif how == "cut":
        del data[draw.randrange(1, len(data)) :]
    elif how == "doubled":
        data = data * 2
    elif how == "swapped" and alike:
        data = bytearray(draw.choice(alike).read_bytes())
    elif how == "foreign" and foreign.exists():
        data = bytearray(foreign.read_bytes())
    elif how == "missing":
        target.unlink()
        return
    else:
        data.clear()
    target.write_bytes(data)


def _foreign(ready: Path, place: Path) -> Path:
    """Return another study, of other weights, with files of the same names and sizes."""
    other = copy(ready, place / "other")
    shutil.rmtree(other / "study")
    (other / "model.py").write_text((other / "model.py").read_text().replace("manual_seed(0)", "manual_seed(1)"))
    for line in (COMMANDS["observe"], f"{COMMANDS['observe']} --name test", "decompose new -k 3", "report new"):
        run(line.replace("train", "test" if "--name test" in line else "train").split(), other)
    return other / "new"


def _ask(study: Path, out: Path) -> str:
    """Return how a study answers all questions: with figures, or noticed; or how the process broke."""

    def ask() -> None:
        try:
            text = figures(study)
            made = subspect.verify(study, show_progress=False)
            if made.sound:
                out.write_text(text)
                return
        except SubspectError:
            pass
        out.unlink(missing_ok=True)

    ended = run(ask, study.parent)
    if ended.code < 0:
        return "death"
    return "traceback" if ended.code else "figures" if out.exists() else "noticed"


# Pairs ----------------------------------------------------------------------------------------------------------------


def pairs(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Run every two writing commands at once."""
    wrong, count = list[str](), 0
    alone: dict[str, Tree] = {}
    for name, line in COMMANDS.items():
        sandbox = copy(ready, place / "sandbox")
        run(line.split(), sandbox)
        before = tree(ready)
        alone[name] = {path: data for path, data in tree(sandbox).items() if before.get(path) != data}
    several = list(itertools.combinations_with_replacement(COMMANDS, 2)) * max(1, round(ROUNDS * share))
    draw.shuffle(several)
    for names in several[: max(1, round(len(several) * min(1, share * ROUNDS)))]:
        sandbox, count = copy(ready, place / "sandbox"), count + 1
        children = []
        for name in names:
            children.append(start(COMMANDS[name].split(), sandbox))
            time.sleep(draw.choice((0, 0, 0.05, 0.2)))
        ended = [child.wait() for child in children]
        wrong += [f"{' + '.join(names)}: {what}" for what in _after_pair(sandbox, names, ended, alone)]
    for one in wrong[:20]:
        print(one)
    return [*row("pairs at once", count, ""), *row("pairs that went wrong", len(wrong), "", "<= 0")]


def _after_pair(sandbox: Path, names: tuple[str, str], ended: list[Ended], alone: dict[str, Tree]) -> Iterator[str]:
    for name, one in zip(names, ended, strict=True):
        if not one.in_words:
            yield f"{name} ended with {one.code}: {one.said[-400:]}"
        elif one.code and not any(
            word in one.said for word in ("another process", "other processes", "exists", "appeared")
        ):
            yield f"{name} refused: {one.said[-400:]}"
    done = [name for name, one in zip(names, ended, strict=True) if not one.code]
    if not done:
        yield "neither was done"
    now = tree(sandbox)
    for name in done:
        lost = [path for path in alone[name] if path not in now]
        if lost:
            yield f"{name} is done, and lacks {lost}"
    for study in (sandbox / "study", sandbox / "wide", sandbox / "new"):
        if (study / "study.json").exists():
            found = subspect.verify(study, show_progress=False)
            if not found.sound:
                yield f"{study.name} is damaged: {found.faults}"
    if parts(sandbox):
        yield f"left behind: {parts(sandbox)}"


# Decoys ---------------------------------------------------------------------------------------------------------------


def decoys(ready: Path, place: Path, share: float, draw: random.Random) -> list[Row]:
    """Lay decoys into every folder, and run every command."""
    changed, refused = list[str](), 0
    for name, line in COMMANDS.items():
        sandbox = copy(ready, place / "sandbox")
        run(line.split(), sandbox)
        start_of = tree(ready)
        written = [Path(path) for path, data in tree(sandbox).items() if start_of.get(path) != data]
        folders = sorted({str(parent) for path in written for parent in path.parents})
        sandbox, outside = copy(ready, place / "sandbox"), place / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir()
        (outside / "private").write_bytes(b"private")
        for folder in folders:
            _lay(sandbox / folder, outside)
        before, far = tree(sandbox), tree(outside)
        ended = run(line.split(), sandbox)
        now = tree(sandbox)
        ours = {path for path in before if path not in _LAID and Path(path).name not in _LAID_NAMES}
        changed += [f"{name}: {path}" for path in before if path not in ours and now.get(path) != before[path]]
        if tree(outside) != far:
            changed.append(f"{name}: what links lead to")
        refused += bool(ended.code)
        if ended.code:
            print(f"{name}: {ended.said.strip().splitlines()[-1]}")
        if not ended.in_words:
            changed.append(f"{name}: {ended.said[-300:]}")
    for one in changed:
        print(one)
    return [
        *row("commands run among decoys", len(COMMANDS), ""),
        *row("of these, refused by name", refused, ""),
        *row("decoys changed", len(changed), "", "<= 0"),
    ]


_LAID: set[str] = set()
_LAID_NAMES = {
    ".movie.part",
    ".report.html.123.part",
    ".00000.arrow.99.part",
    ".subspect-1234.part",
    f".subspect-{'0' * 24}.part",
    "holiday.jpg",
    "link.part",
    "pages.html.new",
    "pages-pages.new",
    "notes.json",
}


def _lay(folder: Path, outside: Path) -> None:
    """Lay decoys into a folder: names like ours, links, parts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(_LAID_NAMES):
        path = folder / name
        if name == "link.part":
            path.symlink_to(outside / "private")
        elif name == f".subspect-{'0' * 24}.part":
            path.symlink_to(outside)
        else:
            path.write_bytes(b"theirs")


PARTS: dict[str, Callable[[Path, Path, float, random.Random], list[Row]]] = {
    "kills": kills,
    "workers": workers,
    "disks": disks,
    "damage": damage,
    "pairs": pairs,
    "cluster": cluster,
    "decoys": decoys,
}

if __name__ == "__main__":
    sys.exit(main())
