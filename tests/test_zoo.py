"""Networks by name, and weights that are loaded whole or not at all and never run code."""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import PIXELS
from subspect import SubspectError, load_network
from subspect.networks.weights import _number, load_weights

NET = """
from torch import nn

def make():
    return nn.Linear(4, 2)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, forget the modules that were imported from it, and find sys.path as it was."""
    monkeypatch.chdir(tmp_path)
    path = sys.path.copy()
    yield tmp_path
    assert sys.path == path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: str, text: str = NET) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def refuse(spec: str, match: str) -> None:
    with pytest.raises(SubspectError, match=match):
        load_network(spec)


# Naming a network -----------------------------------------------------------------------------------------------------


def test_module_in_the_working_folder() -> None:
    write("mine.py")
    network = load_network("python:mine:make")
    assert isinstance(network.model, nn.Linear)
    assert network.name == "python:mine:make"
    assert network.preprocessing is None
    assert network.class_names is None


def test_module_in_a_package_in_the_working_folder() -> None:
    write("package/__init__.py", "")
    write("package/nets.py", NET + "class Net(nn.Linear):\n    def __init__(self): super().__init__(3, 3)\n")
    assert isinstance(load_network("python:package.nets:make").model, nn.Linear)
    assert type(load_network("python:package.nets:Net").model).__name__ == "Net"  # a class is a callable, too


def test_module_that_is_installed() -> None:
    assert type(load_network("python:subspect.resnet:cifar10_resnet20").model).__name__ == "ResNet"


@pytest.mark.parametrize("place", ["code/net.py", "./code/net.py", "{folder}/code/net.py"])
def test_file_with_a_module_beside_it(folder: Path, place: str) -> None:
    write("code/sizes.py", "inputs, outputs = 7, 3\n")
    write(
        "code/net.py", "import sizes\nfrom torch import nn\ndef make(): return nn.Linear(sizes.inputs, sizes.outputs)\n"
    )
    model = load_network(f"python:{place.format(folder=folder)}:make").model
    assert isinstance(model, nn.Linear)
    assert (model.in_features, model.out_features) == (7, 3)


def test_module_beside_the_file_may_be_imported_when_the_callable_runs() -> None:
    write("code/late.py")
    write("code/net.py", "def build():\n    from late import make\n    return make()\n")
    assert isinstance(load_network("python:code/net.py:build").model, nn.Linear)


def test_modules_beside_the_file_go_before_others_of_their_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("installed")
    (other / "twin.py").write_text("raise ImportError('the wrong one')")
    write("code/twin.py")
    write("code/net.py", "from twin import make")
    sys.path.insert(0, str(other))
    try:
        assert isinstance(load_network("python:code/net.py:make").model, nn.Linear)
    finally:
        sys.path.remove(str(other))


def test_files_of_one_name_in_two_folders() -> None:
    write("one/net.py", NET)
    write("two/net.py", NET.replace("2)", "3)"))
    models = [load_network(f"python:{place}/net.py:make").model for place in ("one", "two", "one")]
    assert [model.out_features for model in models] == [2, 3, 2]


@pytest.mark.parametrize("name", ["sized", "torch"])
def test_file_with_dataclasses_and_one_with_a_name_that_is_taken(name: str) -> None:
    write(
        f"code/{name}.py",
        "from __future__ import annotations\nimport dataclasses\nfrom torch import nn\n"
        "@dataclasses.dataclass\nclass Sizes:\n    inputs: int = 4\n    outputs: int = 2\n"
        "def make() -> nn.Module: return nn.Linear(Sizes().inputs, Sizes().outputs)\n",
    )
    assert isinstance(load_network(f"python:code/{name}.py:make").model, nn.Linear)
    assert sys.modules["torch"] is torch


def test_path_is_as_it_was_even_where_the_folder_is_on_it_already(folder: Path) -> None:
    write("net.py")
    write("broken.py", "import nothing_of_this_name\n")
    before = sys.path.copy()
    sys.path.insert(2, str(folder))
    now = sys.path.copy()
    try:
        load_network("python:net.py:make")
        load_network("python:net:make")
        for place in ("broken", "broken.py"):
            refuse(f"python:{place}:make", "importing broken")
        assert sys.path == now
    finally:
        sys.path[:] = before


