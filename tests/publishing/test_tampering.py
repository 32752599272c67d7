"""Sign a release, then change anything of it: 1,000 random changes of 1,000 are refused (`make test`: 250 of 250)."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import Release
from signatures import Files, content, key_pair, publish_signed

from hubkit.core.errors import ConflictError, RefusedError
from hubkit.publishing import signing, verifying
from hubkit.publishing.manifest import MANIFEST_PATH, SIGNATURE_PATH
from hubkit.server.process import Running

Change = Callable[[random.Random, dict[str, bytes]], None]


def _any(draw: random.Random, held: dict[str, bytes]) -> str:
    return draw.choice(sorted(held))


def flip(draw: random.Random, held: dict[str, bytes]) -> None:
    path = _any(draw, held)
    place = draw.randrange(len(held[path]))
    body = bytearray(held[path])
    body[place] ^= draw.randrange(1, 256)
    held[path] = bytes(body)


def cut(draw: random.Random, held: dict[str, bytes]) -> None:
    path = _any(draw, held)
    held[path] = held[path][: draw.randrange(len(held[path]))]


def lengthen(draw: random.Random, held: dict[str, bytes]) -> None:
    held[_any(draw, held)] += draw.randbytes(draw.randrange(1, 9))


def rename(draw: random.Random, held: dict[str, bytes]) -> None:
    path = _any(draw, held)
    held[draw.choice([f"{path}.old", f"adapter/{path}", path.swapcase()])] = held.pop(path)


def add(draw: random.Random, held: dict[str, bytes]) -> None:
    names = ["adapter_config.json", "generation_config.json", "chat_template.jinja", "x.py", ".hubkit/more", "a b"]
    held[draw.choice(names)] = draw.randbytes(draw.randrange(0, 99))


def remove(draw: random.Random, held: dict[str, bytes]) -> None:
    del held[_any(draw, held)]


def swap(draw: random.Random, held: dict[str, bytes]) -> None:
    one = _any(draw, held)
    other = draw.choice([path for path in sorted(held) if held[path] != held[one]])  # a card and its copy are equal
    held[one], held[other] = held[other], held[one]


def strip(draw: random.Random, held: dict[str, bytes]) -> None:
    del held[SIGNATURE_PATH]


def forge(draw: random.Random, held: dict[str, bytes]) -> None:
    """Change a file, and have the manifest say so."""
    said = json.loads(held[MANIFEST_PATH])
    item = draw.choice(said["files"])
    body = held[item["path"]] + b"\n"
    held[item["path"]] = body
    git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    item.update(size=len(body), sha256=hashlib.sha256(body).hexdigest(), git=git)
    held[MANIFEST_PATH] = (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()


def reword(draw: random.Random, held: dict[str, bytes]) -> None:
    """Change what the manifest tells, and no file."""
    said = json.loads(held[MANIFEST_PATH])
    said[draw.choice(["repo", "variant", "base", "seed", "stop_rates"])] = draw.random()
    held[MANIFEST_PATH] = (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()


def resign(draw: random.Random, held: dict[str, bytes]) -> None:
    """Take files out of the statement that was signed, or sign it with nothing."""
    value = json.loads(held[SIGNATURE_PATH])
    envelope = value["dsseEnvelope"]
    if draw.random() < 0.5:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        statement["predicate"]["resources"].pop(draw.randrange(3))
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    else:
        envelope["signatures"] = draw.choice([[], [{"sig": "", "keyid": ""}], [envelope["signatures"][0]] * 2])
    held[SIGNATURE_PATH] = json.dumps(value).encode() + b"\n"


@pytest.mark.fault("F9")
@pytest.mark.parametrize("mutations", [250, pytest.param(1000, marks=pytest.mark.soak)])
def test_all_of_many_changes_are_refused(
    hub: Running, tmp_path: Path, mutations: int, record_property: Callable[[str, object], None]
) -> None:
    """Each begins with the whole signed release, which itself passes."""
    release, keys = Release.on(hub, tmp_path).train(), key_pair(tmp_path)
    publish_signed(release, keys[0])
    sound, other = content(release, "main"), content(release, "dpo-v0")
    release.train(2)
    publish_signed(release, key_pair(tmp_path, "stranger")[0], "main")
    strange = content(release, "main")
    check = signing.verifier(keys[1])

    def replay(draw: random.Random, held: dict[str, bytes]) -> None:
        """The signature, or it and its manifest, of another variant, or of another signer's release."""
        source = draw.choice([other, strange])
        taken = draw.choice([[SIGNATURE_PATH], [SIGNATURE_PATH, MANIFEST_PATH]])
        held.update({path: source[path] for path in taken})

    def impersonate(draw: random.Random, held: dict[str, bytes]) -> None:
        held.clear()
        held.update(strange)

    changes: list[Change] = [
        flip, cut, lengthen, rename, add, remove, swap, strip, forge, reword, resign, replay, impersonate
    ]  # fmt: skip
    assert not verifying.verify(Files(dict(sound), tmp_path / "x"), verifier=check).differences
    assert not verifying.verify(Files(dict(other), tmp_path / "x"), verifier=check).differences
    refused: dict[str, int] = {}
    for number in range(mutations):
        draw = random.Random(number)
        held = dict(sound)
        change = changes[number % len(changes)]
        change(draw, held)
        assert held != sound
        try:
            report = verifying.verify(Files(held, tmp_path / "x"), verifier=check)
        except (ConflictError, RefusedError):
            pass
        else:
            assert report.differences, f"{change.__name__} number {number} went unseen"
        refused[change.__name__] = refused.get(change.__name__, 0) + 1
    record_property("figure", f"{sum(refused.values()):,} of {mutations:,} changes of a signed release refused")
    assert sum(refused.values()) == mutations and min(refused.values()) >= mutations // len(changes)
