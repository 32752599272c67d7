"""Names: what git and the Hub would refuse, we refuse first, by the same function on both sides."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.core.names import path_problem, ref_problem, repo_id_problem


@pytest.mark.parametrize("name", ["0f" * 20, "0F" * 20])
@pytest.mark.fault("S10")
def test_names_that_are_commit_ids_are_refused(name: str) -> None:
    assert ref_problem(name) and ref_problem(name[1:]) is None


@pytest.mark.parametrize("name", ["a b", "../x", "-x", "x..y", "x.lock", "@{0}", "HEAD", "refs/pr/1", "a" * 300, ""])
@pytest.mark.fault("S10")
def test_bad_branch_names_are_refused(name: str) -> None:
    assert ref_problem(name)


@pytest.mark.parametrize("char", ["\u2028", "\u00a0", "\x85", "\ud800", "\ufeff", "\u202e"])
@pytest.mark.fault("S10")
def test_what_nobody_sees_is_in_no_branch_name(char: str) -> None:
    assert ref_problem(char) and ref_problem(f"a{char}b") and ref_problem("\N{GRINNING FACE}") is None


@pytest.mark.parametrize("name", ["main", "dpo-v0", "staging/main", "v1.0", "ünïcode"])
def test_good_branch_names_pass(name: str) -> None:
    assert ref_problem(name) is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab/.-@{~^: \\*[?\x01é"), min_size=1, max_size=8))
@pytest.mark.fault("S10")
def test_what_we_accept_git_accepts(name: str) -> None:
    if ref_problem(name) is None:
        asked = subprocess.run(["git", "check-ref-format", "--branch", name], capture_output=True, check=False)
        assert asked.returncode == 0, name


@pytest.mark.parametrize(
    "path",
    ["../x", "/abs", "a//b", "a\\..\\b", "a\0b", "a\nb", "", "x" * 300, "CON", "aux.txt", ".git/config", "a/.GIT/x"],
)
@pytest.mark.fault("S1")
def test_bad_paths_are_refused(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize("path", ["e\u0301.txt", "a\u202eb", "a\ud800"])
@pytest.mark.fault("S1")
def test_paths_that_look_like_others_are_refused(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize(
    "path",
    [
        "git~1/x", "GIT~1", ".git /x", "a/.git./x", ".git::$INDEX_ALLOCATION/x", ".g\u200cit/x", ".git. . /x", "con /x",
        "a/" * 64 + "b",
    ],
)  # fmt: skip
@pytest.mark.fault("S1")
def test_paths_that_become_others_on_some_disk_are_refused(path: str) -> None:
    assert path_problem(path)


@pytest.mark.parametrize("path", [".gitignore", "x.git", "git", "...", "a/" * 63 + "b", ".github/x"])
def test_paths_near_them_pass(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("path", ["README.md", "adapter/adapter_model.safetensors", ".gitattributes", "é.txt"])
def test_good_paths_pass(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("repo", ["me", "me/a/b", "me/-a", "me/a--b", "me/a..b", "me/a.git", "me/" + "a" * 97, "/a"])
def test_bad_repo_ids_are_refused(repo: str) -> None:
    assert repo_id_problem(repo)


def test_good_repo_ids_pass() -> None:
    assert repo_id_problem("openaccess-ai-collective/DPOpenHermes-7B") is None
