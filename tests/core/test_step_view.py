"""The live view of a command's steps, as a person reads it on terminals of several kinds, and in a log."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from screens import Recording, recorded, resize

from hubkit.core.step_view import Pace

PROGRAM = """
import sys, time
from hubkit.core.output import Output

def reports(view, step, number):
    for done in range(number):
        view.progress(step, f"step {done}/{number}  loss 0.693", done / number)
        time.sleep(0.1)  # the time that a step takes: the view is drawn meanwhile

output = Output()
names = ["preflight", "base", "data", "train[dpo]", "gate", "merge[main]"]
output.heading("Releasing hubkit/tiny-hermes-dpo on the embedded Hub at http://127.0.0.1:40123 (run tiny-hermes-dpo-1)")
shown = set()
for _ in range(2):  # a question to the person interrupts the view: what was shown is not shown again
    with output.steps(names, shown) as view:
        view.start("preflight")
        view.done("preflight", "Hub, disk, libraries, recipe, memory, 24 steps", 1.2)
        for name in ("base", "data"):
            view.done(name, "at 012345678901", 3.0, reused=True)
with output.steps(names, shown) as view:
    view.start("train[dpo]")
    output.warn("train[dpo] is resumed; its checkpoints were made with trl 1.16.0, now 1.17:" + 5 * " a long sentence")
    reports(view, "train[dpo]", 8)
    view.done("train[dpo]", "100 steps  loss 0.048", 72.0)
    view.start("gate")
    view.done("gate", "; ".join(f"variant-{n} passed at {90 + n} %" for n in range(9)), 0.1)
    view.start("merge[main]")
    print("ready", file=sys.stderr)
    try:
        reports(view, "merge[main]", int(sys.argv[1]))
    except BaseException:
        view.failed("merge[main]", interrupted=True)
        raise
    view.done("merge[main]", "14 of 21 tensors", 0.4)
output.result({}, "The result.")
output.say("Released in 2 min 05 s.")
"""


def on_terminal(
    columns: int, *, rows: int = 24, reports: int = 3, when: object = None, **environment: str
) -> Recording:
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "CI", "COLUMNS", "LINES"}}
    kept |= {"TERM": "xterm-256color", **environment}
    command = [sys.executable, "-c", PROGRAM, str(reports)]
    more = {"when": when} if when else {}
    return recorded(command, kept, columns=columns, rows=rows, **more)  # type: ignore[arg-type]


AT_80 = """\
Releasing hubkit/tiny-hermes-dpo on the embedded Hub at http://127.0.0.1:40123
(run tiny-hermes-dpo-1)

✓ preflight        1.2 s  Hub, disk, libraries, recipe, memory, 24 steps
✓ 2 steps up to date  base, data

Note: train[dpo] is resumed; its checkpoints were made with trl 1.16.0, now
1.17: a long sentence a long sentence a long sentence a long sentence a long
sentence
✓ train[dpo]  1 min 12 s  100 steps  loss 0.048
✓ gate             0.1 s  variant-0 passed at 90 %; variant-1 passed at 91 %;
                          variant-2 passed at 92 %; variant-3 passed at 93 %;
                          variant-4 passed at 94 %; variant-5 passed at 95 %;
                          variant-6 passed at 96 %; variant-7 passed at 97 %;
                          variant-8 passed at 98 %
ready
✓ merge[main]      0.4 s  14 of 21 tensors

The result.
Released in 2 min 05 s.
"""


def test_at_80_columns() -> None:
    recording = on_terminal(80)
    assert recording.problems() == []
    assert recording.text == AT_80
    assert "about" not in recording.text and b"\x1b[32m" in recording.raw, "in color"


@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (60, 5)])
def test_at_other_sizes_nothing_wraps_and_no_line_is_there_twice(columns: int, rows: int) -> None:
    recording = on_terminal(columns, rows=rows)
    assert recording.problems() == [] and recording.code == 0
    assert max(map(len, recording.text.splitlines())) <= columns
    assert recording.text.count("train[dpo]  ") == 1 and recording.text.endswith("Released in 2 min 05 s.\n")


def test_a_terminal_that_is_resized_meanwhile() -> None:
    sizes = [(100, 24), (80, 24), (110, 24)]

    def change(written: bytes, process: psutil.Process, end: int) -> None:
        if b"ready" in written and sizes:
            resize(end, *sizes.pop())

    recording = on_terminal(120, reports=8, when=change)
    assert not sizes and recording.problems() == [] and recording.code == 0


def test_ctrl_c_leaves_the_terminal_as_it_was() -> None:
    typed: list[bytes] = []

    def press(written: bytes, process: psutil.Process, end: int) -> None:
        merging = written.partition(b"ready")[2]
        if merging.count(b"loss") > 5 and not typed:  # its reports are drawn: the step is under way
            typed.append(b"\x03")
            os.write(end, typed[0])

    recording = on_terminal(80, reports=600, when=press)
    assert recording.code in {-signal.SIGINT, 128 + signal.SIGINT, 1}
    assert "the cursor is hidden" not in recording.problems()
    assert "✗ merge[main]" in recording.text and "interrupted" in recording.text
    assert "merge[main]: failed" not in recording.text


def test_no_color() -> None:
    recording = on_terminal(80, NO_COLOR="1")
    assert b"\x1b[32m" not in recording.raw and b"\x1b[1;32m" not in recording.raw
    assert recording.text == AT_80


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_terminal_that_cannot_redraw_gets_lines(environment: dict[str, str]) -> None:
    recording = on_terminal(80, **environment)
    assert b"\x1b[1A" not in recording.raw and b"\x1b[2K" not in recording.raw and b"\x1b[?25l" not in recording.raw
    assert recording.text.count("train[dpo] …") == 1 and "train[dpo]: 1 min 12 s  100 steps" in recording.text
    assert recording.text.count("base: up to date") == 1


def test_a_log_gets_lines_without_control_codes(tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-c", PROGRAM, "3"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr + done.stdout and "\r" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(set(lines)) and done.stdout == "The result.\n"
    assert lines[1:4] == [
        "preflight …",
        "preflight: 1.2 s  Hub, disk, libraries, recipe, memory, 24 steps",
        "base: up to date  at 012345678901",
    ]


def test_the_time_to_come_is_that_of_the_work_at_hand() -> None:
    pace = Pace()
    pace.report("loading the base", 0.0, 0.0)
    assert pace.to_come(50.0) is None, "loading says nothing of the steps"
    pace.report("step 50/150  loss 0.7", 1 / 3, 60.0)  # resumed at a checkpoint
    assert pace.to_come(61.0) is None
    pace.report("step 60/150  loss 0.6", 0.4, 70.0)
    assert pace.to_come(70.0) == pytest.approx(90.0)
    assert pace.to_come(80.0) == pytest.approx(80.0), "it goes down between two reports"
    pace.report("uploading 999 MB of 2 GB", 0.5, 100.0)
    assert pace.to_come(100.0) is None, "other work has a pace of its own"
    pace.report("uploading 1.5 GB of 2 GB", 0.75, 110.0)
    assert pace.to_come(110.0) == pytest.approx(10.0)
