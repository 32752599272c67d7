"""Spaces: their state, address, logs and secrets, and which of them use a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hubkit.hub.connection import Connection
from hubkit.hub.errors import translated


@dataclass(frozen=True)
class Runtime:
    """The state of a Space: ``stage`` (RUNNING, BUILD_ERROR, ...), the commit that it is about, and why it failed.

    ``commit`` and ``message`` are None when the Hub does not report them.
    """

    stage: str
    commit: str | None = None
    message: str | None = None


class SpaceCalls(Connection):
    """The requests about Spaces, as methods of a connection."""

    def runtime(self, repo: str) -> Runtime:
        """The state of the Space."""

        def read() -> Runtime:
            runtime = self.api.get_space_runtime(repo)
            raw = runtime.raw or {}
            return Runtime(str(runtime.stage), raw.get("sha"), raw.get("errorMessage"))

        return self.query(read, repo=repo)

    def space_host(self, repo: str) -> str | None:
        """The address at which the Space's app answers, without a slash at its end; None while it has none."""
        host = self.query(lambda: self.api.space_info(repo), repo=repo).host
        return str(host).rstrip("/") if host else None

    def space_log(self, repo: str, *, build: bool = False) -> list[str]:
        """The lines that the Space's app wrote (or, with ``build``, its last build), oldest first."""
        pieces = self.query(lambda: list(self.api.fetch_space_logs(repo, build=build)), repo=repo)
        return "".join(pieces).splitlines()

    def follow_space_log(self, repo: str, *, build: bool = False) -> Iterator[str]:
        """The log's lines as they come, until the Hub ends it."""
        with translated(self.endpoint, repo):
            yield from self.api.fetch_space_logs(repo, build=build, follow=True)

    def restart_space(self, repo: str, *, factory: bool = False) -> None:
        """Restart the Space's app; ``factory``: build it from scratch first."""
        self.send(lambda: self.api.restart_space(repo, factory_reboot=factory), repo=repo)

    def pause_space(self, repo: str) -> None:
        """Stop the Space's app until it is restarted."""
        self.send(lambda: self.api.pause_space(repo), repo=repo)

    def set_space_secret(self, repo: str, name: str, value: str) -> None:
        """Give the Space's app an environment variable that nobody can read back."""
        self.send(lambda: self.api.add_space_secret(repo, name, value), repo=repo)

    def spaces_using(self, repo: str, limit: int) -> list[str]:
        """The Spaces that use the model ``repo``, as far as the Hub knows, at most ``limit`` of them."""
        return [space.id for space in self.query(lambda: list(self.api.list_spaces(models=repo, limit=limit)))]
