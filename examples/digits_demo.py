"""Train a small residual CNN on handwritten digits, prune it to a quarter of its MACs, show what that cost.

    python examples/digits_demo.py            # about half a minute on two cores
    python examples/digits_demo.py --quick    # fewer epochs, the same checks

The data are the 1797 digits (8 x 8 grey levels) that ship with scikit-learn, so nothing is downloaded. The
network is pruned in a few steps with fine-tuning between them; a copy that is not pruned gets the same
training as a control. At every step the pruned network is compared with the unpruned one whose removed
weights are set to zero: they have to compute the same. At the end the pruned network is saved, loaded again
by a fresh Python process, and has to give the same bits there.

Shapes: B images, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import prunus

KEPT_MACS = 0.25
STEPS = 3
TOLERANCE = 1e-4
SEED = 0

Row = tuple[str, float, float, str]
"""A row of the table: what was measured, before, after, and how the numbers are written."""


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        return F.relu(self.bn2(self.conv2(y_BCHW)) + self.shortcut(x_BCHW))


class DigitsNet(nn.Module):
    """A ResNet of three stages with two blocks each."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            blocks.append(ResidualBlock(channels, width, stride=1 if stage == 0 else 2))
            blocks.append(ResidualBlock(width, width, stride=1))
            channels = width
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features_BC = self.stages(self.stem(x_BCHW)).mean(dim=(2, 3))
        return self.head(features_BC)


class Digits:
    """The data, split once: a quarter of the images, stratified by class, is never trained on."""

    def __init__(self) -> None:
        digits = load_digits()
        images_BHW = torch.tensor(digits.images, dtype=torch.float32)
        x_BCHW = (images_BHW / images_BHW.max()).unsqueeze(1)
        labels_B = torch.tensor(digits.target)
        train, test = train_test_split(
            range(len(labels_B)), test_size=0.25, random_state=SEED, stratify=digits.target
        )
        self.x_train_BCHW, self.y_train_B = x_BCHW[train], labels_B[train]
        self.x_test_BCHW, self.y_test_B = x_BCHW[test], labels_B[test]


