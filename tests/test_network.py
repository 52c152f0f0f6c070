"""The head is found by what it computes; the model is left as it was."""

from __future__ import annotations

import copy
import enum
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import subspect
from conftest import PIXELS, Tiny
from skips import NO_CUDA
from subspect import DecomposedHead, Preprocessing, SubspectError, Supports
from subspect.heads.placing import with_decomposed
from subspect.networks.finding import Head
from subspect.networks.network import Network, weights_fingerprint
from subspect.networks.summands import with_layers

D, C = 6, 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pixels(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


def slow_logits(head: Head, features: Tensor) -> Tensor:
    """``Σ_i W[c, i] · x[i] + b[c]``, one image, one class, one feature at a time."""
    rows = []
    for x in features.double().tolist():
        products = zip(head.weight.double().tolist(), head.bias.double().tolist(), strict=True)
        rows.append([math.fsum(w * f for w, f in zip(row, x, strict=True)) + b for row, b in products])
    return torch.tensor(rows)


class Net(nn.Module):
    """A convolution and a linear head; features of both signs. Kinds of networks differ in `finish`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, D, 3), nn.BatchNorm2d(D), nn.Linear(D, C)

    def map(self, x: Tensor) -> Any:
        return self.norm(self.conv(x)).tanh()  # (n, D, 6, 6)

    def features(self, x: Tensor) -> Any:
        return self.map(x).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.finish(self.features(x))

    def finish(self, x: Tensor) -> Any:
        return self.fc(x)


def expect(model: nn.Module, name: str | None, features: Tensor, logits: Tensor, n: int = 4, **options: Any) -> Head:
    """The head has this name, and `read` gives these features and logits."""
    network = Network(model, **options)
    head = network.find_head(pixels(n)[:2])
    read, own = network.read(pixels(n))
    assert name is None or head.name == name
    assert head.exact
    assert head is network.head
    assert (head.n_classes, head.n_features) == (logits.shape[1], features.shape[1]) == tuple(head.weight.shape)
    assert head.weight.dtype == head.bias.dtype == read.dtype == own.dtype == torch.float32
    torch.testing.assert_close(read, features.float())
    torch.testing.assert_close(own, logits.float())
    torch.testing.assert_close(slow_logits(head, read), logits.float(), rtol=1e-4, atol=1e-5)
    return head


def refuse(model: nn.Module, match: str, head: str | None = None, n: int = 2) -> None:
    """No head is found, for this reason, and no hook stays behind."""
    with pytest.raises(SubspectError, match=match):
        Network(model, head=head).find_head(pixels(n))
    assert hooks(model) == []


def hooks(model: nn.Module) -> list[object]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]


def truth(model: Net) -> tuple[Tensor, Tensor]:
    """Features and logits of the usual network, straight from its parts."""
    model.eval()
    with torch.no_grad():
        features = model.features(pixels())
        return features, F.linear(features, model.fc.weight, model.fc.bias)


# Heads that are found -------------------------------------------------------------------------------------------------


def test_linear() -> None:
    model = Net()
    features, logits = truth(model)
    assert (features < 0).any()
    assert (features > 0).any()
    head = expect(model, "fc", features, logits)
    assert torch.equal(head.weight, model.fc.weight.detach())
    assert torch.equal(head.bias, model.fc.bias.detach())
    assert head.weight.data_ptr() != model.fc.weight.data_ptr()


class Misleading(Net):
    """Every usual name for a head, and none of them is it; one runs after it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.classifier, self.last_linear = nn.Linear(D, C), nn.Linear(D, C), nn.Linear(C, C)
        self.stem = nn.Linear(D, C)

    def finish(self, x: Tensor) -> Any:
        self.head(x)
        logits = self.stem(x)
        self.last_linear(self.classifier(x) + self.fc(x))
        return logits


def test_found_by_what_it_computes_not_by_name_or_order() -> None:
    model = Misleading().eval()
    with torch.no_grad():
        expect(model, "stem", model.features(pixels()), model(pixels()))


@settings(deadline=None, max_examples=30)
@given(d=st.integers(1, 5), c=st.integers(2, 4), layers=st.integers(1, 5), data=st.data())
def test_the_one_of_many_alike_layers_that_gives_the_logits(d: int, c: int, layers: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, layers - 1))

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.bag = nn.Linear(192, d), nn.ModuleList(nn.Linear(d, c) for _ in range(layers))

        def features(self, x: Tensor) -> Any:
            return self.flat(x.flatten(1))

        def forward(self, x: Tensor) -> Any:
            return [layer(self.features(x)) for layer in self.bag][chosen]

    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    model = Bag()
    with torch.no_grad():
        expect(model, f"bag.{chosen}", model.features(pixels()), model(pixels()))


class ConvThenPool(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv_head = nn.Conv2d(D, C, 1)

    def forward(self, x: Tensor) -> Any:
        return F.adaptive_avg_pool2d(self.conv_head(self.map(x)), 1).flatten(1)


class PoolThenConv(ConvThenPool):
    def forward(self, x: Tensor) -> Any:
        return self.conv_head(self.features(x)[:, :, None, None]).flatten(1)


class ConvMapOfOne(ConvThenPool):
    """The output stays (n, C, 1, 1)."""

    def forward(self, x: Tensor) -> Any:
        return self.conv_head(self.features(x)[:, :, None, None])


@pytest.mark.parametrize("kind", [ConvThenPool, PoolThenConv, ConvMapOfOne])
def test_convolution(kind: type[ConvThenPool]) -> None:
    model = kind().eval()
    with torch.no_grad():
        expect(model, "conv_head", model.features(pixels()), model(pixels()).flatten(1))


class ConvIn(nn.Module):
    """A head that is a 1×1 convolution of series or volumes, and their mean after it."""

    def __init__(self, dimensions: int, **options: Any) -> None:
        super().__init__()
        kind: Any = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions]
        self.conv, self.conv_head = kind(3, D, 3), kind(D, C, **{"kernel_size": 1, **options})

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x).tanh().flatten(2).mean(2)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_head(self.conv(x).tanh()).flatten(2).mean(2)
        return out


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolution_of_series_and_volumes(dimensions: int, tmp_path: Path) -> None:
    model, x = ConvIn(dimensions).eval(), torch.randn(40, 3, *[6, 5, 4][:dimensions])
    with torch.no_grad():
        network = Network(model)
        assert network.find_head(x[:2]).name == "conv_head" and network.head.weight.shape == (C, D)
        torch.testing.assert_close(network.read(x), (model.features(x), model(x)))
        study = subspect.observe(network, x, tmp_path / "study")
        whole = subspect.decompose(study, D, method="contribution").apply(model)
        torch.testing.assert_close(whole(x), model(x))
        made = subspect.decompose(study, 2, method="contribution")
        weight, bias = (torch.from_numpy(one) for one in made.matrix())
        for kernel in ("auto", "dense", "embedding_bag"):
            small = made.apply(model)
            small.get_submodule("conv_head").kernel = kernel  # type: ignore[assignment]
            torch.testing.assert_close(small(x), model.features(x) @ weight.T + bias)
    exported = subspect.export(study, made, path=tmp_path / "small.onnx", network=network, images=x)
    assert exported.difference is not None and exported.difference < 1e-4
    seen = [label for label in range(C) if label not in made.unseen]
    cut = subspect.specialise(study, made, network=network, classes=seen[:1], images=x, rounds=0)
    assert cut.removed == D - 2 and cut.model(x).shape == (40, 1)


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("options", [{"kernel_size": 3}, {"stride": 2}, {"padding": 1}, {"groups": 3}])
def test_no_other_convolution_of_series_and_volumes_is_a_head(dimensions: int, options: dict[str, Any]) -> None:
    with pytest.raises(SubspectError, match="head not found: .* candidates: none with 3 outputs"):
        Network(ConvIn(dimensions, **options)).find_head(torch.randn(2, 3, *[8] * dimensions))