RETURNED = "from torch import nn\nimport subspect\nmodel = nn.Linear(4, 2)\ndef make(): return {}\n"
DECLARED = "subspect.Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"


@pytest.mark.parametrize(
    ("value", "preprocessing", "names"),
    [
        ("model,", None, None),
        (f"model, {DECLARED}", PIXELS, None),
        (f"(model, {DECLARED}, ['cat', 'dog'])", PIXELS, ("cat", "dog")),
        ("model, None, ['cat', 'dog']", None, ("cat", "dog")),
        ("model, dict(resize=None, crop=None, mean=[0.5] * 3, std=[0.5] * 3), None", PIXELS, None),
    ],
)
def test_what_the_callable_returns(value: str, preprocessing: object, names: object) -> None:
    write("net.py", RETURNED.format(value))
    network = load_network("python:net.py:make")
    assert isinstance(network.model, nn.Linear)
    assert network.preprocessing == preprocessing
    assert network.class_names == names


def test_what_is_given_goes_before_what_is_returned() -> None:
    write("net.py", RETURNED.format("model, dict(resize=9, crop=9, mean=0, std=1), ['cat', 'dog']"))
    network = load_network("python:net.py:make", preprocessing=PIXELS, class_names=["a", "b"])
    assert network.preprocessing is PIXELS
    assert network.class_names == ("a", "b")


def test_what_the_model_itself_declares() -> None:
    write("net.py", RETURNED.format("model") + f"model.class_names = ['x', 'y']\nmodel.preprocessing = {DECLARED}\n")
    network = load_network("python:net.py:make")
    assert network.preprocessing == PIXELS
    assert network.class_names == ("x", "y")


def test_head_is_passed_on() -> None:
    write("net.py")
    with pytest.raises(SubspectError, match="head 'fc' is not an nn.Linear"):
        load_network("python:net.py:make", head="fc").find_head(torch.ones(2, 4))


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "timm:",
        "hf",
        "tim:resnet18",
        "python:",
        "python:mine",
        "python::make",
        "python:mine:",
        "Python:mine:make",
    ],
)
def test_name_that_says_no_network(spec: str) -> None:
    match = (
        rf"^cannot tell what network '{spec}' is( \(did you mean '\w+'\?\))?; expected python:package.module:callable, "
        "python:path/file.py:callable, timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER"
    )
    refuse(spec, match)


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("None", "NoneType"),
        ("'model'", "str"),
        ("nn.Linear", "type"),
        ("[model]", "list"),
        ("model.state_dict()", "OrderedDict"),
        ("(1, model)", "int, Linear"),
        ("()", ""),
        ("(model, None, None, None)", "Linear, NoneType, NoneType, NoneType"),
    ],
)
def test_callable_that_returns_something_else(value: str, kinds: str) -> None:
    write("net.py", RETURNED.format(value))
    match = rf"python:net.py:make must return a torch.nn.Module, or \(model, preprocessing\), .*; it returned {kinds}$"
    refuse("python:net.py:make", match)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("raise ValueError('no such size')", "ValueError: no such size"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ],
)
def test_code_that_raises(statement: str, error: str) -> None:
    write("net.py", f"def make():\n    {statement}\n")
    refuse("python:net.py:make", rf"^python:net.py:make: calling make\(\) failed: {error}$")
    write("other.py", f"{statement}\n")
    refuse("python:other.py:make", f"^importing other.py failed: {error}$")
    refuse("python:other:make", f"^importing other failed: {error}$")


def test_callable_that_needs_arguments() -> None:
    write("net.py", "def make(depth): ...\n")
    refuse("python:net.py:make", r"calling make\(\) failed: TypeError: make\(\) missing 1 required positional argument")


