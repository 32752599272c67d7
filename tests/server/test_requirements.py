"""Requirements of a Space: what pip is given of them, and that no spelling makes it read a file of the machine."""

from __future__ import annotations

import optparse
import os
import re
import time
from pathlib import Path

import gradio
import pytest
from huggingface_hub import HfApi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pip._internal.req.req_file import SUPPORTED_OPTIONS, get_line_parser, preprocess
from space_samples import SPACE, push, server, wait

from hubkit.server.process import Running
from hubkit.server.spaces import build, requirements
from hubkit.server.spaces.build import Failure
from hubkit.server.spaces.requirements import Requirements, RequirementsError, is_met, read

SECRET = "the first line of a file of the machine"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A Space's checkout, beside a file that is not its own."""
    folder = tmp_path / "space"
    (folder / "deep").mkdir(parents=True)
    (folder / "own.whl").touch()
    (folder / "package").mkdir()
    (tmp_path / "owner.token").write_text(SECRET)
    return folder


def lines_of(folder: Path, text: str, **files: str) -> list[str]:
    for name, content in {"requirements": text, **files}.items():
        (folder / f"{name}.txt").write_text(content, encoding="utf-8")
    return read(folder).lines


def test_they_are_read_as_pip_reads_them(space: Path) -> None:
    text = "\ufeff# all\n\ngradio >=4 # here\nnumpy\\\n>=1\n-r more.txt\nx @ https://host/a#sha256=1\n"
    assert lines_of(space, text, more="torch\n--pre") == [
        "gradio>=4", "numpy>=1", "torch", "--pre", "x @ https://host/a#sha256=1",
    ]  # fmt: skip
    assert read(space / "nowhere") == Requirements()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a[b,c]>=1; python_version > '3'", ['a[b,c]>=1; python_version > "3"']),
        ("./own.whl", ["./own.whl"]), ("own.whl", ["./own.whl"]), ("./package[dev]", ["./package[dev]"]),
        ("-e .", ["--editable ./."]), ("--editable=./package", ["--editable ./package"]),
        ("https://host/a.whl", ["https://host/a.whl"]), ("a @ git+https://host/a@v1", ["a @ git+https://host/a@v1"]),
        ("--pre --prefer-binary", ["--pre", "--prefer-binary"]), ("--no-index", ["--no-index"]),
        ("-i https://host/simple", ["--index-url https://host/simple"]),
        ("--extra-index-url=https://host/simple", ["--extra-index-url https://host/simple"]),
        ("-f ./package", ["--find-links ./package"]), ("--only-binary :all:", ["--only-binary :all:"]),
        (f"a==1 --hash=sha256:{'0' * 64} \\\n  --hash=sha256:{'1' * 64}",
         [f"a==1 --hash=sha256:{'0' * 64} --hash=sha256:{'1' * 64}"]),
    ],
)  # fmt: skip
def test_what_a_space_may_require(space: Path, line: str, expected: list[str]) -> None:
    assert lines_of(space, line) == expected


def test_constraints_are_kept_apart(space: Path) -> None:
    assert lines_of(space, "-c upper.txt\nnumpy\n", upper="numpy<3\n-r more.txt", more="torch<9") == ["numpy"]
    assert read(space).constraints == ["numpy<3", "torch<9"]
    arguments = build.write_requirements(space, read(space))
    assert arguments == ["-r", "requirements.checked.txt", "-c", "constraints.checked.txt"]
    assert (space / arguments[3]).read_text() == "numpy<3\ntorch<9\n"


