"""What belongs to a project beside its code: versions that agree, a citation, workflows, templates, and what is packed."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import subspect
from world import ROOT

#: of the Citation File Format 1.2.0
CFF = set(
    "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message "
    "preferred-citation references repository repository-artifact repository-code title type url version".split()
)
PERSON = {
    "affiliation",
    "alias",
    "email",
    "family-names",
    "given-names",
    "name-particle",
    "name-suffix",
    "orcid",
    "website",
}
REFERENCE = {
    "authors",
    "date-published",
    "doi",
    "identifiers",
    "issue",
    "journal",
    "start",
    "end",
    "title",
    "type",
    "url",
}
REFERENCE |= {"volume", "year", "publisher", "notes", "license"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]\w*):", MAKEFILE, re.M))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(name: str) -> dict[Any, Any]:
    value = yaml.safe_load(text_of(name))
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text_of("pyproject.toml"))["project"]
    return found


@pytest.fixture(scope="module")
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_package", ROOT / ".ci" / "package.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ci_package"] = module
    spec.loader.exec_module(module)
    return module


def test_one_version_everywhere(project: dict[str, Any]) -> None:
    assert "version" in project["dynamic"] and re.fullmatch(r"\d+\.\d+\.\d+", subspect.__version__)
    assert parsed("CITATION.cff")["version"] == subspect.__version__
    headings = re.findall(r"^## (.+)$", text_of("CHANGELOG.md"), re.M)
    assert next(one for one in headings if one != "Unreleased") == subspect.__version__


def test_the_citation_is_one(project: dict[str, Any]) -> None:
    citation = parsed("CITATION.cff")
    assert set(citation) <= CFF and {"authors", "cff-version", "message", "title"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] in ("software", "dataset")
    assert citation["license"] == project["license"]
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in project["authors"]]
    [paper] = citation["references"]
    assert {"authors", "title", "type"} <= set(paper) <= REFERENCE and paper["type"] == "article"
    assert all(set(one) <= PERSON and {"family-names", "given-names"} <= set(one) for one in paper["authors"])
    assert [one["family-names"] for one in paper["authors"]] == ["Badola", "Roy", "Padmanabhan", "Lal"]
    assert paper["url"] == project["urls"]["Paper"] and isinstance(paper["year"], int)
    assert {one["type"] for one in paper["identifiers"]} <= {"doi", "url", "swh", "other"}


def test_addresses_lead_to_what_is_here(project: dict[str, Any]) -> None:
    home = project["urls"]["Homepage"]
    assert parsed("CITATION.cff")["repository-code"] == home
    for address in project["urls"].values():
        assert address.startswith("https://")
        if inside := re.fullmatch(re.escape(home) + r"/(?:tree|blob)/main/(.+)", address):
            assert (ROOT / inside[1]).exists()


def test_the_workflow_runs_targets_of_make_and_may_only_read(project: dict[str, Any]) -> None:
    text, workflow = text_of(".github/workflows/ci.yml"), parsed(".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"} and "secrets" not in text
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert not any("permissions" in job for job in workflow["jobs"].values())
    for step in steps:
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
        else:
            assert set(step) == {"run"} and re.fullmatch(r"make \w+( PYTHON=python)?", step["run"])
    ran = {step["run"].split()[1] for step in steps if "run" in step}
    assert ran <= TARGETS and {"lint", "types", "floors", "docs", "test", "package", "audit"} <= ran
    told = {one.rpartition(" ")[2] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)}
    assert told == {"3.11", "3.12", "3.13"} and project["requires-python"] == f">={min(told)}"
    for name in ("test", "package"):
        matrix = workflow["jobs"][name]["strategy"]["matrix"]
        assert set(matrix["python"]) == told and matrix["os"] == ["ubuntu-latest", "macos-latest"]


def test_templates_have_a_name_and_ask_for_what_is_needed() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    assert {path.stem for path in folder.glob("*.md")} == {"bug", "wrong_result", "question"}
    for path in folder.glob("*.md"):
        front = yaml.safe_load(path.read_text(encoding="utf-8").split("---")[1])
        assert set(front) == {"name", "about", "labels"} and all(front.values())
    for name in ("bug", "wrong_result"):
        assert "subspect doctor" in (folder / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", ".github/pull_request_template.md"]
)
def test_pages_name_what_there_is(name: str) -> None:
    text = text_of(name)
    for target in re.findall(r"\bmake (\w+)", "\n".join(re.findall(r"`[^`]+`|^make .*$", text, re.M))):
        assert target in TARGETS, target
    for place in re.findall(r"\]\((?!https)([^)#]+)", text):
        assert (ROOT / place).exists(), place
    for place in re.findall(r"`((?:src|tests|\.ci|studies|heads|cli)/[\w./]+)`", text):
        assert (ROOT / place).exists() or (ROOT / "src/subspect" / place).exists(), place


# What is packed -------------------------------------------------------------------------------------------------------


def wheel_of(package: ModuleType, path: Path, leave: str = "", more: str = "") -> Path:
    """Write a wheel as one is built, without a file, and with another one."""
    files = [one for one in package.SOURCE.rglob("*") if one.is_file() and "__pycache__" not in one.parts]
    with zipfile.ZipFile(path, "w") as file:
        for one in files:
            if one.name != leave:
                file.writestr(f"subspect/{one.relative_to(package.SOURCE).as_posix()}", b"")
        for name in filter(None, ("subspect-0.dist-info/licenses/LICENSE", "subspect-0.dist-info/METADATA", more)):
            file.writestr(name, b"")
    return path


def test_a_wheel_holds_the_package_and_nothing_else(package: ModuleType, tmp_path: Path) -> None:
    assert package.wheel_faults(wheel_of(package, tmp_path / "a.whl")) == []
    for name in ("py.typed", "imagenet.txt", "report.html", "__init__.pyi"):
        [fault] = package.wheel_faults(wheel_of(package, tmp_path / "b.whl", leave=name))
        assert fault.startswith("b.whl lacks subspect/") and fault.endswith(name)
    for name in ("tests/test_x.py", "subspect/data.npy"):
        [fault] = package.wheel_faults(wheel_of(package, tmp_path / "c.whl", more=name))
        assert fault == f"c.whl holds {name}, which is no part of the package"


def test_an_sdist_holds_what_was_named(package: ModuleType, tmp_path: Path) -> None:
    def sdist_of(names: list[str]) -> Path:
        with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as file:
            for name in names:
                file.addfile(tarfile.TarInfo(f"subspect-0/{name}"), io.BytesIO())
        return tmp_path / "x.tar.gz"

    needed = [f"src/{name}" for name in package.NEEDED]
    assert package.sdist_faults(sdist_of([*needed, "README.md", "tests/test_x.py"])) == []
    assert package.sdist_faults(sdist_of([*needed, "study/study.json"])) == [
        "x.tar.gz holds the folder study, which nobody named"
    ]
    assert len(package.sdist_faults(sdist_of([]))) == len(needed)


def test_a_file_too_large_for_code_is_told(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "LARGEST", 10)
    (tmp_path / "x.whl").write_bytes(bytes(11))
    assert package.size_faults(tmp_path / "x.whl") == ["x.whl has 11 bytes, more than 10: does it hold data?"]


def test_a_command_that_fails_ends_with_what_it_said(package: ModuleType) -> None:
    assert package.run(sys.executable, "-c", "print('so')") == "so\n"
    with pytest.raises(SystemExit, match="(?s)^error: .*no, because"):
        package.run(sys.executable, "-c", "raise SystemExit('no, because')")