def train(model: nn.Module, data: Digits, epochs: int, peak_rate: float) -> None:
    """AdamW with one warm-up-and-decay cycle; each image is shifted by up to one pixel."""
    generator = torch.Generator().manual_seed(SEED)
    batch_size = 64
    steps = -(-len(data.y_train_B) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.y_train_B), generator=generator)
        for batch in order.split(batch_size):
            down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
            x_BCHW = data.x_train_BCHW[batch].roll((down, right), dims=(2, 3))
            loss = F.cross_entropy(model(x_BCHW), data.y_train_B[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def outputs(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    return model.eval()(x_BCHW)


def accuracy(model: nn.Module, data: Digits) -> float:
    predicted_B = outputs(model, data.x_test_BCHW).argmax(dim=1)
    return (predicted_B == data.y_test_B).float().mean().item()


@torch.no_grad()
def zeroed(model: nn.Module, plan: prunus.Plan) -> nn.Module:
    """A copy of the unpruned model in which every weight that the plan removes is zero."""
    copied = copy.deepcopy(model)
    masks = plan.masks()
    for name, parameter in copied.named_parameters():
        if name in masks:
            parameter.mul_(masks[name])
    return copied


def prune_one_step(model: nn.Module, data: Digits, macs: int) -> float:
    """Prune in place to at most `macs`; return the largest difference from the zeroed model's outputs."""
    graph = prunus.trace(model, data.x_test_BCHW[:1])
    plan = graph.plan(budget=prunus.Budget(macs=macs), importance="l2", scope="global")
    expected_BK = outputs(zeroed(model, plan), data.x_test_BCHW)
    plan.apply(model)
    difference = (outputs(model, data.x_test_BCHW) - expected_BK).abs().max().item()
    if not plan.exact:
        raise SystemExit(f"this plan should be exact, but these axes are not: {plan.approximate_axes}")
    if not difference < TOLERANCE:
        raise SystemExit(f"the pruned model differs from the zeroed one by {difference:.2e}")
    return difference


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def save(model: nn.Module, folder: Path) -> int:
    prunus.save(model, folder)
    return folder_bytes(folder)


def outputs_in_a_fresh_process(folder: Path) -> Tensor:
    """Load `folder` in a new Python process (this file, with --reload) and return the outputs it computes."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "outputs.safetensors"
        subprocess.run([sys.executable, __file__, "--reload", str(folder), str(result)], check=True)
        return load_file(result)["outputs_BK"]


def reload(folder: Path, result: Path) -> None:
    model = prunus.load(DigitsNet, folder)
    save_file({"outputs_BK": outputs(model, Digits().x_test_BCHW)}, result)


@torch.no_grad()
def latencies_ms(models: dict[str, nn.Module], x_BCHW: Tensor, repeats: int) -> dict[str, float]:
    """Median time of a forward pass of each model; the repeats are interleaved, so all share the noise."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(-3, repeats):  # the first three only warm up
        for name, model in models.items():
            start = time.perf_counter()
            model(x_BCHW)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def print_table(rows: list[Row]) -> None:
    table = Table(title="Residual CNN on scikit-learn's digits")
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for name, before, after, written in rows:
        is_accuracy = written.endswith("%}")
        change = f"{100 * (after - before):+.2f} points" if is_accuracy else f"to {after / before:.1%}"
        table.add_row(name, written.format(before), written.format(after), change)
    Console().print(table)


def main(quick: bool) -> None:
    epochs, fine_tuning_epochs = (4, 2) if quick else (20, 10)
    torch.set_num_threads(1)  # so small a network gains nothing from more, and waits for none when it is busy
    torch.manual_seed(SEED)
    data = Digits()
    model = DigitsNet()

    train(model, data, epochs, peak_rate=5e-3)
    original = copy.deepcopy(model)
    control = copy.deepcopy(model)
    cost_before = prunus.trace(model, data.x_test_BCHW[:1]).cost()
    print(f"trained on {len(data.y_train_B)} images, accuracy on {len(data.y_test_B)} others: ", end="")
    print(f"{accuracy(original, data):.2%}")

    for step in range(1, STEPS + 1):
        macs = int(cost_before.macs * KEPT_MACS ** (step / STEPS))
        difference = prune_one_step(model, data, macs)
        pruned_accuracy = accuracy(model, data)
        train(model, data, fine_tuning_epochs, peak_rate=2e-3)
        train(control, data, fine_tuning_epochs, peak_rate=2e-3)
        print(
            f"step {step} of {STEPS}: {macs:,} MACs; outputs within {difference:.0e} of the zeroed ", end=""
        )
        print(f"model's; accuracy {pruned_accuracy:.2%}, fine-tuned {accuracy(model, data):.2%}")
    cost_after = prunus.trace(model, data.x_test_BCHW[:1]).cost()
    print(f"control: the unpruned network, given the same fine-tuning: {accuracy(control, data):.2%}")

    with tempfile.TemporaryDirectory() as scratch:
        bytes_before = save(original, Path(scratch) / "before")
        bytes_after = save(model, Path(scratch) / "after")
        reloaded_BK = outputs_in_a_fresh_process(Path(scratch) / "after")
    if not torch.equal(reloaded_BK, outputs(model, data.x_test_BCHW)):
        raise SystemExit("the reloaded model does not give the same bits")
    print("saved, and loaded by a fresh process: the outputs are bit-identical\n")

    models = {"before": original, "after": model}
    rows: list[Row] = [
        ("accuracy", accuracy(original, data), accuracy(model, data), "{:.2%}"),
        ("MACs per image", cost_before.macs, cost_after.macs, "{:,}"),
        ("parameters", cost_before.params, cost_after.params, "{:,}"),
        ("saved files, bytes", bytes_before, bytes_after, "{:,}"),
    ]
    for batch in (1, 256):
        times = latencies_ms(models, data.x_test_BCHW[:batch], repeats=20 if quick else 200)
        rows.append((f"latency, batch of {batch}, ms", times["before"], times["after"], "{:.2f}"))
    print_table(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prune a small residual CNN and show what that cost.")
    parser.add_argument("--quick", action="store_true", help="fewer epochs, the same checks")
    parser.add_argument("--reload", nargs=2, type=Path, metavar=("FOLDER", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reload:
        reload(*options.reload)
    else:
        main(options.quick)
