"""`hubkit readers`: which files of a folder or a repo are read, and what is said of a program that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from hubkit.cli.places import Place, place
from hubkit.cli.readers import _beside, _model, readers
from hubkit.core.errors import RemoteError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.readers import matrix
from hubkit.models.readers.comparing import Cell
from hubkit.server.process import Running

MODELS = ("chat-Q8_0.gguf", "chat-imatrix-Q4_K_M.gguf", "gguf/large-F16-00001-of-00003.gguf")
SHARDS = ("gguf/large-F16-00002-of-00003.gguf", "gguf/large-F16-00003-of-00003.gguf")
OTHERS = ("mmproj-chat-f16.gguf", "gguf/chat-mmproj-Q8_0.gguf", "imatrix.gguf", "gguf/chat-imatrix.gguf")
ELSEWHERE = ("old/chat-Q8_0.gguf", "gguf/old/chat-Q8_0.gguf", "gguf[1]/chat-Q8_0.gguf")


def write(folder: Path) -> Path:
    for name in ("config.json", *MODELS, *SHARDS, *OTHERS, *ELSEWHERE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_the_gguf_files_that_are_models(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    found = _model(Place("model", folder), None, None)
    assert [str(path.relative_to(folder)) for path in found.gguf] == list(MODELS)


def test_only_what_the_readers_need_is_downloaded(
    hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "model")
    target = Target(hub.url, tmp_path / "home", hub.token, embedded=True)
    connected = connect(target)
    connected.ensure_repo("hubkit/chat", "public")
    connected.api.upload_folder(repo_id="hubkit/chat", folder_path=folder)
    monkeypatch.setattr("hubkit.cli.places.find_target", lambda name: target)
    monkeypatch.setattr("hubkit.cli.places.output_of", lambda: Quiet())

    def downloaded(*names: str) -> set[str]:
        source = place("hubkit/chat", None, adapter=False, more=lambda paths: _beside(paths, names=names)).folder
        return {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}

    assert downloaded("peft-0.6") == {"config.json"}
    assert downloaded("transformers", "llama-cpp") == {"config.json", *MODELS, *SHARDS}


class Quiet:
    """An output that keeps the lines of the result."""

    lines: Sequence[object] = ()

    def say(self, text: str) -> None:
        pass

    def result(self, value: object, *lines: object) -> None:
        self.lines = lines


@pytest.mark.parametrize(("named", "code"), [(("--with", "peft-0.6"), 5), ((), 0)])
def test_a_program_that_cannot_be_installed(
    named: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is "not run"; who asked for it by name gets the error after the table."""
    cells = (Cell("transformers", "merged", "works"), Cell("peft-0.6", "adapter", "not run", "no index answers"))
    error = RemoteError("No index answers.", hint="Check the connection.")
    found = matrix.Matrix(cells, "2026-11-29", "x86_64, Linux", {"peft-0.6": error})
    monkeypatch.setattr(matrix, "read_by", lambda *given, **more: found)
    said = Quiet()
    monkeypatch.setattr("hubkit.cli.readers.output_of", lambda: said)
    done = CliRunner().invoke(readers, [str(write(tmp_path / "model")), *named])
    assert "peft-0.6, adapter on its base: no index answers." in said.lines
    assert (getattr(done.exception, "exit_code", done.exit_code)) == code
