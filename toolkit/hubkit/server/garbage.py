"""Garbage: git objects that no ref leads to, and large files that no file of any ref points to, when they are old.

A commit that a branch has left (a squash, a forced push, a deleted branch) can be read by its id until it is collected.
Each repo is locked while its own garbage is collected; the others go on. A pack that has old garbage is written again
without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hubkit.core.errors import ConflictError, RemoteError
from hubkit.server import process
from hubkit.server.hub import Hub
from hubkit.server.repos.lfs import POINTER_LIMIT, read_pointer
from hubkit.server.repos.store import REPO_TYPES, Repo
from hubkit.server.smart.children import GitFailedError, GitMissingError, environment, run
from hubkit.server.storage.database import stamp
from hubkit.server.storage.folder import Folder, claim

log = logging.getLogger("hubkit.server")
_SECONDS = 3600.0
_REACHED = ("--objects", "--no-object-names", "--all")


@dataclass
class Collected:
    """What was collected, or would be: git objects, large files, their bytes; and repos that were left alone."""

    objects: int = 0
    files: int = 0
    size: int = 0
    skipped: list[str] = field(default_factory=list)


def collect(data: Path, *, days: int, dry_run: bool) -> Collected:
    """Collect what is older than ``days``; the running server does it, or this process when none runs.

    ConflictError, RemoteError.
    """
    folder = Folder(data.resolve())
    if not folder.database.exists():
        raise ConflictError(f"There is no Hub in {folder.root}.", hint="Give the data folder of an embedded Hub.")
    if running := process.status(folder.root):
        return _ask(running, {"days": days, "dryRun": dry_run})
    lock = claim(folder)
    try:
        hub = Hub(folder.root)
        try:
            return collect_here(hub, days=days, dry_run=dry_run)
        finally:
            hub.close()
    finally:
        lock.release()


def _ask(running: process.Running, order: dict[str, object]) -> Collected:
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
    body = json.dumps(order).encode()
    request = urllib.request.Request(f"{running.url}/api/hubkit/gc", body, headers, method="POST")
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            return Collected(**json.loads(answer.read(2**20)))
    except (OSError, ValueError, TypeError) as error:
        raise RemoteError(f"The Hub at {running.url} collected nothing: {error}.", hint="Its log says why.") from error


def collect_here(hub: Hub, *, days: int, dry_run: bool) -> Collected:
    """Collect in this process, which serves the data folder or holds its lock. ConflictError without git."""
    total = Collected()
    for kind in REPO_TYPES:
        for repo in hub.store.all(kind):
            try:
                with hub.upkeep, hub.store.lock(repo):
                    _collect_repo(hub, repo, days, dry_run, total)
            except GitMissingError:
                raise ConflictError("Git is not installed.", hint="Install git, then run the command again.") from None
            except (GitFailedError, OSError) as error:  # a damaged repo: nothing of it is removed
                log.warning("the garbage of %s is left alone: %s", repo.web, error)
                total.skipped.append(repo.web)
    log.info("collected garbage: %s", json.dumps(asdict(total) | {"dry_run": dry_run}))
    return total


def _collect_repo(hub: Hub, repo: Repo, days: int, dry_run: bool, total: Collected) -> None:
    root = hub.store.path(repo)
    variables = environment(root)
    before = stamp(datetime.now(UTC) - timedelta(days=days))
    rows = hub.lfs.listed(repo.uid)
    old = {str(row["oid"]): int(row["size"]) for row in rows if str(row["pushed"]) <= before}
    if old:
        for oid in _pointed_to(root, variables):
            old.pop(oid, None)
    expire = f"--expire={days}.days.ago"
    listed = run(["prune", "--dry-run", expire], variables).decode("ascii").split("\n")
    objects = [line.split()[0] for line in listed if len(line) > 40]
    packed = _packed(root, variables, before) - {oid.encode("ascii") for oid in objects}
    total.objects += len(objects) + len(packed)
    total.files += len(old)
    total.size += sum(_size(root / "objects" / oid[:2] / oid[2:]) for oid in objects) + _disk_sizes(packed, variables)
    total.size += sum(size for oid, size in old.items() if set(hub.lfs.holders(oid)) == {repo.uid})
    if not dry_run:
        hub.store.collected[repo.uid] += 1
        if packed:
            run(["repack", "-A", "-d", "-n", "-q", f"--unpack-unreachable={days}.days.ago"], variables)
        run(["prune", expire], variables)
        hub.lfs.withdraw(repo.uid, old)
        hub.lfs.collect(old)


def _packed(root: Path, variables: dict[str, str], before: str) -> set[bytes]:
    """The objects of packs not younger than ``before`` that no ref leads to. GitFailedError, OSError."""
    found: set[bytes] = set()
    for index in (root / "objects" / "pack").glob("pack-*.idx"):
        if stamp(datetime.fromtimestamp(index.with_suffix(".pack").stat().st_mtime, UTC)) <= before:
            with index.open("rb") as file:
                found.update(line.split()[1] for line in run(["show-index"], variables, given=file).splitlines())
    if found:
        found.difference_update(run(["rev-list", *_REACHED], variables).splitlines())
    return found


def _disk_sizes(oids: set[bytes], variables: dict[str, str]) -> int:
    given = b"".join(oid + b"\n" for oid in oids)
    sizes = run(["cat-file", "--batch-check=%(objectsize:disk)", "--buffer"], variables, given=given) if oids else b""
    return sum(map(int, sizes.split()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _pointed_to(root: Path, variables: dict[str, str]) -> Iterator[str]:
    """The large files that any file of any commit of any ref points to. GitFailedError for a damaged repo."""
    listed = run(["rev-list", *_REACHED], variables)
    sizes = run(["cat-file", "--batch-check", "--buffer"], variables, given=listed).splitlines()
    small = b"".join(
        line.split()[0] + b"\n" for line in sizes if line.split()[1] == b"blob" and int(line.split()[2]) < POINTER_LIMIT
    )
    output = run(["cat-file", "--batch", "--buffer"], variables, given=small)
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        size = int(output[at:end].split()[2])
        if pointer := read_pointer(output[end + 1 : end + 1 + size]):
            yield pointer.oid
        at = end + 2 + size