ARGUMENTS = """
from torch import nn
def make(num_classes=2, bias=True, name=None, sizes=()):
    assert name in (None, "a:b(c)")
    model = nn.Linear(4, num_classes, bias)
    model.given = num_classes, bias, name, sizes
    return model
"""


@pytest.mark.parametrize(
    ("call", "given"),
    [
        ("make()", (2, True, None, ())),
        ("make(num_classes=10)", (10, True, None, ())),
        ("make(num_classes = 3, bias=False, name='a:b(c)')", (3, False, "a:b(c)", ())),
        ("make(sizes={'a': [1, -2.5]},)", (2, True, None, {"a": [1, -2.5]})),
    ],
)
def test_arguments_in_the_name(call: str, given: object) -> None:
    for place in ("net.py", "dir(1):a/net.py"):
        write(place, ARGUMENTS)
        network = load_network(f"python:{place}:{call}")
        assert network.model.given == given and network.name == f"python:{place}:{call}"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            "make(10)",
            r"cannot call make with '10'; expected a plain name with arguments by keyword, such as resnet20\(",
        ),
        ("make(*[1])", r"cannot call make with '\*\[1\]'; expected"),
        ("make(**{'bias': False})", r"cannot call make with '\*\*'; expected"),
        ("make(num_classes=1, num_classes=2)", "make is given 'num_classes' twice|cannot read the call"),
        ("make(num_classes=int('3'))", r"make: num_classes must be written out, as a number, .* got int\('3'\)$"),
        ("make(num_classes=2 * 5)", r"num_classes must be written out, .* got 2 \* 5$"),
        ("make(name=__import__('os').system('touch ran'))", "name must be written out"),
        ("make(num_classes=3", r"cannot read the call 'make\(num_classes=3'; expected a plain name"),
        ("a.make(num_classes=3)", r"cannot read the call 'a.make\(num_classes=3\)'; expected a plain name"),
        ("make()()", r"cannot read the call 'make\(\)\(\)'; expected a plain name"),
        (
            "make(depth=3)",
            r"calling make\(depth=3\) failed: TypeError: make\(\) got an unexpected keyword argument 'depth'",
        ),
    ],
)
def test_arguments_that_cannot_be_read(call: str, match: str) -> None:
    write("net.py", ARGUMENTS)
    refuse(f"python:net.py:{call}", match)
    assert not Path("ran").exists()


def test_file_with_a_mistake() -> None:
    write("net.py", "def make(:\n")
    refuse("python:net.py:make", "^importing net.py failed: SyntaxError: invalid syntax")


def test_no_such_module_or_file(folder: Path) -> None:
    refuse(
        "python:nothing_of_this_name:make",
        "^importing nothing_of_this_name failed: ModuleNotFoundError: No module named",
    )
    refuse("python:code/nothing.py:make", rf"^no such Python file: code/nothing.py \(looked in {folder}\)$")


def test_no_such_callable() -> None:
    write("net.py", "def resnet20(): ...\ndef resnet32(): ...\ndef _hidden(): ...\ndepth = 20\n")
    match = (
        r"^python:net.py:resnet21: no callable 'resnet21' there \(did you mean 'resnet32' or 'resnet20'\?\); it has: "
    )
    refuse("python:net.py:resnet21", match + "resnet20, resnet32$")
    refuse("python:net.py:depth", "no callable 'depth' there; it has: resnet20, resnet32$")
    write("empty.py", "")
    refuse("python:empty.py:make", "no callable 'make' there; it has: none of its own$")
    write("imports.py", "from torch import nn\nfrom torch.nn import Linear\ndef make(): ...\n")
    refuse("python:imports.py:made", r"no callable 'made' there \(did you mean 'make'\?\); it has: make$")


