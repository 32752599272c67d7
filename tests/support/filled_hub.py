"""A Hub with something of every kind that a Hub keeps, and a look at all of it.

``tests/data/hubs`` are data folders of earlier versions. Each was made by its own server and this file, from a
checkout of the commit that it is named after: ``python tests/support/filled_hub.py CHECKOUT ARCHIVE``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from real_git import address, real_git
from writers import Caller, RefusedError, header, large_file, text_file
from xet_wire import Wire, named, xorb

from hubkit.server.process import Running
from hubkit.server.xet.hashes import xorb_hash

CARD = b"---\nlicense: apache-2.0\ntags: [sound]\n---\n# A model\n"
LARGE = b"\2\0\0\0\0\0\0\0{}" + random.Random(1).randbytes(1200)
BY_XET = [random.Random(number).randbytes(1500) for number in range(2, 5)]
FILES = {"README.md": CARD, "config.json": b'{"model_type": "mistral"}\n', "docs/guide.md": b"guide\n" * 50}
ANN = "hf_" + "a" * 34
MODEL = "/api/models/me/model"


def _basis(call: Caller, git: Path) -> None:
    call("POST", "/api/repos/create", {"name": "model", "organization": "me"})
    lines = [header("first"), *(text_file(path, body) for path, body in FILES.items())]
    lines.append(large_file("model.safetensors", call.upload("me/model", LARGE), len(LARGE)))
    call.commit("me/model", lines)
    call("POST", f"{MODEL}/branch/dev", {"startingPoint": "main"})
    call("POST", f"{MODEL}/tag/main", {"tag": "v1", "message": "annotated"})
    call.commit("me/model", [header("propose"), text_file("docs/guide.md", b"another guide\n")], query="?create_pr=1")
    call("POST", f"{MODEL}/discussions/1/comment", {"comment": "A comment."})
    call("POST", f"{MODEL}/discussions", {"title": "A question", "description": "Why?"})
    call.commit("me/model", [header("second"), text_file("docs/new.md", b"new\n")])
    call("POST", "/api/repos/create", {"name": "old-name", "organization": "me", "type": "dataset", "private": True})
    moved = {"fromRepo": "me/old-name", "toRepo": "team/data", "type": "dataset"}
    call("POST", "/api/hubkit/users", {"name": "ann", "fullname": "Ann"})
    call("POST", "/api/hubkit/tokens", {"user": "ann", "role": "write", "label": "hers", "value": ANN})
    call("POST", "/api/hubkit/orgs", {"name": "team", "members": {"ann": "read"}})
    call("POST", "/api/repos/move", moved)


def _see_basis(call: Caller) -> None:
    files = FILES | {"model.safetensors": LARGE}
    assert call.files("me/model", "dev") == call.files("me/model", "v1") == files
    assert call.files("me/model") == files | {"docs/new.md": b"new\n"}
    assert call.files("me/model", "refs/pr/1") == files | {"docs/guide.md": b"another guide\n"}
    assert call.titles("me/model") == ["second", "first", "initial commit"]
    items = [
        (item["num"], item["title"], item["status"]) for item in call("GET", f"{MODEL}/discussions")["discussions"]
    ]
    assert sorted(items) == [(1, "propose", "open"), (2, "A question", "open")]
    events = call("GET", f"{MODEL}/discussions/1?diff=1")
    assert any(event["data"].get("latest", {}).get("raw") == "A comment." for event in events["events"])
    assert "another guide" in events["diff"]
    assert call("GET", "/api/datasets/me/old-name")["id"] == "team/data", "the earlier name leads there"
    assert call("GET", "/api/datasets/team/data")["private"] is True
    ann = call("GET", "/api/whoami-v2", headers={"Authorization": f"Bearer {ANN}"})
    assert ann["name"] == "ann" and [org["name"] for org in ann["orgs"]] == ["team"]
    assert "me/model" in [item["id"] for item in call("GET", "/api/models?filter=sound")]


def _space(call: Caller, git: Path) -> None:
    secrets = {"secrets": [{"key": "KEY", "value": "zq-secret"}], "variables": [{"key": "MODE", "value": "calm"}]}
    order = {"name": "page", "organization": "me", "type": "space", "sdk": "static"}
    if not call("GET", "/api/spaces?author=me"):  # the first version had Spaces, but not their settings
        call("POST", "/api/repos/create", order | secrets)
    for family, (setting,) in secrets.items():
        call("POST", f"/api/spaces/me/page/{family}", setting)


def _see_space(call: Caller) -> None:
    assert "KEY" in call("GET", "/api/spaces/me/page/secrets")
    assert call("GET", "/api/spaces/me/page/variables")["MODE"]["value"] == "calm"
    assert call("GET", "/api/spaces/me/page")["sdk"] == "static"


def _publisher(call: Caller, git: Path) -> None:
    call("POST", "/api/hubkit/publishers", {"repo": "me/model", "secret": "s3cr3t", "claims": {"repository": "a/b"}})
    limited = {"global": [], "scoped": []}
    call("POST", "/api/hubkit/tokens", {"user": "ann", "label": "fine", "fineGrained": limited})


def _see_publisher(call: Caller) -> None:
    (ann,) = [one for one in call("GET", "/api/hubkit/accounts") if one["name"] == "ann"]
    assert sorted(token["label"] for token in ann["tokens"]) == ["fine", "hers"]


def _collection(call: Caller, git: Path) -> None:
    slug = call("POST", "/api/collections", {"title": "Models", "namespace": "me"})["slug"]
    call("POST", f"/api/collections/{slug}/items", {"item": {"type": "model", "id": "me/model"}, "note": "the first"})


def _see_collection(call: Caller) -> None:
    (one,) = call("GET", "/api/collections?owner=me")
    assert one["title"] == "Models"
    assert [(item["id"], item["note"]["text"]) for item in one["items"]] == [("me/model", "the first")]


def _push(call: Caller, home: Path) -> None:
    git, work = real_git(home), home / "work"
    url = address(call.hub.url, call.hub.token, "me/model")
    call("GET", "/me/model.git/info/refs?service=git-upload-pack")
    git("clone", "-q", url, str(work), at=home, GIT_LFS_SKIP_SMUDGE="1")
    for number in range(3):
        (work / "pushed.txt").write_text("pushed\n" * (number + 1))
        git("add", "-A", at=work)
        git("commit", "-qm", f"pushed {number}", at=work)
    git("push", "-q", url, "HEAD:pushed", at=work)
    call("POST", "/me/model.git/info/lfs/locks", {"path": "model.safetensors"})


def _see_push(call: Caller) -> None:
    assert call.files("me/model", "pushed")["pushed.txt"] == b"pushed\n" * 3
    assert [lock["path"] for lock in call("GET", "/me/model.git/info/lfs/locks")["locks"]] == ["model.safetensors"]


def _xet(call: Caller, git: Path) -> None:
    call("GET", f"{MODEL}/xet-write-token/main")
    call("POST", "/api/repos/create", {"name": "by-xet", "organization": "me"})
    wire = Wire(call.hub.url, call.hub.token, "me/by-xet")
    wire.upload(BY_XET)
    whole = b"".join(BY_XET)
    pointer = large_file("w.bin", hashlib.sha256(whole).hexdigest(), len(whole))
    call.commit("me/by-xet", [header("by Xet"), pointer])
    alone = [random.Random(9).randbytes(700)]
    assert wire.xorb(xorb(alone), xorb_hash(named(alone))).status_code == 200, "its shard never comes"


def _see_xet(call: Caller) -> None:
    assert call.files("me/by-xet")["w.bin"] == b"".join(BY_XET)
    (item,) = [item for item in call("GET", "/api/models/me/by-xet/tree/main") if item["path"] == "w.bin"]
    wire = Wire(call.hub.url, call.hub.token, "me/by-xet", scope="read")
    answer = wire.get(f"/v1/reconstructions/{item['xetHash']}").json()
    assert sum(term["unpacked_length"] for term in answer["terms"]) == 4500


def _social(call: Caller, git: Path) -> None:
    call("POST", f"{MODEL}/like")
    watched = [{"type": "model", "name": "me/model"}]
    call("POST", "/api/settings/webhooks", {"url": "http://127.0.0.1:9/told", "watched": watched, "secret": "s"})
    call("POST", "/api/repos/create", {"name": "gated", "organization": "me"})
    call("PUT", "/api/models/me/gated/settings", {"gated": "manual"})
    call("POST", "/me/gated/ask-access", {}, headers={"Authorization": f"Bearer {ANN}"})
    call("POST", f"{MODEL}/discussions/2/comment", {"comment": "Because."})


def _see_social(call: Caller) -> None:
    assert call("GET", MODEL)["likes"] == 1
    (hook,) = call("GET", "/api/settings/webhooks")
    assert (hook["url"], hook["secret"], hook["disabled"]) == ("http://127.0.0.1:9/told", "s", False)
    (asked,) = call("GET", "/api/models/me/gated/user-access-request/pending")
    assert asked["user"]["user"] == "ann"


PARTS: dict[str, tuple[Callable[[Caller, Path], None], Callable[[Caller], None]]] = {
    "repos, discussions, accounts": (_basis, _see_basis),
    "a Space": (_space, _see_space),
    "a trusted publisher": (_publisher, _see_publisher),
    "a collection": (_collection, _see_collection),
    "a push and a lock": (_push, _see_push),
    "files by Xet": (_xet, _see_xet),
    "likes, webhooks, gates": (_social, _see_social),
}


def fill(hub: Running, home: Path, wanted: Iterable[str] = tuple(PARTS)) -> list[str]:
    """Put the parts into a Hub that are wanted; those that this version of it knows."""
    call, parts = Caller(), []
    call.hub = hub
    home.mkdir(exist_ok=True)
    for part in wanted:
        try:
            PARTS[part][0](call, home)
        except RefusedError as error:
            if not any(f": {status} " in str(error) for status in (404, 405, 501)):
                raise
        else:
            parts.append(part)
    call.close()
    return parts


def see(hub: Running, parts: list[str]) -> None:
    """Read what :func:`fill` put there."""
    call = Caller()
    call.hub = hub
    for part in parts:
        PARTS[part][1](call)
    call.close()


def _make(checkout: Path, archive: Path) -> None:
    """Start the server of an earlier version, fill its Hub, and keep the data folder."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "hub")
        data.mkdir()
        words = [sys.executable, "-m", "hubkit.server", "--data", str(data), "--port", "0"]
        server = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": f"{checkout}/toolkit"}, cwd=checkout)
        state: dict[str, Any] = {}
        while "url" not in state:
            time.sleep(0.1)
            assert server.poll() is None
            if (data / "server.json").exists():
                state = json.loads((data / "server.json").read_text())
        running = Running(state["url"], state["pid"], data, (data / "owner.token").read_text().strip())
        try:
            parts = fill(running, Path(folder, "home"))
            see(running, parts)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        for name in ("log", "spaces", "process.log"):
            subprocess.run(["rm", "-rf", str(data / name)], check=True)
        (Path(folder) / "parts.json").write_text(json.dumps(parts))
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for name in ("parts.json", "hub"):
                tar.add(Path(folder, name), name, filter=_of_nobody)
    sys.stdout.write(f"{archive}: {archive.stat().st_size:,} bytes, {', '.join(parts)}\n")


def _of_nobody(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item


if __name__ == "__main__":
    _make(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
