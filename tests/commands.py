"""The command line, run within the tests' process, and what it says."""

from __future__ import annotations

import json
import shlex
from typing import Any

from typer.testing import CliRunner, Result

from subspect.cli import app

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 3)
    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Net()

def declared():
    return make(), dict(resize=8, crop=8, mean=(0.5,) * 3, std=(0.25,) * 3), ["a", "b", "c"]

def other():
    net, *declared = globals()["declared"]()
    with torch.no_grad():
        net.fc.weight.add_(1)
    return net, *declared

def pair():
    torch.manual_seed(0)
    net = Net()
    net.fc = nn.Linear(6, 2)
    return net
"""


def command(line: str, code: int | None = 0) -> Result:
    result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    assert code in (None, result.exit_code), result.output
    return result


def parsed(line: str) -> Any:
    return json.loads(command(f"{line} --json").stdout)


def said(line: str, code: int) -> str:
    """What is said on stderr, without frames and line breaks."""
    result = command(line, code)
    assert not result.stdout
    return " ".join(result.stderr.replace("│", " ").split())
