"""Only the room ``hub`` talks to a Hub: who may import what of huggingface_hub, and who may use the client itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "toolkit" / "hubkit" / "hub"
OTHERS = sorted(
    path
    for source in (ROOT / "toolkit" / "hubkit", ROOT / "stages" / "hubkit_stages")
    for path in source.rglob("*.py")
    if not path.is_relative_to(ROOM)
)
LOCAL = {
    ("huggingface_hub", "DatasetCardData"): "writes the front matter of a card",
    ("huggingface_hub", "EvalResult"): "a field of a card's front matter",
    ("huggingface_hub", "EvalResultEntry"): "an entry of .eval_results/",
    ("huggingface_hub", "ModelCardData"): "writes the front matter of a card",
    ("huggingface_hub", "SpaceCardData"): "writes the front matter of a card",
    ("huggingface_hub", "SpaceHardware"): "the names of the hardware that a recipe may ask for",
    ("huggingface_hub", "constants"): "the folder of the user's own login and cache, read by the command line alone",
    ("huggingface_hub", "eval_result_entries_to_yaml"): "writes .eval_results/",
    ("huggingface_hub", "get_token"): "the token of the user's own login, read by the command line alone",
    ("huggingface_hub.errors", "StrictDataclassError"): "what transformers raises for a wrong value in config.json",
    ("huggingface_hub.repocard_data", "eval_results_to_model_index"): "writes a card's model-index",
}
"""What of huggingface_hub other rooms may import: helpers that read and write texts and touch no network."""


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of each import of huggingface_hub in ``path``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "huggingface_hub":
                    yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "huggingface_hub":
            for alias in node.names:
                yield node.lineno, str(node.module), alias.name


def test_no_other_room_imports_the_network_side_of_huggingface_hub() -> None:
    used, wrong = set(), []
    for path in OTHERS:
        for line, module, name in imports(path):
            used.add((module, name))
            if (module, name) not in LOCAL:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}.{name}")
    assert not wrong, "Use a method of hubkit.hub.client.Hub, or add one:\n" + "\n".join(wrong)
    assert used == LOCAL.keys(), "LOCAL lists what nobody imports any more"


def test_no_other_room_uses_the_client_itself() -> None:
    """``hub.api`` is huggingface_hub's client; every request is a method of ours."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in OTHERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "api"
    ]
    assert not wrong, "These use hub.api:\n" + "\n".join(wrong)


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_private_modules_are_used_in_one_file_only(path: Path) -> None:
    private = [
        f"line {line}: {module}.{name}"
        for line, module, name in imports(path)
        if any(part.startswith("_") for part in [*module.split("."), name])
    ]
    assert not private or path.name == "private_api.py", private


@pytest.mark.parametrize("module", ["hubkit.hub.client", "hubkit.publishing.revisions", "hubkit.publishing.promotion"])
def test_importing_it_imports_no_heavy_library(module: str) -> None:
    """`hubkit revisions list` imports these: what takes long is imported where it is used."""
    heavy = ("pydantic", "jinja2", "rich", "detect_secrets", "huggingface_hub", "httpx2", "numpy", "torch")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
