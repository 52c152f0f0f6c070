"""Build wheel and sdist, look at what is in them, and run the demo from the wheel alone in a clean environment.

What `make package` does, with nothing but Python and pip. Each ``--demo PYTHON`` names an interpreter in whose own new
environment the wheel is installed, with the pinned versions of constraints.txt, and `subspect demo` is run:

    python .ci/package.py --demo python3.11 --demo python3.12 --demo python3.13
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "subspect"
NEEDED = {  # that no import would miss at once
    "subspect/py.typed",
    "subspect/__init__.pyi",
    "subspect/images/imagenet.txt",
    "subspect/report/templates/report.html",
}
IN_SDIST = {"src", "tests", "benchmarks", "examples", "docs", ".ci"}
LARGEST = 3 << 20  #: bytes of a wheel or an sdist: neither holds data or weights


def main() -> None:
    """Build, check, and run the demo; exit with what is wrong, if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where wheel and sdist go")
    parser.add_argument("--demo", action="append", default=[], metavar="PYTHON", help="an interpreter; repeatable")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel, sdist = build(given.out, work)
        faults = [*wheel_faults(wheel), *sdist_faults(sdist)]
        if faults:
            sys.exit("\n".join(f"error: {fault}" for fault in faults))
        say(f"{wheel.name} and {sdist.name} hold what they should")
        for number, interpreter in enumerate(given.demo):
            say(demo(wheel, interpreter, work / f"demo-{number}"))


def build(out: Path, work: Path) -> tuple[Path, Path]:
    """Build both from the working tree, the wheel from the sdist, and return their paths."""
    venv.create(work / "build", with_pip=True)
    python = work / "build" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "build")
    run(python, "-m", "build", "--outdir", work / "dist", ROOT)
    out.mkdir(parents=True, exist_ok=True)
    made = [path.replace(out / path.name) for path in sorted((work / "dist").iterdir())]
    [wheel] = [path for path in made if path.suffix == ".whl"]
    [sdist] = [path for path in made if path.suffix == ".gz"]
    return wheel, sdist


def wheel_faults(wheel: Path) -> list[str]:
    """Say what is wrong with a wheel: it holds every file of the package, its own metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if not name.endswith("/")}
    wanted = {
        f"subspect/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    package = {name for name in names if ".dist-info/" not in name}
    faults = [f"{wheel.name} lacks {name}" for name in sorted((wanted | NEEDED) - package)]
    faults += [f"{wheel.name} holds {name}, which is no part of the package" for name in sorted(package - wanted)]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        faults.append(f"{wheel.name} lacks the licence")
    return faults + size_faults(wheel)


def sdist_faults(sdist: Path) -> list[str]:
    """Say what is wrong with an sdist: it holds the package, what tests it and what documents it, and no data."""
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    faults = [f"{sdist.name} lacks src/{name}" for name in sorted(NEEDED) if f"src/{name}" not in names]
    odd = sorted({name.partition("/")[0] for name in names if "/" in name} - IN_SDIST)
    faults += [f"{sdist.name} holds the folder {name}, which nobody named" for name in odd]
    return faults + size_faults(sdist)


def size_faults(path: Path) -> list[str]:
    """Say that a file is too large for code and documents, if it is."""
    size = path.stat().st_size
    return [f"{path.name} has {size:,} bytes, more than {LARGEST:,}: does it hold data?"] * (size > LARGEST)


def demo(wheel: Path, interpreter: str, folder: Path) -> str:
    """Install the wheel into a new environment of an interpreter, run the demo there, and say what came of it."""
    run(interpreter, "-m", "venv", folder / "venv")
    own = folder / "venv" / "bin"
    pip = [own / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "-c", ROOT / "constraints.txt", f"{wheel}[demo]")
    version = run(own / "subspect", "--version", cwd=folder).strip()
    run(own / "subspect", "demo", "--quiet", "-o", folder / "demo", cwd=folder)
    if not (folder / "demo" / "study" / "report.html").is_file():
        sys.exit(f"error: the demo of {version} wrote no report with {interpreter}")
    python = run(own / "python", "--version").strip()
    return f"subspect {version}: the demo ran from the wheel alone, {python}"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command without the paths of this checkout, return what it printed, and exit with its errors if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def say(what: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