@pytest.mark.parametrize("padding", ["same", "valid", (0, 0)])
def test_convolution_with_any_way_to_say_no_padding(padding: Any) -> None:
    model = ConvThenPool().eval()
    model.conv_head = nn.Conv2d(D, C, 1, padding=padding)
    with torch.no_grad():
        expect(model, "conv_head", model.features(pixels()), model(pixels()))


@pytest.mark.parametrize("options", [{"kernel_size": 3}, {"stride": 2}, {"padding": 1}, {"groups": 3}])
def test_no_other_convolution_is_a_head(options: dict[str, Any]) -> None:
    model = ConvThenPool()
    model.conv_head = nn.Conv2d(D, C, **{"kernel_size": 1, **options})
    refuse(model, r"head not found: .* candidates: none with 3 outputs \(linear layers that ran: none\)")


class Tokens(Net):
    """The head works at each token; the mean follows."""

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.map(x).flatten(2).transpose(1, 2)).mean(1)


class MapWithChannelsLast(Net):
    def forward(self, x: Tensor) -> Any:
        return self.fc(self.map(x).permute(0, 2, 3, 1)).mean((1, 2))


@pytest.mark.parametrize("kind", [Tokens, MapWithChannelsLast])
def test_linear_layer_at_every_position(kind: type[Net]) -> None:
    model = kind()
    features, logits = truth(model)
    expect(model, "fc", features, logits)


class FirstToken(Tokens):
    def forward(self, x: Tensor) -> Any:
        return self.fc(self.map(x).flatten(2).transpose(1, 2))[:, 0]


class MaxOverTokens(Tokens):
    def forward(self, x: Tensor) -> Any:
        return self.fc(self.map(x).flatten(2).transpose(1, 2)).amax(1)


class LastToken(Tokens):
    def forward(self, x: Tensor) -> Any:
        return self.fc(self.map(x).flatten(2).transpose(1, 2))[:, -1]


@pytest.mark.parametrize(("kind", "place", "name"), [(FirstToken, 0, "fc@first"), (LastToken, -1, "fc@last")])
def test_a_head_of_which_one_position_counts(kind: type[Tokens], place: int, name: str) -> None:
    model = kind().eval()
    with torch.no_grad():
        features, logits = model.map(pixels()).flatten(2)[..., place], model(pixels())
    expect(model, name, features, logits)
    expect(model, name, features, logits, head=name)


def test_another_pooling_of_positions_is_refused() -> None:
    refuse(
        MaxOverTokens(),
        r"by its mean over positions, the first or the last\), nor a sum of some: the network takes the maximum over the "
        r"positions of 'fc'; pass head='module.name' .* candidates: fc$",
    )


def test_without_bias() -> None:
    model = Net()
    model.fc = nn.Linear(D, C, bias=False)
    features, logits = truth(model)
    head = expect(model, "fc", features, logits)
    assert torch.equal(head.bias, torch.zeros(C))


def test_weight_normed() -> None:
    model = Net()
    nn.utils.parametrizations.weight_norm(model.fc)
    with torch.no_grad():
        model.fc.parametrizations.weight.original0.mul_(3)  # type: ignore[union-attr, operator]
    features, logits = truth(model)
    head = expect(model, "fc", features, logits)
    assert torch.equal(head.weight, model.fc.weight.detach())
    assert not head.weight.requires_grad


class InPlace(Net):
    """ReLUs in place: after a layer like the head, before the head, and on the head's input once it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.relu = nn.Linear(D, D), nn.ReLU(inplace=True)

    def features(self, x: Tensor) -> Any:
        return self.relu(self.hidden(super().features(x))) - 0.05

    def finish(self, x: Tensor) -> Any:
        logits = self.fc(x)
        x.relu_()
        return logits


def test_functions_in_place_around_the_layers() -> None:
    model = InPlace()
    features, logits = truth(model)
    assert (features < 0).any()
    expect(model, "fc", features, logits)


@pytest.mark.parametrize("module", [True, False])
def test_dropout_before_the_head_of_a_model_in_training(module: bool) -> None:
    class Dropped(Net):
        def finish(self, x: Tensor) -> Any:
            return self.fc(drop(x) if module else F.dropout(x, 0.5, self.training))

    drop = nn.Dropout(0.5)
    model = Dropped()
    model.drop = drop
    features, logits = truth(model)
    expect(model.train(), "fc", features, logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Net, ConvThenPool, Tokens])
def test_other_precisions(kind: type[Net], dtype: torch.dtype) -> None:
    model = kind().to(dtype).eval()
    network = Network(model)
    head = network.find_head(pixels()[:2])
    features, logits = network.read(pixels())
    with torch.no_grad():
        own = model(pixels().to(dtype)).float()
        layer = model.get_submodule(head.name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        assert torch.equal(head.weight, layer.weight.flatten(1).float())
        torch.testing.assert_close(features, model.features(pixels().to(dtype)).float(), rtol=0.02, atol=0.01)
    assert features.dtype == logits.dtype == head.weight.dtype == torch.float32
    assert torch.equal(logits, own)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(slow_logits(head, features), own, rtol=8 * eps, atol=max(4 * eps, 1e-5))


class Named(Net):
    """The head goes by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.head = self.fc