HOSTILE = [
    "-r ../owner.token",
    "-r/etc/passwd",
    "-r=/etc/passwd",
    "-r deep/in.txt",
    "-c nowhere.txt",
    "-c ../owner.token",
    "--constraint=https://host/x",
    "--requirement ../owner.token",
    "--requirement=../owner.token",
    "-r file:///etc/passwd",
    "--constr ../owner.token",
    "--constr=../owner.token",
    "--req ../owner.token",
    "--r ../owner.token",
    "--c=/etc/passwd",
    "--no-index -c ../owner.token",
    "--pre --requirement ../owner.token",
    "--pre -r../owner.token",
    "--no-index --constr /x",
    "-c\\\n ../owner.token",
    "--pre\\\n --require\\\nment ../owner.token",
    "--pre --requirement '../owner.token'",
    "-r ${HOME}/x",
    "${X}",
    "a @ file:///etc/passwd",
    "a @ file:../owner.token",
    "a @ ../owner.token",
    "file:../owner.token",
    "file:///etc/passwd",
    "../owner.token",
    "/etc/passwd",
    "./../owner.token",
    "-e ..",
    "-e ../x",
    "--edit=..",
    "-e /etc",
    "-f /etc",
    "-f ..",
    "--find-links file:///etc",
    "--find=/etc",
    "-i file:///etc",
    "-i http://host/simple",
    "--index file:///etc",
    "--extra-index-url http://host",
    "--trusted-host host",
    "--trust host",
    "a -r ../owner.token",
    "a --config-settings=x=y",
    "a --global-option=x",
    "a --hash=md5:1",
    "a --hash",
    "a @ git+ssh://host/a",
    "a @ hg+https://h/a",
    "a @ http://host/a.whl",
    "git+file:///etc#egg=a",
    "-e git+https://host/a#egg=a",
    "--log=/tmp/x",
    "--cert /etc/passwd",
    "--proxy http://x",
    "--target /x",
    "--prefix=/x",
    "--no-binary ../owner.token",
    "--hash=x",
    "-",
    "--",
    "--pre=1",
    "-rx",
    "'",
    "-r '",
    "a b",
    "a\x00b",
    "a\x1b[31m",
    "pre-a @ https://h/a --pre",
    "--use-feature x",
    "--process-dep",
    "-r",
    "-r\t/x",
]


@pytest.mark.fault("A2")
@pytest.mark.parametrize("line", HOSTILE)
def test_no_line_names_a_file_of_the_machine(space: Path, line: str) -> None:
    (space / "deep" / "in.txt").write_text("-r ../more.txt\n-r ../../owner.token\n")
    (space / "more.txt").write_text("numpy\n-r requirements.txt\n")
    with pytest.raises(RequirementsError) as refused:
        lines_of(space, line)
    assert SECRET not in str(refused.value) and "root:" not in str(refused.value)
    with pytest.raises(Failure, match=re.escape(str(refused.value))) as failed:
        build.requirements(space)
    assert failed.value.stage == "BUILD_ERROR"


OPTIONS = sorted({name for make in SUPPORTED_OPTIONS for name in (make()._short_opts + make()._long_opts)})


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """Lines of options of pip's own, cut short as optparse allows it, joined, broken and quoted in all ways."""
    words = []
    for _ in range(draw(st.integers(1, 3))):
        option = draw(st.sampled_from(OPTIONS))
        option = option[: draw(st.integers(2, len(option)))]
        value = draw(st.sampled_from(["../owner.token", "/etc/passwd", "own.whl", "more.txt", "https://h/x", "a", "",
                                      "file:../owner.token", ".", "..", "${HOME}"]))  # fmt: skip
        quote = draw(st.sampled_from(["", "'", '"']))
        glue = draw(st.sampled_from([" ", "=", "", "\t", " \\\n ", "\\\n"]))
        words.append(f"{option}{glue}{quote}{value}{quote}")
    start = draw(st.sampled_from(["", "", "a==1 ", "./own.whl ", "a @ https://h/x "]))
    return start + draw(st.sampled_from([" ", "\\\n", "\n"])).join(words) + draw(st.sampled_from(["", " # x", "\\"]))


@pytest.mark.fault("A2")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spellings())
def test_whatever_the_spelling_pip_is_led_to_no_other_file(space: Path, text: str) -> None:
    (space / "more.txt").write_text("torch\n")
    try:
        lines_of(space, text)
    except RequirementsError as refused:
        assert SECRET not in str(refused)
        return
    found = read(space)
    build.write_requirements(space, found)
    parse = get_line_parser(None)
    for name in ("requirements.checked.txt", "constraints.checked.txt"):
        if not (space / name).exists():
            continue
        for _, line in preprocess((space / name).read_text()):
            arguments, options = parse(line)
            assert not (options.requirements or options.constraints or options.trusted_hosts), (text, line)
            named = [arguments, *(options.editables or []), *(options.find_links or [])]
            for path in named:
                if path and "://" not in path and ("/" in path or path.startswith(".")):
                    assert (space / path.partition("[")[0]).resolve().is_relative_to(space), (text, line)
            urls = [options.index_url, *(options.extra_index_urls or [])]
            assert all(url.startswith("https://") for url in urls if url), (text, line)
            assert "file:" not in line
        (space / name).unlink()


