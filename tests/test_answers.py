"""What a teacher says is asked once of each picture, and goes on with the training's state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subspect.giving.answers import Answers, Shared
from subspect.images.inputs import Inputs
from subspect.networks.network import Network


class Counting(nn.Module):
    """Counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.seen = nn.Linear(12, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        out: Tensor = self.fc(x.flatten(1))
        return out


@pytest.fixture
def model() -> Counting:
    return Counting().eval()


@pytest.fixture
def teacher(model: Counting) -> Answers:
    network = Network(model, head="fc")
    network.find_head(torch.rand(2, 3, 2, 2))
    model.seen = 0
    return Answers(model, network.head, SHARED)


SHARED = Shared(torch.tensor([7, 0, 3]), torch.tensor([0.5, 1.0, 2.0]))
PIXELS = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def test_each_picture_is_asked_of_once(model: Counting, teacher: Answers) -> None:
    wanted = model.fc(PIXELS.flatten(1)).detach()
    torch.testing.assert_close(teacher(PIXELS).logits, wanted)
    assert torch.equal(teacher(PIXELS).features, PIXELS.flatten(1)[:, [7, 0, 3]])
    mixed = torch.cat([PIXELS[3:], PIXELS[:1].flip(-1)])
    torch.testing.assert_close(teacher(mixed).logits, torch.cat([wanted[3:], model.fc(mixed[2:].flatten(1)).detach()]))
    assert model.seen == 6  # a mirrored picture is another
    again, once_more, other = teacher(PIXELS), teacher(PIXELS), teacher(mixed.to(memory_format=torch.channels_last))
    assert all(torch.equal(*pair) for pair in zip(again, once_more, strict=True)) and not again.logits.requires_grad
    assert all(torch.equal(*pair) for pair in zip(other, teacher(mixed), strict=True)) and model.seen == 6


def test_how_far_another_network_is(teacher: Answers) -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(x.flatten(1)[:, :3])
            return out

    other, wanted = Three(), teacher(PIXELS)
    said = other(PIXELS).detach()
    terms = [-float((p.softmax(0) * q.log_softmax(0)).sum()) for p, q in zip(wanted.logits, said, strict=True)]
    places = [(0, 7, 0.5), (1, 0, 1.0), (2, 3, 2.0)]
    squares = [float((row[one] - row[place]) / by) ** 2 for row in PIXELS.flatten(1) for one, place, by in places]
    missed = teacher.missed(other, PIXELS)
    assert missed.item() == pytest.approx(np.mean(terms) + np.mean(squares), rel=1e-5)
    missed.backward()  # type: ignore[no-untyped-call]
    assert other.fc.weight.grad is not None and not other.fc._forward_pre_hooks


def test_what_is_remembered_goes_on(model: Counting, teacher: Answers) -> None:
    assert teacher.state() == {}
    said = teacher(PIXELS)
    other = Answers(model, teacher._head, SHARED)
    other.load({})
    other.load(teacher.state())
    assert torch.equal(other(PIXELS.flip(0)).logits, said.logits.flip(0)) and model.seen == 5


def test_memory_has_an_end(model: Counting, teacher: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.giving.answers._MOST", 2 * 6 * 4)  # what is said of two images
    wanted = model.fc(PIXELS.flatten(1)).detach()
    for _ in range(2):
        torch.testing.assert_close(teacher(PIXELS).logits, wanted)
    assert model.seen == 5 + 3 and len(teacher.state()["said"]) == 2


def test_inputs_of_several_parts_are_asked_of_each_time() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, values: Tensor) -> Tensor:
            out: Tensor = self.fc(values)
            return out

    model = Named().eval()
    network, inputs = Network(model, head="fc"), Inputs({"values": torch.rand(3, 4)})
    network.find_head(inputs)
    made = Answers(model, network.head, Shared(torch.tensor([1]), torch.ones(1)))
    assert torch.equal(made(inputs).logits, model.fc(inputs.tensors["values"])) and made.state() == {}