@pytest.mark.parametrize("name", [None, "fc", "head"])
def test_head_with_two_names_is_found_under_either(name: str | None, caplog: pytest.LogCaptureFixture) -> None:
    model = Named()
    expect(model, "fc", *truth(model), head=name)
    assert not caplog.records


class ByKeyword(Net):
    def finish(self, x: Tensor) -> Any:
        return self.fc(input=x)


def test_head_called_by_keyword() -> None:
    model = ByKeyword()
    expect(model, "fc", *truth(model))


class Pair(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        return super().forward(input), None


class WithPair(Net):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(D, D)

    def features(self, x: Tensor) -> Any:
        return self.pair(super().features(x))[0]


def test_a_linear_layer_in_the_backbone_that_returns_more_than_a_tensor() -> None:
    model = WithPair()
    expect(model, "fc", *truth(model))


class Squeezed(Net):
    """Drops the first axis of a batch of one, as a careless squeeze does."""

    def finish(self, x: Tensor) -> Any:
        return self.fc(x.squeeze())


def test_last_batch_of_one_in_a_network_that_squeezes() -> None:
    model = Squeezed()
    features, logits = truth(model)
    network = Network(model)
    network.find_head(pixels())
    read, own = network.read(pixels()[:1])
    torch.testing.assert_close(read, features[:1])
    torch.testing.assert_close(own, logits[:1])


def test_the_network_may_be_its_head() -> None:
    model = nn.Linear(5, 2)
    x = torch.randn(3, 5)
    network = Network(model)
    head = network.find_head(x)
    assert head.name == ""
    features, logits = network.read(x)
    assert torch.equal(features, x)
    assert torch.equal(logits, model(x).detach())


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="this PyTorch cannot set torch.compile aside")
def test_compiled_network(in_place: bool) -> None:
    model = Net()
    features, logits = truth(model)
    compiled: Any = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels()), logits)  # a graph without hooks is now there
    expect(compiled, "fc" if in_place else "_orig_mod.fc", features, logits)


# Forms of output ------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    colour: Colour = Colour.RED  # an enum's member leads back to itself


@dataclass(slots=True)
class Slots:
    logits: Tensor


class Tupled(NamedTuple):
    hidden: Tensor
    logits: Tensor


class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: an ordered dict whose items are also attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Plain:
    """Any object with the logits in an attribute."""

    def __init__(self, scores: Tensor) -> None:
        self.scores, self.itself = scores, self


FORMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tensor": lambda logits, map: logits,
    "dict": lambda logits, map: {"features": map.mean((2, 3)), "logits": logits},
    "dict by another name": lambda logits, map: {"map": map, "scores": logits},
    "tuple": lambda logits, map: (logits,),
    "list": lambda logits, map: [logits],
    "logits and auxiliary logits": lambda logits, map: (logits, logits.flip(1)),
    "logits and nothing": lambda logits, map: (logits, None),
    "map and logits": lambda logits, map: (map, logits),
    "indices and logits": lambda logits, map: (logits.argsort(1), logits),
    "dataclass": lambda logits, map: Output(None, logits),
    "dataclass with slots": lambda logits, map: Slots(logits),
    "named tuple": lambda logits, map: Tupled(map.mean((2, 3)), logits),
    "ModelOutput": lambda logits, map: ModelOutput(loss=None, logits=logits, hidden_states=(map, map)),
    "object": lambda logits, map: Plain(logits),
    "nested": lambda logits, map: ({"hidden": [map]}, {"main": (logits,)}),
}


class Returns(Net):
    def __init__(self, form: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.fc(self.features(x)), self.map(x))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_logits_in_any_form_of_output(form: Callable[[Tensor, Tensor], object]) -> None:
    model = Returns(form)
    expect(model, "fc", *truth(model))


class WithAuxiliary(Net):
    """In training style: logits first, those of an auxiliary head second; the auxiliary head runs first."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(D, C)

    def finish(self, x: Tensor) -> Any:
        aux = self.aux(x)
        return self.fc(x), aux


def test_the_first_of_two_logits_unless_the_other_head_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = WithAuxiliary()
    features, logits = truth(model)
    expect(model, "fc", features, logits)
    assert "outputs of several linear layers; 'fc' is taken for the head" in caplog.text and "for aux" in caplog.text
    caplog.clear()
    aux = F.linear(features, model.aux.weight, model.aux.bias).detach()
    assert expect(model, "aux", features, aux, head="aux").output == 1
    assert not caplog.records


def test_an_embedding_beside_the_logits_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    class Embeds(Net):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(D, D + 1)

        def finish(self, x: Tensor) -> Any:
            return self.embed(x), self.fc(x)

    assert Network(Embeds()).find_head(pixels()).name == "embed"
    assert "outputs of several linear layers; 'embed' is taken for the head" in caplog.text and "for fc" in caplog.text
    caplog.clear()
    assert Network(Embeds(), head="fc").find_head(pixels()).name == "fc" and not caplog.records


@dataclass
class WithAuxiliaryFirst:
    aux: Tensor
    logits: Tensor


class AuxiliaryFirst(WithAuxiliary):
    def __init__(self, form: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.form = form

    def finish(self, x: Tensor) -> Any:
        return self.form(self.aux(x), self.fc(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda aux, logits: {"aux": aux, "logits": logits},
        lambda aux, logits: ModelOutput(aux=aux, logits=logits),
        Tupled,
        WithAuxiliaryFirst,
    ],
    ids=["dict", "ModelOutput", "named tuple", "dataclass"],
)
def test_what_is_called_logits_goes_before_other_outputs(form: Callable[[Tensor, Tensor], object]) -> None:
    model = AuxiliaryFirst(form)
    expect(model, "fc", *truth(model))


class WithEmbedding(Net):
    def finish(self, x: Tensor) -> Any:
        return {"embedding": x, "probabilities": self.fc(x).softmax(1)}


def test_a_named_head_stands_for_whichever_output_has_its_shape(caplog: pytest.LogCaptureFixture) -> None:
    model = WithEmbedding()
    features, logits = truth(model)
    network = Network(model, head="fc")
    assert not network.find_head(pixels()).exact
    torch.testing.assert_close(network.read(pixels()), (features, logits))
    assert "the network applies a softmax after 'fc'" in caplog.text


@pytest.mark.parametrize(
    "form",
    [
        lambda logits, map: map,
        lambda logits, map: logits.argsort(1),
        lambda logits, map: logits.flatten()[None],
        lambda logits, map: "logits",
        lambda logits, map: None,
        lambda logits, map: [],
    ],
    ids=["map", "integers", "another number of rows", "text", "nothing", "empty"],
)
def test_no_logits_in_the_output(form: Callable[[Tensor, Tensor], object]) -> None:
    refuse(Returns(form), r"the network returns no class logits: expected a tensor \(images, classes\) in its")


# Heads that are not found ---------------------------------------------------------------------------------------------

AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "a softmax": lambda logits: logits.softmax(1),
    "a log-softmax": lambda logits: logits.log_softmax(1),
    "a sigmoid": lambda logits: logits.sigmoid(),
    "a ReLU": lambda logits: logits.relu_(),
    "a tanh": lambda logits: logits.tanh(),
}


@pytest.mark.parametrize("name", AFTER)
def test_function_after_the_head_is_named(name: str) -> None:
    model = Returns(lambda logits, map: AFTER[name](logits))
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))  # logits of both signs
    refuse(
        model,
        rf"^head not found: the logits \(2, 3\) are not the output of any nn.Linear or 1×1 convolution .*: the network "
        rf"applies {name} after 'fc'; pass head='module.name' \(--head\) to take a layer's own output for the logits; "
        r"candidates: fc$",
    )


class TwoHeads(Net):
    """The mean of two heads on one set of features, as DeiT distilled gives in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head_dist = nn.Linear(D, C), nn.Linear(D, C)

    def finish(self, x: Tensor) -> Any:
        self.hidden(x)
        main, distilled = self.fc(x), self.head_dist(x)
        return (main, distilled) if self.training else (main + distilled) / 2


