"""What is loaded back of GGUF files: by llama.cpp, from the folder that they were downloaded to."""

from pathlib import Path

import gguf_models
import pytest

from hubkit.core.errors import ConflictError
from hubkit.models.chat.eos import EndOfTurn
from hubkit.models.chat.stop_rates import MeasuredRate
from hubkit.models.gguf.library import has_runtime
from hubkit.models.gguf.made import GgufFile, GgufFiles
from hubkit.models.gguf.write import write_gguf
from hubkit.publishing.gguf_load_back import load_gguf_back

PROMPTS = [{"messages": [{"role": "user", "content": f"Count to {number}."}]} for number in (3, 4, 5)]


def made_of(file: Path, end: str, *, rate: float | None, llama_cpp: str | None = "0.3.36") -> GgufFiles:
    """The artifact of ``file``, of whose 4 measured answers a share of ``rate`` ended."""
    measured = (
        MeasuredRate(stopped=round(4 * rate), prompts=4, rate=rate, low=0.0, high=1.0, mean_tokens=4.0, dtype="f16")
        if rate is not None
        else None
    )
    item = GgufFile(
        name=file.name, kind="f16", bytes=1, sha256="0" * 64, worst_tensor="t", largest_error=0.0, relative_error=0.0,
        stops=(end,), stop_rate=measured,
    )  # fmt: skip
    return GgufFiles(
        architecture="llama", files=(item,), ollama=(), notes=(), source={}, max_new_tokens=3, llama_cpp=llama_cpp
    )


@pytest.mark.skipif(not has_runtime(), reason="SKIPPED: install llama-cpp-python to load GGUF files back")
def test_a_file_is_loaded_asked_and_stopped(tmp_path: Path) -> None:
    """A fresh model does not end its answers; that was measured, or it is not the model that was measured."""
    model = gguf_models.make("smollm", tmp_path / "model")
    report = write_gguf(model, tmp_path / "there" / "x-F16.gguf", "f16", name="x")
    end = report.end_of_turn_of()
    folder = report.file.parent
    (found,) = load_gguf_back(made_of(report.file, end.token, rate=0.0), folder, PROMPTS, end)
    assert (found.name, found.asked) == ("x-F16.gguf", 2) and found.llama_cpp and found.stopped < 2
    with pytest.raises(ConflictError, match=r"x-F16\.gguf, loaded back from the Hub, is not the file"):
        load_gguf_back(made_of(report.file, end.token, rate=1.0), folder, PROMPTS, end)
    (found,) = load_gguf_back(made_of(report.file, end.token, rate=None), folder, PROMPTS, end)
    assert found.asked == 0, "what was not measured is loaded, and asked nothing"
    with pytest.raises(ConflictError, match=r"llama\.cpp does not end an answer at 'other'"):
        load_gguf_back(made_of(report.file, end.token, rate=None), folder, PROMPTS, EndOfTurn("other", 40))


def test_what_was_written_without_llama_cpp_is_not_loaded(tmp_path: Path) -> None:
    end = EndOfTurn("<|im_end|>", 2)
    assert load_gguf_back(made_of(tmp_path / "x", "x", rate=None, llama_cpp=None), tmp_path, PROMPTS, end) == ()