# Loading weights ------------------------------------------------------------------------------------------------------


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
        model(torch.randn(4, 1, 2, 2))  # the buffers of the norm are no longer the same in all
    return model


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def with_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def test_safetensors_for_a_named_network() -> None:
    write("net.py", "from torch import nn\ndef make(): return nn.Linear(4, 2)\n")
    weights = {"weight": torch.randn(2, 4), "bias": torch.randn(2)}
    save_file(weights, "weights.safetensors")
    assert same(load_network("python:net.py:make", "weights.safetensors").model.state_dict(), weights)
    assert same(load_network("python:net.py:make", Path("weights.safetensors")).model.state_dict(), weights)


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "alone": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best_prec1": 91.7},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.ones(1)},
    "model": lambda state: {"model": state, "names": ["a", "b"]},
    "net": lambda state: {"net": state, "acc": 91.7},
    "network": lambda state: {"network": state, "opt": None},
    "twice": lambda state: {"epoch": 1, "model": {"state_dict": state, "epoch": 1}},
    "module.": lambda state: {"state_dict": with_prefix("module.", state)},
    "_orig_mod.": lambda state: with_prefix("_orig_mod.", state),
    "module._orig_mod.": lambda state: with_prefix("module._orig_mod.", state),
    "_orig_mod.module.": lambda state: with_prefix("_orig_mod.module.", state),
    "NumPy's numbers": lambda state: {
        "state_dict": state,
        "acc": np.float64(0.9),
        "best": [np.float32(0.5), np.int64(3), np.uint8(1), np.bool_(True), np.complex64(1j), np.longdouble(1)],
        "epoch": 3,
    },
    "without num_batches_tracked": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint(wrap: Callable[[dict[str, Tensor]], object], legacy: bool) -> None:
    model, wanted = net(1), net(2).state_dict()
    torch.save(wrap(wanted), "weights.pth", _use_new_zipfile_serialization=not legacy)
    load_weights(model, "weights.pth")
    assert same(model.state_dict(), wanted)


def test_numbers_as_numpy_1_and_2_name_them(tmp_path: Path) -> None:
    wanted, names = net(2).state_dict(), (b"numpy.core.multiarray", b"numpy._core.multiarray")
    torch.save({"state_dict": wanted, "acc": np.float64(0.9)}, "weights.pth", _use_new_zipfile_serialization=False)
    data = Path("weights.pth").read_bytes()
    own = names[names[1] in data]
    for name in names:
        Path("weights.pth").write_bytes(data.replace(b"c" + own + b"\n", b"c" + name + b"\n"))
        model = net(1)
        load_weights(model, "weights.pth")
        assert same(model.state_dict(), wanted)


@pytest.mark.parametrize(
    "other",
    [
        np.str_("text"),
        np.datetime64("2020-01-01"),
        np.zeros(1, "f4,f4")[0],
        np.zeros(2),
        np.dtype("f4,f4"),
        np.dtype("O"),
    ],
)
def test_what_is_no_number_of_numpys_is_refused(other: object) -> None:
    torch.save({"state_dict": net(2).state_dict(), "other": other}, "weights.pth")
    before = torch.serialization.get_safe_globals()
    with pytest.raises(SubspectError, match="holds more than tensors, or is no checkpoint"):
        load_weights(net(1), "weights.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)  # nothing stays allowed


def test_a_number_of_other_bytes_is_refused() -> None:
    for odd in ((np.dtype("f8"), b"\0" * 4), (np.dtype("O"), b"\0" * 8), (np.dtype("f8"), "text"), ("f8", b"\0" * 8)):
        with pytest.raises(pickle.UnpicklingError):
            _number(*odd)
    assert _number(np.dtype(">i2"), b"\0\1") == 1


def test_tensors_that_the_network_does_not_need() -> None:
    model, wanted = net(1), net(2).state_dict()
    more = {"aux.weight": torch.ones(1), "aux.bias": torch.ones(1), "auxiliary": torch.ones(1), "0.mask": torch.ones(2)}
    torch.save({"state_dict": with_prefix("module.", wanted | more)}, "weights.pth")
    with pytest.raises(
        SubspectError, match=r"unexpected: aux.weight, .*ignore_extra=\['NAME'\] \(--ignore-extra NAME\)$"
    ):
        load_weights(model, "weights.pth")
    with pytest.raises(SubspectError, match="unexpected: auxiliary; what the network doesn't need is left out"):
        load_weights(model, "weights.pth", ["aux", "0"])
    with pytest.raises(SubspectError, match=r"ignore_extra must be a list of names; got 'aux': write \['aux'\]"):
        load_weights(model, "weights.pth", "aux")
    load_weights(model, "weights.pth", ["aux.", "auxiliary", "0"])  # the network's own tensors in 0 are loaded
    assert same(model.state_dict(), wanted)
    write("net.py", "from torch import nn\ndef make(): return nn.Linear(2, 2)\n")
    save_file(nn.Linear(2, 2).state_dict() | {"aux": torch.ones(1)}, "weights.safetensors")
    load_network("python:net.py:make", "weights.safetensors", ignore_extra=["aux"])


def test_prefixes_in_safetensors() -> None:
    model, wanted = net(1), net(2).state_dict()
    save_file(with_prefix("module.", wanted), "weights.safetensors")
    load_weights(model, "weights.safetensors")
    assert same(model.state_dict(), wanted)


def test_prefix_that_the_network_has_itself() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 1)})
    wanted = nn.ModuleDict({"module": nn.Linear(2, 1)}).state_dict()
    save_file(wanted, "own.safetensors")
    load_weights(model, "own.safetensors")
    assert same(model.state_dict(), wanted)
    wanted = nn.ModuleDict({"module": nn.Linear(2, 1)}).state_dict()
    save_file(with_prefix("module.", wanted), "wrapped.safetensors")
    load_weights(model, "wrapped.safetensors")
    assert same(model.state_dict(), wanted)