def test_two_heads_averaged(caplog: pytest.LogCaptureFixture) -> None:
    model = TwoHeads()
    features, _ = truth(model)
    with torch.no_grad():
        logits = model.eval()(pixels())
    with caplog.at_level("INFO"):
        head = expect(model, "0.5*fc + 0.5*head_dist", features, logits)
    assert "the head is a sum of layers: 0.5*fc + 0.5*head_dist" in caplog.text
    torch.testing.assert_close(head.weight, (model.fc.weight + model.head_dist.weight).detach() / 2)


class OwnInputs(Net):
    """The sum of three heads with factors, two of them on inputs of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(width, C) for width in (D, 4, D))
        self.idle = nn.Linear(D, C)

    def finish(self, x: Tensor) -> Any:
        self.idle(x)
        return 0.25 * self.first(x) + 0.75 * self.second(x[:, :4].tanh()) - 1.5 * self.third(x)


def test_a_sum_of_heads_on_several_inputs() -> None:
    model = OwnInputs().eval()
    x, _ = truth(model)
    with torch.no_grad():
        logits = model(pixels())
    features = torch.cat([x, x[:, :4].tanh()], dim=1)
    head = expect(model, "0.25*first + -1.5*third | 0.75*second", features, logits)
    assert (head.n_features, list(head.layers)) == (D + 4, ["first", "third", "second"])
    wanted = torch.cat([0.25 * model.first.weight - 1.5 * model.third.weight, 0.75 * model.second.weight], dim=1)
    torch.testing.assert_close(head.weight, wanted.detach())
    assert torch.equal(expect(model, head.name, features, logits, head=head.name).weight, head.weight)


def test_the_mean_of_eight_heads() -> None:
    """As EfficientViM distilled has it, more than are tried in every combination."""

    class Eight(Net):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(D, C) for _ in range(8))

        def finish(self, x: Tensor) -> Any:
            return sum(head((20 * x + place).sin()) for place, head in enumerate(self.heads)) / 8

    network = Network(Eight())
    head = network.find_head(pixels(8))
    assert head.name == " | ".join(f"0.125*heads.{place}" for place in range(8)) and head.n_features == 8 * D
    network.read(pixels())


@pytest.mark.parametrize("share", [0.4, 1 / 3])
def test_a_temperature_is_a_factor(share: float) -> None:
    model = Returns(lambda logits, map: logits * share)
    features, logits = truth(model)
    head = expect(model, None, features, share * logits)
    [[part]] = head.groups
    assert part.name == "fc" and part.factor == pytest.approx(share, rel=1e-6)
    torch.testing.assert_close(head.weight, share * model.fc.weight.detach(), rtol=1e-5, atol=1e-7)


def test_what_a_few_numbers_fit_by_chance_is_no_head() -> None:
    """Of two images and two classes four numbers are known: too few for layers that have nothing to do with the logits."""

    class Chance(Net):
        def __init__(self) -> None:
            super().__init__()
            self.many = nn.ModuleList(nn.Linear(D, 2) for _ in range(5))
            self.fc = nn.Linear(D, 2)

        def finish(self, x: Tensor) -> Any:
            for layer in self.many:
                layer(x)
            return self.fc(x).tanh()

    refuse(Chance(), "head not found: .* nor a sum of some")


def test_what_is_not_called_logits_does_not_stand_in_for_them() -> None:
    """As the DeiT of transformers with a teacher: ``logits`` is what two heads make, beside each of them alone."""

    class Teacher(TwoHeads):
        def finish(self, x: Tensor) -> Any:
            main, distilled = self.fc(x), self.head_dist(x)
            return {"cls_logits": main, "distillation_logits": distilled, "logits": (main + distilled) / 2}

    assert Network(Teacher()).find_head(pixels()).name == "0.5*fc + 0.5*head_dist"
    assert Network(Teacher(), head="fc").find_head(pixels()).name == "fc"

    class Squashed(TwoHeads):
        def finish(self, x: Tensor) -> Any:
            return {"cls_logits": self.fc(x), "logits": self.fc(x.tanh()).tanh()}

    refuse(Squashed(), "head not found: .* other tensors that the network returns are the output of fc; pass head=")


@pytest.mark.parametrize("text", ["2*fc@middle", "0*fc", "x*fc", "fc head", "1e*fc"])
def test_heads_that_cannot_be_read(text: str) -> None:
    refuse(
        Net(),
        "cannot read the head .*: expected a module's name, or a sum such as '0.5\\*head | 0.5\\*head_dist'",
        text,
    )


def test_a_sum_that_was_named_must_give_the_logits() -> None:
    refuse(
        TwoHeads(), "the layers '0.5[*]fc . 0.4[*]head_dist' do not give the network's logits", "0.5*fc + 0.4*head_dist"
    )
    refuse(TwoHeads(), "head 'other' is not an nn.Linear", "0.5*fc + 0.5*other")


@pytest.mark.parametrize("kind", [TwoHeads, OwnInputs, FirstToken])
def test_a_decomposed_copy_of_a_sum_gives_the_decomposed_logits(kind: type[Net]) -> None:
    model = kind().eval()
    network = Network(model)
    head = network.find_head(pixels())
    features, _ = network.read(pixels())
    rows = [[0, head.n_features - 1], [], list(range(head.n_features))]
    supports = Supports(rows, head.n_features)
    weights = torch.linspace(-1, 1, len(supports.flat))
    whole = DecomposedHead(supports, weights, torch.tensor([0.5, -1.0, 2.0]))
    with torch.no_grad():
        said = with_decomposed(model, head.name, whole)(pixels())
        torch.testing.assert_close(said, whole(features), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(said, model(pixels()))


def test_named_head_of_two_averaged_stands_for_the_logits(caplog: pytest.LogCaptureFixture) -> None:
    model = TwoHeads()
    features, logits = truth(model)
    network = Network(model, head="fc")
    head = network.find_head(pixels()[:2])
    assert (head.name, head.exact) == ("fc", False)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("the network's output is not that of the head 'fc'; what the layer itself ")
    read, own = network.read(pixels())
    torch.testing.assert_close(read, features)
    torch.testing.assert_close(own, logits)
    assert not torch.allclose(own, model.eval()(pixels()), atol=1e-3)


class SqueezeNetLike(ConvThenPool):
    def forward(self, x: Tensor) -> Any:
        return F.adaptive_avg_pool2d(F.relu(self.conv_head(self.map(x)), inplace=True), 1).flatten(1)


def test_relu_between_convolution_and_pooling() -> None:
    refuse(
        SqueezeNetLike(),
        r"the logits \(2, 3\) are not the output of any .*: the network applies a ReLU at every position of 'conv_head' "
        r"before it takes the mean; .* candidates: conv_head$",
    )


class VoloLike(Net):
    """A head, and the maximum over the positions of another."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.aux, self.share = nn.Linear(D, C), share

    def forward(self, x: Tensor) -> Any:
        tokens = self.map(x).flatten(2).mT
        return self.share * self.fc(tokens[:, 0]) + 0.5 * self.aux(tokens).amax(1)


