"""Releases of one repo at once, each in a process of its own: row F10."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import read_until
from releases import REPO, Release, assert_whole, heads, hub_of

from hubkit.server.process import Running

RIVAL = textwrap.dedent("""
    import sys
    from pathlib import Path
    from hubkit.publishing import copying
    from hubkit.core.errors import HubkitError
    from releases import RECIPE, Release
    from hubkit.server.process import Running
    url, data, token, home = sys.argv[1:]
    release = Release.on(Running(url, 0, Path(data), token), Path(home))
    release.made.update((f"publish[{name}]", release.run.find(f"publish[{name}]")) for name in RECIPE.variants)
    real = copying.commit
    def together(*args):
        copying.commit = real
        print("ready", flush=True)
        sys.stdin.readline()
        return real(*args)
    copying.commit = together
    try:
        release.promote()
    except HubkitError as error:
        print(error.message, flush=True)
        sys.exit(error.exit_code)
""")


@pytest.mark.fault("F10")
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.soak), 8])
def test_of_several_releases_exactly_one_wins(
    hub: Running, tmp_path: Path, count: int, record_property: Callable[[str, object], None]
) -> None:
    """All have read the branches before the first of them commits; each has its own weights and its own staged tree."""
    before = Release.on(hub, tmp_path / "before").train(100).publish()
    before.promote()
    connected, old = hub_of(before), heads(before)
    rivals = [Release.on(hub, tmp_path / str(number)).train(number + 1).publish() for number in range(count)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said, codes = [], []
    with ExitStack() as stack:
        running = []
        for rival in rivals:
            command = [sys.executable, "-c", RIVAL, hub.url, str(hub.data), hub.token, str(rival.folder)]
            child = subprocess.Popen(
                command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            running.append(stack.enter_context(child))
            stack.callback(child.kill)
        for child in running:
            assert child.stdout is not None
            read_until(child.stdout, "ready")
        for child in running:
            assert child.stdin is not None
            child.stdin.write("go\n")
        for child in running:
            said.append(child.communicate(timeout=60)[0])
            codes.append(child.returncode)
    assert sorted(codes) == [0, *[4] * (count - 1)], said
    winner = rivals[codes.index(0)]
    for name in ("dpo-v0", "main"):
        assert_whole(winner, name)
        assert [item.id for item in connected.history(REPO, name)][1] == old[name], "one commit on the old head"
    now = heads(winner)["dpo-v0"]
    for code, told in zip(codes, said, strict=True):
        assert code == 0 or f"moved from {old['dpo-v0'][:12]} to {now[:12]}" in told
    record_property("figure", f"{count} processes: 1 won, {count - 1} ended with 4")