def test_weights_take_the_types_of_the_network() -> None:
    model = nn.Linear(2, 1)
    torch.save(
        {"weight": torch.tensor([[1, 2]], dtype=torch.float64), "bias": torch.tensor([0.5]).half()}, "weights.pth"
    )
    load_weights(model, "weights.pth")
    assert model.weight.dtype == model.bias.dtype == torch.float32
    assert [*model.weight.flatten().tolist(), *model.bias.tolist()] == [1, 2, 0.5]
    assert model.weight.requires_grad


def test_all_that_does_not_fit_is_listed_and_nothing_loaded() -> None:
    model, state = net(1), net(2).state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del state["0.bias"], state["1.running_var"]
    state |= {"fc.weight": torch.ones(1), "3.weight": torch.ones(5, 8), "1.running_mean": torch.ones(3)}
    torch.save(state, "weights.pth")
    with pytest.raises(
        SubspectError,
        match=r"^the weights weights.pth do not fit the network Sequential; missing: 0.bias, 1.running_var; "
        r"unexpected: fc.weight; of another shape: 1.running_mean \(3,\) instead of \(2,\), "
        r"3.weight \(5, 8\) instead of \(3, 8\); what the network doesn't need is left out by",
    ):
        load_weights(model, "weights.pth")
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("3.bias"), "the network Sequential; missing: 3.bias$"),
        (
            lambda state: state.update(more=torch.ones(1)),
            "the network Sequential; unexpected: more; what the network .*",
        ),
        (
            lambda state: state.update({"0.bias": torch.ones(())}),
            r"the network Sequential; of another shape: 0.bias \(\) instead of \(2,\)$",
        ),
    ],
)
def test_one_thing_that_does_not_fit(change: Callable[[dict[str, Tensor]], object], match: str) -> None:
    state = dict(net(2).state_dict())
    change(state)
    save_file(state, "weights.safetensors")
    with pytest.raises(SubspectError, match=match):
        load_weights(net(1), "weights.safetensors")


def test_prefix_on_some_names_only_is_left() -> None:
    state = net(2).state_dict()
    torch.save(with_prefix("module.", state) | {"epoch": torch.tensor(3)}, "weights.pth")
    with pytest.raises(SubspectError, match=r"missing: 0.weight, .*; unexpected: module.0.weight, .*"):
        load_weights(net(1), "weights.pth")


# Files that are no weights --------------------------------------------------------------------------------------------