def test_a_maximum_over_positions() -> None:
    refuse(
        VoloLike(1), ": the network adds up 1 of 'fc' and 0.5 of the maximum over the positions of 'aux'; pass head="
    )


def test_named_convolution_stands_for_the_logits(caplog: pytest.LogCaptureFixture) -> None:
    model = SqueezeNetLike().eval()
    network = Network(model, head="conv_head")
    network.find_head(pixels()[:2])
    assert "the network's output is not that of the head 'conv_head'" in caplog.text
    features, logits = network.read(pixels())
    with torch.no_grad():
        torch.testing.assert_close(features, model.features(pixels()))
        torch.testing.assert_close(logits, model.conv_head(model.map(pixels())).mean((2, 3)))


def test_named_head_in_half_precision() -> None:
    model = SqueezeNetLike().to(torch.bfloat16).eval()
    network = Network(model, head="conv_head")
    head = network.find_head(pixels())
    features, logits = network.read(pixels())
    assert features.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, slow_logits(head, features), rtol=1e-4, atol=1e-5)


class Many(Net):
    """More layers than a message should list."""

    def __init__(self) -> None:
        super().__init__()
        self.many = nn.ModuleList(nn.Linear(D, C) for _ in range(11))

    def finish(self, x: Tensor) -> Any:
        return torch.stack([layer(x) for layer in self.many]).amax(0)


def test_many_candidates_are_cut_short() -> None:
    refuse(Many(), r"candidates: many.10, .*, many.3, … \(3 more\)$")
    refuse(Many(), r"its linear layers: fc, many.0, .*, many.6, … \(4 more\)$", "zzz")


class Backbone(Net):
    """As timm builds a network with ``num_classes=0``: attention and all, but no classifier."""

    num_classes = 0

    def finish(self, x: Tensor) -> Any:
        return self.fc(x).relu() + x[:, :C]


def test_a_network_without_a_classifier() -> None:
    refuse(
        Backbone(),
        r"^the network has no classifier \(its num_classes is 0\), so what it returns are features and not logits",
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_networks_in_one_graph_are_named() -> None:
    scripted: Any = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, C)))
    exported = torch.export.export(nn.Sequential(nn.Flatten(), nn.Linear(192, C)), (pixels(),)).module()
    for model in (scripted, exported):
        with pytest.raises(SubspectError, match=r"the network is scripted, traced or exported .*; pass the original"):
            Network(model)
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Flatten(), nn.Linear(192, C)))
    assert Network(traced).find_head(pixels()).name == "1"  # its layers still run by themselves


def test_tokens_stay_integers() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(10, D), nn.Linear(D, C)

        def forward(self, tokens: Tensor) -> Any:
            return self.fc(self.embed(tokens)).mean(1)

    model = Words()
    tokens = torch.arange(12).reshape(4, 3) % 10
    with torch.no_grad():
        expect_of(Network(model), tokens, model.embed(tokens).mean(1), model(tokens))


def expect_of(network: Network, given: Tensor, features: Tensor, logits: Tensor) -> None:
    network.find_head(given)
    torch.testing.assert_close(network.read(given), (features, logits))


