"""All or nothing: a save or a load that is cut short leaves what was there before."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from checkpoint_folder import refused, sound_checkpoint
from checkpoint_models import FAMILIES, Residual, TiedText, output, pruned
from prunus.checkpoint import files, fill, loading, saving
from prunus.errors import ArgumentTypeError, CheckpointError
from prunus.plan import history
from snapshots import Snapshot


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return sound_checkpoint(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["set_data", "put", "set_history"])
@pytest.mark.parametrize("name", ["residual", "llama", "tied"])
def test_a_load_that_is_interrupted_changes_nothing(
    name: str, where: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, args = pruned(name)
    prunus.save(model, tmp_path)
    target = FAMILIES[name].build()
    for p in target.parameters():
        p.grad = torch.ones_like(p)
    config = getattr(target, "config", None)
    before, expected = Snapshot.of(target), output(target.eval(), args)
    target.train()
    original, calls = getattr(fill.Changes, where), []

    def failing(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == (1 if where == "set_history" else 4):
            raise error("interrupted")
        original(*arguments)

    monkeypatch.setattr(fill.Changes, where, failing)
    with pytest.raises(error, match="interrupted"):
        prunus.load(target, tmp_path)
    assert before.differences(target, identity=True) == []
    assert getattr(target, "config", None) is config
    assert history(target) == []
    assert torch.equal(output(target.eval(), args), expected)


def test_a_read_error_changes_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Tensor:
        raise OSError(errno.EIO, "disk is gone")

    monkeypatch.setattr(loading.Reader, "read", failing)
    refused(saved, "disk is gone")


class Crash(BaseException):
    """The process is gone: nothing handles this."""


@pytest.mark.parametrize("error", [Crash, OSError])
@pytest.mark.parametrize("step", range(1, 8))
def test_a_save_that_is_cut_short_leaves_the_old_checkpoint(
    step: int, error: type[BaseException], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = prunus.load(Residual, saved)
    old = Snapshot.of(model)
    other, _ = pruned("residual", ratio=0.75)
    calls: list[object] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(function)
            if len(calls) == step:
                raise error("interrupted")
            return function(*arguments, **options)

        return call

    for module, name in ((os, "replace"), (os, "fsync"), (saving, "write"), (files, "_write_text")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    cut_short = True
    try:
        prunus.save(other, saved)
        cut_short = False
    except (Crash, CheckpointError):
        pass
    monkeypatch.undo()
    loaded = prunus.load(Residual, saved)
    if (saved / "manifest.json").read_bytes() == expected["manifest.json"]:
        assert cut_short
        assert old.differences(loaded) == []
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == expected
    else:
        assert Snapshot.of(other).differences(loaded) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", range(1, 6))
def test_a_process_that_is_killed_while_it_saves(step: int, saved: Path) -> None:
    """Nothing gets to clean up: the old checkpoint is sound all the same, and the next save succeeds."""
    old = Snapshot.of(prunus.load(Residual, saved))
    model, _ = pruned("residual", ratio=0.75)
    child = os.fork()
    if child == 0:
        calls: list[object] = []
        for name in ("replace", "fsync"):
            function = getattr(os, name)

            def fatal(*arguments: Any, function: Callable[..., Any] = function) -> Any:
                calls.append(arguments)
                if len(calls) == step:
                    os._exit(9)
                return function(*arguments)

            setattr(os, name, fatal)
        prunus.save(model, saved)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert old.differences(prunus.load(Residual, saved)) == []
    left = list(saved.glob(".*.tmp"))
    for path in left:
        os.utime(path, (0, 0))
    prunus.save(model, saved)
    assert Snapshot.of(model).differences(prunus.load(Residual, saved)) == []
    assert list(saved.glob(".*")) == []


def test_every_moment_of_a_save_leaves_one_of_the_two(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen by another process: whenever the folder changes, a load gives the old model or the new one."""
    model, _ = pruned("residual", ratio=0.75)
    old, new = Snapshot.of(prunus.load(Residual, saved)), Snapshot.of(model)
    seen: list[bool] = []

    def look() -> None:
        loaded = prunus.load(Residual, saved)
        seen.append(new.differences(loaded) == [])
        assert seen[-1] or old.differences(loaded) == []

    replace, unlink = os.replace, Path.unlink

    def watched_replace(*arguments: Any) -> None:
        look()
        replace(*arguments)
        look()

    def watched_unlink(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        look()

    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(Path, "unlink", watched_unlink)
    prunus.save(model, saved)
    assert seen == sorted(seen)
    assert {False, True} <= set(seen)


def test_saving_over_a_checkpoint_leaves_nothing_behind(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / "other.safetensors").write_bytes(b"mine")
    for ratio in (0.5, 0.75, 0.75):
        model, _ = pruned("residual", ratio=ratio)
        prunus.save(model, saved)
        prunus.save(model, saved)
        names = sorted(path.name for path in saved.iterdir())
        assert len(names) == 4
        assert {"notes.txt", "other.safetensors", "manifest.json"} < set(names)
        assert Snapshot.of(model).differences(prunus.load(Residual, saved)) == []


def test_a_damaged_checkpoint_can_be_saved_over(saved: Path) -> None:
    (saved / "manifest.json").write_text("{")
    prunus.save(TiedText(), saved)
    prunus.load(TiedText, saved)


def test_the_manifest_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(CheckpointError, match="another folder"):
        prunus.save(TiedText(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == '{"name": "web app"}'


# -- saving -------------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="there is a file"):
            prunus.save(TiedText(), folder)
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CheckpointError, match="not writable"):
        prunus.save(TiedText(), tmp_path / "locked")
    assert list((tmp_path / "locked").iterdir()) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write", full)
    with pytest.raises(CheckpointError, match="No space left"):
        prunus.save(TiedText(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        on_meta = TiedText()
    lazy = nn.Sequential(nn.LazyLinear(4))
    sparse = nn.Linear(4, 4)
    sparse.register_buffer("mask", torch.eye(4).to_sparse())
    for model, words in ((on_meta, "no values"), (lazy, "lazy"), (sparse, "to_dense")):
        with pytest.raises(CheckpointError, match=words):
            prunus.save(model, tmp_path / "folder")
    for thing in (None, TiedText, torch.jit.script(nn.Linear(2, 2))):
        with pytest.raises(ArgumentTypeError):
            prunus.save(thing, tmp_path / "folder")  # type: ignore[arg-type]
    assert not (tmp_path / "folder").exists()


def test_a_history_that_is_too_long_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, args = pruned("residual", ratio=0.1)
    prunus.prune(model, args, ratio=0.5)
    prunus.save(model, tmp_path / "whole")
    size = (tmp_path / "whole" / "manifest.json").stat().st_size
    monkeypatch.setattr("prunus.checkpoint.manifest.MAX_BYTES", size - 1)
    with pytest.warns(UserWarning, match="history"):
        prunus.save(model, tmp_path)
    first, last = history(prunus.load(Residual, tmp_path))
    assert first["axes"] == {}
    assert last == history(model)[1]
    assert history(model)[0]["axes"] != {}


def test_files_have_the_usual_permissions(saved: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for path in saved.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