class Attack:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def save_pickle(value: object, path: str) -> None:
    Path(path).write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl", ".safetensors"])
def test_code_in_a_pickle_is_refused_and_not_run(folder: Path, how: str, suffix: str) -> None:
    mark, path, model = folder / "attacked", f"weights{suffix}", net(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    value = {"state_dict": net(2).state_dict(), "extra": Attack(mark)}
    if how == "pickle":
        save_pickle(value, path)
        pickle.loads(Path(path).read_bytes())
    else:
        torch.save(value, path, _use_new_zipfile_serialization=how == "zip")
        torch.load(io.BytesIO(Path(path).read_bytes()), weights_only=False)
    assert mark.exists()  # it works where pickles are run
    mark.unlink()
    match = (
        "cannot read the weights weights.safetensors: SafetensorError: "
        if suffix == ".safetensors"
        else rf"^weights{suffix} holds more than tensors, or is no checkpoint, and subspect does not run code from a file "
        r"of weights; save model.state_dict\(\) alone, best as safetensors \(unsupported global"
    )
    with pytest.raises(SubspectError, match="(?i)" + match) as caught:
        load_weights(model, path)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # PyTorch's advice to run the code all the same is not passed on
    assert same(model.state_dict(), before)


def test_whole_model_is_refused() -> None:
    torch.save(net(), "model.pth")
    with pytest.raises(
        SubspectError, match=r"holds more than tensors, .* best as safetensors \(Unsupported global: GLOBAL "
    ):
        load_weights(net(1), "model.pth")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"epoch": 3, "best": 0.9}, "; it has epoch, best$"),
        ({}, "; it has nothing$"),
        ({"state_dict": {}}, "; it has nothing$"),
        ({0: torch.ones(1)}, "; it has 0$"),
        ({"state_dict": {"weight": [1.0]}}, "; it has weight$"),
    ],
)
def test_no_tensors_by_name(value: object, match: str) -> None:
    torch.save(value, "weights.pth")
    names = "state_dict, model_state_dict, model, net, network"
    expected = f"^weights.pth holds no tensors by name: expected a state_dict, or one under {names}{match}"
    with pytest.raises(SubspectError, match=expected):
        load_weights(net(), "weights.pth")


@pytest.mark.parametrize(("value", "kind"), [(torch.ones(2), "Tensor"), ([torch.ones(2)], "list"), (3, "int")])
def test_no_mapping(value: object, kind: str) -> None:
    torch.save(value, "weights.pth")
    with pytest.raises(SubspectError, match=f"^weights.pth holds a {kind}; expected a state_dict, name → tensor$"):
        load_weights(net(), "weights.pth")


def test_no_file_of_weights(folder: Path) -> None:
    for path in ("nothing.pth", str(folder)):
        with pytest.raises(SubspectError, match=f"^no such file of weights: {path}$"):
            load_weights(net(), path)


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices of POSIX")
def test_weights_that_are_no_file(folder: Path) -> None:
    os.mkfifo("pipe.pth")
    os.mkfifo("pipe.safetensors")
    for path in (
        "pipe.pth",
        "pipe.safetensors",
        "/dev/zero",
        "a" * 300,
        "b" * 300 + ".safetensors",
        "a\0.pth",
        "a/" * 3000,
    ):
        with pytest.raises(SubspectError, match="^no such file of weights: "):
            load_weights(net(), path)


@pytest.mark.parametrize("place", ["a" * 300 + ".py", "a\0.py", "a/" * 3000 + "b.py", "\ud800.py"])
def test_python_file_that_cannot_be(place: str) -> None:
    refuse(f"python:{place}:make", "^no such Python file: ")


def odd_tensors() -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these kinds are not all finished, or no longer wanted, in PyTorch
        return {
            "sparse": torch.eye(3).to_sparse(),
            "sparse by rows": torch.eye(3).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
            "without data, on the meta device": torch.empty(3, 3, device="meta"),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        }


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_are_not_plain(kind: str) -> None:
    torch.save(net().state_dict() | {"3.weight": odd_tensors()[kind]}, "weights.pth")
    expected = re.escape(kind.removesuffix(" by rows"))
    with pytest.raises(
        SubspectError,
        match=rf"^the weights weights.pth hold tensors that are not plain: 3.weight \({expected}\); save them as",
    ):
        load_weights(net(), "weights.pth")