class NoLinear(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.mean((2, 3))


def test_no_linear_layer_at_all() -> None:
    refuse(NoLinear(), r"candidates: none with 3 outputs \(linear layers that ran: none\)$")


class Doubled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(D, D)
        self.fc = nn.Linear(D, 2)

    def finish(self, x: Tensor) -> Any:
        return self.fc(self.hidden(x)).repeat(1, 2)


def test_no_layer_with_as_many_outputs() -> None:
    refuse(Doubled(), r"candidates: none with 4 outputs \(linear layers that ran: fc with 2, hidden with 6\)$")


class Twice(Net):
    """One layer for two crops."""

    def finish(self, x: Tensor) -> Any:
        self.fc(-x)
        return self.fc(x)


@pytest.mark.parametrize("name", [None, "fc"])
def test_head_that_runs_more_than_once(name: str | None) -> None:
    refuse(Twice(), "the head 'fc' runs 2 times in one pass, so its input is not one set of features; pass a", name)


@pytest.mark.parametrize("shape", [(-1, 1), (-1,), (-1, 1, 1, 1)])
def test_one_output_of_several_is_no_head(shape: tuple[int, ...]) -> None:
    refuse(
        Returns(lambda logits, map: logits[:, :1].reshape(shape)),
        r"head not found: the logits \(2, 1\) are not the output",
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [None, "fc"])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_head_that_holds_no_numbers(value: float, name: str | None, part: str) -> None:
    model = Net()
    with torch.no_grad():
        getattr(model.fc, part)[1] = value
    refuse(
        model,
        r"^the head 'fc' contains NaN or infinity: \d+ of its \d+ weights and biases; load the weights of a",
        name,
    )


def test_named_head_that_holds_no_numbers_though_the_logits_do() -> None:
    model = Returns(lambda logits, map: logits.nan_to_num())
    with torch.no_grad():
        model.fc.weight[0, 0] = math.nan
    refuse(model, "^the head 'fc' contains NaN or infinity: 1 of its ", "fc")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers(value: float) -> None:
    model = Returns(lambda logits, map: logits * value)
    refuse(model, "logits are NaN or infinite on the first images tried; check its weights and preprocessing")


@pytest.mark.parametrize("n", [0, 1])
def test_batch_of_less_than_two(n: int) -> None:
    refuse(Net(), f"finding the head needs a batch of at least 2 images, got {n}", n=n)


class Cosine(nn.Linear):
    """A linear layer in name only."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(F.normalize(input), F.normalize(self.weight), self.bias)


def test_layer_that_is_linear_in_name_only() -> None:
    model = Net()
    model.fc = Cosine(D, C)
    refuse(model, r"the head 'fc' does not give the network's own logits: features @ W.T \+ b is off by up to \d")


def test_a_hook_of_the_user_that_changes_the_output() -> None:
    model = Net()
    handle = model.fc.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(SubspectError, match="the head 'fc' does not give the network's own logits"):
        Network(model).find_head(pixels())
    handle.remove()
    assert hooks(model) == []


# Heads that are named -------------------------------------------------------------------------------------------------


def test_named_head_that_is_the_head(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    expect(model, "fc", *truth(model), head="fc")
    assert not caplog.records


class Probabilities(Net):
    def finish(self, x: Tensor) -> Any:
        return self.fc(x).softmax(1)


def test_named_head_before_a_softmax(caplog: pytest.LogCaptureFixture) -> None:
    model = Probabilities()
    network = Network(model, head="fc")
    assert not network.find_head(pixels()[:2]).exact
    assert caplog.messages == [
        "the network's output is not that of the head 'fc': the network applies a softmax after 'fc'; what the layer "
        "itself gives stands for the logits, and all figures are about it"
    ]
    torch.testing.assert_close(network.read(pixels()), truth(model))


def test_mistyped_head() -> None:
    refuse(
        Misleading(),
        r"^head 'clasifier' is not an nn.Linear or 1×1 convolution of this network \(did you mean 'classifier' or "
        r"'last_linear'\?\); its linear layers: fc, head, classifier, last_linear, stem$",
        "clasifier",
    )


@pytest.mark.parametrize("name", ["conv", "norm", "", "zzz"])
def test_head_that_is_no_linear_layer(name: str) -> None:
    refuse(
        Net(), f"^head '{name}' is not an nn.Linear or 1×1 convolution of this network; its linear layers: fc$", name
    )


def test_named_head_in_a_network_without_linear_layers() -> None:
    refuse(NoLinear(), "its linear layers: none$", "fc")


class Idle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.idle, self.hidden = nn.Linear(D, C), nn.Linear(D, D)

    def features(self, x: Tensor) -> Any:
        return self.hidden(super().features(x))


def test_named_head_that_does_not_run() -> None:
    refuse(Idle(), "^head 'idle' did not run when the network did; candidates: fc$", "idle")


def test_named_head_of_another_size() -> None:
    match = r"^head 'hidden' gives \(2, 6\) but the network's logits are \(2, 3\); candidates: fc$"
    refuse(Idle(), match, "hidden")


# Reading --------------------------------------------------------------------------------------------------------------


def test_head_is_not_known_before_a_batch() -> None:
    match = r"the head is not known yet: call network.find_head\(batch\) with two or more images"
    with pytest.raises(SubspectError, match=match):
        _ = Network(Net()).head
    with pytest.raises(SubspectError, match=match):
        Network(Net()).read(pixels())


class Clamped(Net):
    """Linear on the first images only."""

    limit = math.inf

    def finish(self, x: Tensor) -> Any:
        return self.fc(x).clamp(-self.limit, self.limit)


def test_read_checks_every_batch() -> None:
    model = Clamped()
    network = Network(model)
    network.find_head(pixels())
    model.limit = 0.01
    match = r"the head 'fc' does not give the network's own logits: .* off by up to .*; the network must do something"
    with pytest.raises(SubspectError, match=match):
        network.read(pixels())
    assert hooks(model) == []


class Sometimes(Net):
    times = 1

    def finish(self, x: Tensor) -> Any:
        logits = x[:, :C]
        for _ in range(self.times):
            logits = self.fc(x)
        return logits


@pytest.mark.parametrize("times", [0, 2])
def test_read_expects_the_head_to_run_once(times: int) -> None:
    model = Sometimes()
    network = Network(model)
    network.find_head(pixels())
    model.times = times
    with pytest.raises(SubspectError, match=f"'fc' ran {times} times in one pass of the network, expected once"):
        network.read(pixels())
    assert hooks(model) == []


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_reading_in_batches_is_reading_at_once(cuts: list[int]) -> None:
    network = Network(Tiny())
    x = pixels(sum(cuts) + 1)
    network.find_head(x[:2])
    whole = network.read(x[:-1])
    parts = [network.read(part) for part in torch.split(x[:-1], cuts)]
    torch.testing.assert_close(torch.cat([features for features, _ in parts]), whole[0])
    torch.testing.assert_close(torch.cat([logits for _, logits in parts]), whole[1])


# The model is left as it was ------------------------------------------------------------------------------------------


class Raises(Net):
    def finish(self, x: Tensor) -> Any:
        self.fc(x)
        raise RuntimeError("broken on the way")


class Broken(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        raise KeyboardInterrupt


def snapshot(model: nn.Module) -> dict[str, Any]:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "same": {name: id(tensor) for name, tensor in tensors.items()},
        "values": {name: tensor.detach().clone().tolist() for name, tensor in tensors.items()},
        "kinds": {name: (tensor.device, tensor.dtype, tensor.requires_grad) for name, tensor in tensors.items()},
        "grads": {name: None if tensor.grad is None else tensor.grad.tolist() for name, tensor in tensors.items()},
        "hooks": hooks(model),
    }


@pytest.fixture
def used() -> Net:
    """A model in the midst of training: flags, gradients and frozen layers are mixed."""
    model = Net().train()
    model(pixels()).sum().backward()
    model.conv.bias.grad = None  # type: ignore[union-attr]
    model.norm.eval()
    model.fc.weight.requires_grad_(False)
    model.conv.train()
    model.extra = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    model.extra[1].eval()
    return model


def passes(network: Network) -> Iterator[Callable[[], object]]:
    yield lambda: network.find_head(pixels())
    yield lambda: network.read(pixels())
    yield network.fingerprint


def test_model_is_left_as_it_was(used: Net) -> None:
    used.norm.train()  # its buffers would move
    before = snapshot(used)
    network = Network(used)
    for act in passes(network):
        act()
        assert snapshot(used) == before
    with network.running(), torch.enable_grad():
        assert not any(module.training for module in used.modules())
        used(pixels())
    assert snapshot(used) == before
    with network.running("cpu"):
        assert not torch.is_grad_enabled()
        network.find_head(pixels())
        network.read(pixels())
    assert snapshot(used) == before
    assert torch.is_grad_enabled()


def test_model_is_left_as_it_was_after_an_error(used: Net) -> None:
    network = Network(used)
    network.find_head(pixels())
    used.__class__ = Raises
    before = snapshot(used)
    advice = (
        r"the network failed on a batch \(.*\): RuntimeError: broken on the way.*; check that the preprocessing gives"
    )
    for act, kind, message in (
        (network.find_head, SubspectError, advice),
        (network.read, RuntimeError, "broken on the way"),
    ):
        with pytest.raises(kind, match=message):
            act(pixels())
        assert snapshot(used) == before
    with pytest.raises(ZeroDivisionError), network.running():
        _ = 1 / 0
    assert snapshot(used) == before


def test_hooks_are_removed_when_a_layer_is_interrupted() -> None:
    model = Net()
    network = Network(model)
    network.find_head(pixels())
    model.fc = Broken(D, C)
    for act in (network.find_head, network.read):
        with pytest.raises(KeyboardInterrupt):
            act(pixels())
        assert hooks(model) == []
        assert model.training


def test_hooks_of_the_user_stay() -> None:
    model = Net()
    calls: list[int] = []
    model.fc.register_forward_pre_hook(lambda module, args: calls.append(1))
    model.fc.register_forward_hook(lambda module, args, output: calls.append(2))
    before = hooks(model)
    network = Network(model)
    network.find_head(pixels())
    network.read(pixels())
    assert hooks(model) == before
    assert calls == [1, 2] * 2


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta", "hpu", torch.device("cuda", 99)])
def test_device_that_is_not_there(used: Net, device: str | torch.device) -> None:
    before = snapshot(used)
    match = rf"^device '{device}' cannot be used: .+; try --device cpu$"
    with pytest.raises(SubspectError, match=match), Network(used).running(device):
        raise AssertionError("ran")
    assert snapshot(used) == before


def test_device_of_the_network() -> None:
    assert Network(Net()).device == torch.device("cpu")
    assert Network(NoLinear()).device == torch.device("cpu")
    assert Network(nn.BatchNorm2d(3, affine=False)).device == torch.device("cpu")
    assert Network(Net().to("meta")).device == torch.device("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)
@pytest.mark.parametrize("kind", [Net, ConvThenPool, Tokens])
def test_on_a_gpu_and_back(kind: type[Net]) -> None:
    model = kind()
    network = Network(model)
    before = weights_fingerprint(model)
    with network.running("cuda"):
        head = network.find_head(pixels())
        features, logits = network.read(pixels())
    assert (features.device.type, logits.device.type, head.weight.device.type) == ("cuda", "cuda", "cpu")
    assert network.device == torch.device("cpu")
    assert weights_fingerprint(model) == before
    torch.testing.assert_close(slow_logits(head, features), logits.cpu(), rtol=1e-2, atol=1e-2)


# What a network declares ----------------------------------------------------------------------------------------------


def test_only_a_module_is_a_network() -> None:
    with pytest.raises(SubspectError, match=r"a network must be a torch.nn.Module, got function"):
        Network(lambda x: x)  # type: ignore[arg-type]


def test_name() -> None:
    assert Network(Net()).name == "Net"
    assert Network(Net(), name="mine").name == "mine"


def test_preprocessing_is_declared_or_given() -> None:
    assert Network(Net()).preprocessing is None
    assert Network(Tiny()).preprocessing is PIXELS
    given_ = {"resize": 4, "crop": None, "mean": 0.5, "std": 0.5}
    assert Network(Tiny(), preprocessing=given_).preprocessing == Preprocessing(
        resize=4, crop=None, mean=(0.5,), std=(0.5,)
    )


class Config:
    def __init__(self, id2label: object) -> None:
        self.id2label = id2label


def configured(**attributes: object) -> Net:
    model = Net()
    for name, value in attributes.items():
        object.__setattr__(model, name, value)
    return model


def test_class_names() -> None:
    assert Network(Net()).class_names is None
    assert Network(configured(class_names=["a", "b", "c"])).class_names == ("a", "b", "c")
    assert Network(configured(class_names=["a", "b", "c"]), class_names=("x", "y", "z")).class_names == ("x", "y", "z")


def test_class_names_of_a_configuration_in_order_of_their_indices() -> None:
    labels = {str(index): f"name {index}" for index in (10, 9, 2, 1, 0, 3, 4, 5, 6, 7, 8)}
    assert Network(configured(config=Config(labels))).class_names == tuple(f"name {index}" for index in range(11))
    both = configured(config=Config({0: "a"}), class_names=["b"])
    assert Network(both).class_names == ("b",)


@pytest.mark.parametrize("labels", [{0: "LABEL_0", 1: "LABEL_1"}, {}, None, ["a", "b"]])
def test_placeholders_are_no_class_names(labels: object) -> None:
    assert Network(configured(config=Config(labels))).class_names is None


def test_class_name_that_is_half_a_pair() -> None:
    names = ["a", "b", "c", "bad \ud800"]
    match = "^class name 3 is not text: it contains half of a surrogate pair; rename it$"
    with pytest.raises(SubspectError, match=match):
        Network(Net(), class_names=names)
    with pytest.raises(SubspectError, match=match):
        Network(configured(class_names=names))


def test_other_odd_class_names_are_kept() -> None:
    names = ("[/INST]", "$0_to_$10", "\x1b[31m", "\u202eabc", "🐈")
    assert Network(Net(), class_names=names).class_names == names


@pytest.mark.parametrize("names", ["abc", [1, 2, 3], ["a", None], 3, lambda: ["a"]])
def test_class_names_that_are_none(names: Any) -> None:
    match = "class_names must be a list of strings, one for each class; got "
    with pytest.raises(SubspectError, match=match):
        Network(Net(), class_names=names)
    with pytest.raises(SubspectError, match=match):
        Network(configured(class_names=names))


# Fingerprint ----------------------------------------------------------------------------------------------------------


class Kinds(nn.Module):
    """Every kind of tensor that a state may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
        self.map = nn.Parameter(torch.arange(24.0).reshape(1, 2, 3, 4))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("empty", torch.empty(0, 4))

    def get_extra_state(self) -> Any:
        return {"more": "than tensors"}


def test_fingerprint_is_of_the_weights_alone() -> None:
    model = Kinds()
    first = weights_fingerprint(model)
    assert len(first) == 64
    assert int(first, 16) >= 0
    assert Network(model).fingerprint() == first
    assert weights_fingerprint(copy.deepcopy(model)) == first
    assert weights_fingerprint(copy.deepcopy(model).eval().requires_grad_(False)) == first
    assert weights_fingerprint(copy.deepcopy(model).to(memory_format=torch.channels_last)) == first  # type: ignore[call-overload]


CHANGES: dict[str, Callable[[Any], object]] = {
    "value": lambda model: model.map.data[0, 0, 0].add_(1e-6),
    "last bit": lambda model: model.low.data.view(torch.int16)[1, 2].add_(1),
    "count": lambda model: model.count.add_(1),
    "mask": lambda model: model.mask.logical_not_(),
    "type": lambda model: setattr(model, "low", nn.Parameter(model.low.data.half())),
    "shape": lambda model: setattr(model, "map", nn.Parameter(model.map.data.reshape(1, 2, 4, 3))),
    "shape without elements": lambda model: setattr(model, "empty", torch.empty(4, 0)),
    "name": lambda model: setattr(model, "cap", model._parameters.pop("map")),
    "one more": lambda model: setattr(model, "other", nn.Parameter(torch.empty(0))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_fingerprint_changes_with(change: Callable[[Any], object]) -> None:
    model = Kinds()
    before = weights_fingerprint(model)
    change(model)
    assert weights_fingerprint(model) != before


# Swapping the head ----------------------------------------------------------------------------------------------------


def test_with_head_leaves_the_original_untouched(used: Net) -> None:
    before = snapshot(used)
    given_: list[nn.Module] = []

    def make(old: nn.Module) -> nn.Module:
        given_.append(old)
        return nn.Linear(D, 5)

    swapped = with_layers(used, {"fc": make})
    assert snapshot(used) == before
    assert len(given_) == 1
    assert given_[0] is not used.fc  # the copy's own, so that a change of it stays in the copy
    torch.testing.assert_close(given_[0].state_dict(), used.fc.state_dict())
    assert swapped(pixels()).shape == (4, 5)
    shared = {id(tensor) for tensor in used.state_dict(keep_vars=True).values()}
    assert not shared & {id(tensor) for tensor in swapped.state_dict(keep_vars=True).values()}
    assert {name: module.training for name, module in swapped.named_modules() if name != "fc"} == {
        name: training for name, training in before["training"].items() if name != "fc"
    }


class Shared(nn.Module):
    """One head under three names, in two containers; one of its like that is another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(D, C)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, D), self.fc)
        self.by_name = nn.ModuleDict({"main": self.fc, "other": nn.Linear(D, C)})

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


@pytest.mark.parametrize("name", ["fc", "layers.2", "by_name.main"])
def test_with_head_replaces_every_name_of_a_module(name: str) -> None:
    model = Shared()
    swapped: Any = with_layers(model, {name: lambda old: nn.Linear(D, 5)})
    assert swapped.fc is swapped.layers[2] is swapped.by_name["main"]
    assert swapped.fc.out_features == 5
    assert swapped.by_name["other"].out_features == C
    assert list(dict(swapped.named_children())) == list(dict(model.named_children()))
    assert [type(layer) for layer in swapped.layers] == [nn.Flatten, nn.Linear, nn.Linear]
    assert model.fc is model.layers[2] is model.by_name["main"]
    assert model.fc.out_features == C


def test_with_head_of_a_network_that_is_its_head() -> None:
    model, new = nn.Linear(D, C), nn.Linear(D, 5)
    assert with_layers(model, {"": lambda old: new}) is new
    assert model.out_features == C


def test_with_head_of_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        with_layers(Net(), {"nothing": lambda old: old})


def everything(head: Head, convolution: bool) -> DecomposedHead:
    supports = Supports([range(head.n_features)] * head.n_classes, head.n_features)
    return DecomposedHead(supports, head.weight.flatten(), head.bias, convolution=convolution)


@pytest.mark.parametrize("kind", [Net, ConvThenPool, PoolThenConv, Tokens, MapWithChannelsLast, ByKeyword, Squeezed])
def test_a_decomposed_head_that_keeps_everything_changes_nothing(kind: type[Net]) -> None:
    model = kind().eval()
    head = Network(model).find_head(pixels())
    swapped = with_layers(model, {head.name: lambda old: everything(head, isinstance(old, nn.Conv2d))})
    with torch.no_grad():
        torch.testing.assert_close(swapped(pixels()), model(pixels()))
