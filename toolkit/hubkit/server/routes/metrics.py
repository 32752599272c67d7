"""Metrics for Prometheus: requests, what the Hub holds, the room that it has."""

from __future__ import annotations

import shutil
from collections import Counter

import psutil
from starlette.responses import Response

from hubkit import __version__
from hubkit.server.http.access import require_watch
from hubkit.server.http.request import Request
from hubkit.server.http.routing import Route
from hubkit.server.hub import Hub
from hubkit.server.metrics import MEDIA_TYPE, lines
from hubkit.server.repos.store import REPO_TYPES
from hubkit.server.smart.responses import turns


def metrics(request: Request) -> Response:
    """All metrics, in Prometheus' text format, for an administrator of this Hub; a read token is enough."""
    require_watch(request)
    text = request.hub.metrics.text() + _holdings(request.hub) + _turns() + _process(request.hub)
    return Response(text, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})


def _holdings(hub: Hub) -> str:
    repos = Counter(row["type"] for row in hub.database.rows("SELECT type FROM repos"))
    accounts = Counter(account.kind for account in hub.accounts.all())
    row = hub.database.row("SELECT COUNT(*) AS n, SUM(size) AS size FROM (SELECT DISTINCT oid, size FROM lfs)")
    assert row is not None
    return (
        lines("hubkit_repos", "gauge", "Repos.", [({"type": kind}, repos[kind]) for kind in REPO_TYPES])
        + lines("hubkit_accounts", "gauge", "Accounts.", [({"kind": kind}, accounts[kind]) for kind in ("user", "org")])
        + lines("hubkit_lfs_objects", "gauge", "Large files in LFS, each counted once.", [({}, row["n"])])
        + lines("hubkit_lfs_bytes", "gauge", "Bytes of the large files in LFS.", [({}, row["size"] or 0)])
    )


def _turns() -> str:
    samples = [
        ({"service": service, "state": state}, float(count))
        for service, counts in turns().items()
        for state, count in zip(("working", "waiting"), counts, strict=True)
    ]
    return lines("hubkit_git_turns", "gauge", "Clones, fetches and pushes at work, and those that wait.", samples)


def _process(hub: Hub) -> str:
    disk, process = shutil.disk_usage(hub.folder.root), psutil.Process()
    database = sum(path.stat().st_size for path in hub.folder.root.glob(f"{hub.folder.database.name}*"))
    return (
        lines("hubkit_disk_free_bytes", "gauge", "Free bytes of the disk of the data folder.", [({}, disk.free)])
        + lines("hubkit_disk_bytes", "gauge", "Bytes of the disk of the data folder.", [({}, disk.total)])
        + lines("hubkit_database_bytes", "gauge", "Bytes of the database.", [({}, database)])
        + lines("hubkit_info", "gauge", "The version of hubkit.", [({"version": __version__}, 1)])
        + lines("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, process.memory_info().rss)])
        + lines("process_cpu_seconds_total", "counter", "Processor time.", [({}, sum(process.cpu_times()[:2]))])
        + lines("process_open_fds", "gauge", "Open files.", [({}, process.num_fds())])
        + lines("process_start_time_seconds", "gauge", "When the server started.", [({}, process.create_time())])
    )


ROUTES = [Route("GET", "/api/hubkit/metrics", metrics)]