def test_names_of_control_characters_in_a_checkpoint() -> None:
    torch.save(net().state_dict() | {"\x1b[31m\0\n": torch.ones(1)}, "weights.pth")
    with pytest.raises(SubspectError, match="do not fit the network Sequential; unexpected: "):
        load_weights(net(), "weights.pth")


def test_checkpoint_that_holds_itself() -> None:
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, "weights.pth")
    with pytest.raises(SubspectError, match=r"^weights.pth holds no tensors by name: expected .*; it has model$"):
        load_weights(net(), "weights.pth")


def test_keys_of_a_checkpoint_that_are_no_names() -> None:
    torch.save({(1, 2): torch.ones(1), 3: torch.ones(1)}, "weights.pth")
    with pytest.raises(SubspectError, match=r"; it has a key of type tuple, 3$"):
        load_weights(net(), "weights.pth")


@pytest.mark.parametrize("error", [RecursionError("too deep"), MemoryError()])
def test_reader_that_gives_up(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", give_up)
    monkeypatch.setattr("subspect.networks.weights.load_file", give_up)
    for path in ("weights.pth", "weights.safetensors"):
        Path(path).write_bytes(b"")
        with pytest.raises(SubspectError, match=rf"^cannot read the weights {path}: {type(error).__name__}: "):
            load_weights(net(), path)


PAGES = {
    "empty": (b"", "EOFError: "),
    "web page": (b"<!DOCTYPE html><html>Not found</html>", r"is no checkpoint, .* \(Unsupported operand 60\)"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        r"is no checkpoint, .* \(Unsupported operand",
    ),
    "GIF": (b"GIF89a", "error: unpack requires a buffer of 8 bytes"),
    "half a zip": (b"PK\x03\x04", "RuntimeError: PytorchStreamReader failed reading zip archive"),
    "half a pickle": (b"\x80\x02.", "IndexError: pop from empty list"),
}


@pytest.mark.parametrize(("content", "match"), PAGES.values(), ids=PAGES.keys())
def test_something_else_in_the_file(content: bytes, match: str) -> None:
    Path("weights.pth").write_bytes(content)
    with pytest.raises(SubspectError, match=match) as caught:
        load_weights(net(), "weights.pth")
    assert "weights.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    Path("weights.safetensors").write_bytes(content)
    with pytest.raises(SubspectError, match=r"^cannot read the weights weights.safetensors: SafetensorError: \w+"):
        load_weights(net(), "weights.safetensors")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_file_is_read_or_refused_and_never_half_loaded(data: st.DataObject) -> None:
    model, saved = nn.Linear(2, 1), nn.Linear(2, 1).state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kind = data.draw(st.sampled_from(["zip", "legacy", "safetensors"]))
    path = Path("damaged.safetensors" if kind == "safetensors" else "damaged.pth")
    if kind == "safetensors":
        save_file(saved, path)
    else:
        torch.save(saved, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    places = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), places))])
    try:
        load_weights(model, path)
    except SubspectError as error:
        assert str(path) in str(error)
        assert same(model.state_dict(), before)


def test_what_a_network_prints_is_no_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("loud.py", "from torch import nn\ndef make():\n    print('Loaded weights')\n    return nn.Linear(4, 2)\n")
    load_network("python:loud.py:make")
    said = capsys.readouterr()
    assert said.out == "" and said.err == "Loaded weights\n"


@pytest.mark.skipif(os.name != "posix", reason="named pipes of POSIX")
def test_what_lies_there_instead_of_weights_is_said(folder: Path) -> None:
    os.mkfifo("pipe.pth")
    with pytest.raises(SubspectError, match=r"^no such file of weights: pipe.pth \(a named pipe is there\)$"):
        load_weights(net(), "pipe.pth")