def test_the_lists_above_are_of_pips_parser(space: Path) -> None:
    """The old guard's gaps are real: pip's own parser takes these for files to read."""
    parse = get_line_parser(None)
    for line in ("--no-index -c /x", "--constr /x", "--pre --requirement /x"):
        _, options = parse(line)
        assert (options.requirements or options.constraints) == ["/x"]
    assert isinstance(SUPPORTED_OPTIONS[0](), optparse.Option)


@pytest.mark.fault("A2")
@pytest.mark.parametrize("line", ["--no-index -c FILE", "--constr FILE", "--pre --requirement FILE"])
def test_a_public_error_never_shows_a_file_of_the_machine(api: HfApi, hub: Running, line: str) -> None:
    file = hub.data / "owner.token"
    push(api, app_py=server(), requirements_txt=line.replace("FILE", str(file)))
    runtime = wait(api)
    shown = str(runtime.raw) + "".join(api.fetch_space_logs(SPACE, build=True))
    assert runtime.stage == "BUILD_ERROR" and hub.token not in shown and hub.token[:12] not in shown
    assert "requirements.txt: " in runtime.raw["errorMessage"]


def test_blanks_take_no_time(space: Path) -> None:
    began = time.process_time()
    with pytest.raises(RequirementsError):
        lines_of(space, "x" + " " * 130_000 + "y")
    assert time.process_time() - began < 20


def test_they_have_the_size_of_such(space: Path) -> None:
    with pytest.raises(RequirementsError, match=r"131,072 bytes; it has 210,000"):
        lines_of(space, "gradio\n" * 30_000)


@pytest.mark.parametrize(
    ("line", "met"),
    [
        ("gradio", True),
        ("Gradio>=4", True),
        (f"gradio=={gradio.__version__}", True),
        ("gradio<1", False),
        ("no-such-package-for-hubkit", False),
        ("no-such-package-for-hubkit; python_version < '3'", True),
        ("uvicorn[no-such-extra]", True),
        ("gradio @ https://host/gradio.whl", False),
        ("./own.whl", False),
        ("gradio; python_version ~= 'x'", False),
        ("gradio; extra ~= 'x'", False),
    ],
)
def test_what_is_met_by_what_is_installed(line: str, met: bool) -> None:
    assert is_met(line) is met


def test_options_alone_are_nothing_to_install() -> None:
    found = Requirements(["--pre", "--extra-index-url https://host/simple", "gradio", "--editable ./x"])
    assert found.requirements() == ["gradio", "--editable ./x"] and found.unmet() == ["--editable ./x"]


def test_extras_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["no-such-package-for-hubkit; extra == 'more'", "numpy; extra == 'less'"]
    monkeypatch.setattr(requirements.importlib.metadata, "requires", lambda name: needs)  # type: ignore[attr-defined]
    assert is_met("gradio[less]") and not is_met("gradio[more]")


def test_an_environment_is_kept_as_long_as_it_holds_the_same() -> None:
    def key(*lines: str, commit: str, constraints: tuple[str, ...] = ()) -> str:
        return Requirements(list(lines), list(constraints)).key(commit)

    same = key("numpy==2", "torch", commit="a" * 40)
    assert same == key("numpy==2", "torch", commit="b" * 40) != key("numpy", commit="a" * 40)
    assert same != key("numpy==2", "torch", commit="a" * 40, constraints=("torch<9",))
    for line in ("./own.whl", "--editable ./.", "--find-links ./wheels"):
        assert key(line, commit="a" * 40) != key(line, commit="b" * 40), "another file in the next commit"
    assert os.sep not in same
