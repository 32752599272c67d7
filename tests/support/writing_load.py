"""Writers for a Hub that is killed: each knows what it was told is done, and the one thing that was under way.

After each kill, what a writer reads must be what it was told, or that and all of what was under way; never a half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from writers import SHARED, Caller, InRepo, State, Step, Writer, header, large_file, text_file


class Commits(InRepo):
    """Commits over the API, each with a file by LFS, and a file less when there are some."""

    shy = True

    def change(self, call: Caller) -> Step:
        title, files = self.title(), dict(self.told["files"])
        content = self.draw.choice([*SHARED, self.draw.randbytes(20_000)])
        lines = [header(title), text_file("n.txt", title.encode())]
        files["n.txt"] = title.encode()
        large = f"w{self.number}.bin"
        lines.append(large_file(large, call.upload(self.repo, content), len(content)))
        files[large] = content
        if len(files) > 4:
            oldest = next(name for name in files if name != "n.txt")
            lines.append(("deletedFile", {"path": oldest}))
            del files[oldest]
        state = {"files": files, "titles": [title, *self.told["titles"]]}
        return state, lambda: call.commit(self.repo, lines)


class Refs(InRepo):
    """Branches and tags: created, moved, squashed, deleted."""

    def empty(self) -> State:
        return {"branches": {"main": ["initial commit"]}, "tags": {}}

    def size(self) -> int:
        return max(map(len, self.told["branches"].values()))

    def change(self, call: Caller) -> Step:
        title, at = self.title(), f"/api/models/{self.repo}"
        branches, tags = dict(self.told["branches"]), dict(self.told["tags"])
        state = {"branches": branches, "tags": tags}
        branch, acts = self.draw.choice(list(branches)), ["commit", "squash"]
        acts += ["branch"] if len(branches) < 4 else ["less"]
        acts += ["tag"] if len(tags) < 3 else ["untag"]
        match self.draw.choice(acts):
            case "commit":
                branches[branch] = [title, *branches[branch]]
                lines = [header(title), text_file("n.txt", title.encode())]
                return state, lambda: call.commit(self.repo, lines, branch)
            case "squash":
                branches[branch] = [title]
                return state, lambda: call("POST", f"{at}/super-squash/{branch}", {"message": title})
            case "branch":
                new = f"b{self.number}"
                branches[new] = branches[branch]
                return state, lambda: call("POST", f"{at}/branch/{new}", {"startingPoint": branch})
            case "tag":
                new, note = f"t{self.number}", self.draw.choice([{}, {"message": "annotated"}])
                tags[new] = branches[branch]
                return state, lambda: call("POST", f"{at}/tag/{branch}", {"tag": new} | note)
            case "less":
                gone = self.draw.choice([name for name in branches if name != "main"])
                del branches[gone]
                return state, lambda: call("DELETE", f"{at}/branch/{gone}")
            case _:
                gone = self.draw.choice(list(tags))
                del tags[gone]
                return state, lambda: call("DELETE", f"{at}/tag/{gone}")

    def seen(self, call: Caller) -> State:
        refs = call("GET", f"/api/models/{self.repo}/refs")
        return {
            kind: {ref["name"]: call.titles(self.repo, ref["name"]) for ref in refs[kind]}
            for kind in ("branches", "tags")
        }


@dataclass(frozen=True)
class Pull:
    """A pull request."""

    title: str
    status: str
    comments: tuple[str, ...]
    commits: tuple[str, ...]


class Pulls(InRepo):
    """Pull requests: opened by a commit, committed to, commented on, renamed, merged, closed."""

    def empty(self) -> State:
        return {"pulls": {}, "main": {}}

    def size(self) -> int:
        return len(self.told["pulls"]) * 2

    def change(self, call: Caller) -> Step:
        title, pulls = self.title(), dict(self.told["pulls"])
        state = {"pulls": pulls, "main": dict(self.told["main"])}
        number = len(pulls)
        lines = [header(title), text_file(f"{self.number}.txt", title.encode())]
        if not pulls or pulls[number].status in {"merged", "closed"}:
            pulls[number + 1] = Pull(title, "open", (), (title,))
            return state, lambda: call.commit(self.repo, lines, query="?create_pr=1")
        at, old = f"/api/models/{self.repo}/discussions/{number}", pulls[number]
        match self.draw.choice(["comment", "title", "commit", "merge", "close"]):
            case "comment":
                pulls[number] = Pull(old.title, old.status, (*old.comments, title), old.commits)
                return state, lambda: call("POST", f"{at}/comment", {"comment": title})
            case "title":
                pulls[number] = Pull(title, old.status, old.comments, old.commits)
                return state, lambda: call("POST", f"{at}/title", {"title": title})
            case "commit":
                pulls[number] = Pull(old.title, old.status, old.comments, (*old.commits, title))
                return state, lambda: call.commit(self.repo, lines, f"refs/pr/{number}")
            case "merge":
                pulls[number] = Pull(old.title, "merged", old.comments, old.commits)
                new = {f"{commit.split()[-1]}.txt": commit.encode() for commit in old.commits}
                state["main"] = state["main"] | new
                return state, lambda: call("POST", f"{at}/merge", {})
            case _:
                pulls[number] = Pull(old.title, "closed", (*old.comments, title), old.commits)
                return state, lambda: call("POST", f"{at}/status", {"status": "closed", "comment": title})

    def seen(self, call: Caller) -> State:
        at, pulls = f"/api/models/{self.repo}/discussions", {}
        for item in call("GET", at)["discussions"]:
            events = call("GET", f"{at}/{item['num']}")["events"]
            comments = [event["data"]["latest"]["raw"] for event in events if event["type"] == "comment"]
            commits = [event["data"]["subject"] for event in events if event["type"] == "commit"]
            spoken = tuple(text for text in comments if text)
            pulls[item["num"]] = Pull(item["title"], item["status"], spoken, tuple(commits))
            have = call.files(self.repo, f"refs/pr/{item['num']}")
            assert all(f"{commit.split()[-1]}.txt" in have for commit in commits)
        return {"pulls": dict(sorted(pulls.items())), "main": call.files(self.repo)}


class Repos(Writer):
    """Repos: created, moved, made private, duplicated with their large file, deleted."""

    def next(self, call: Caller) -> Step:
        title, state = self.title().replace(" ", "-"), dict(self.told)
        new = f"{self.name}/{title}"
        if not state:
            state[new] = (False, {})
            return state, lambda: call("POST", "/api/repos/create", {"name": new})
        old = self.draw.choice(list(state))
        acts = ["move", "settings", "delete"] + ["create", "duplicate"] * (len(state) < 5)
        if not state[old][1]:
            content = self.draw.choice(SHARED)
            oid = call.upload(old, content)
            state[old] = (state[old][0], {"w.bin": content})
            lines = [header("fill"), large_file("w.bin", oid, len(content))]
            return state, lambda: call.commit(old, lines)
        match self.draw.choice(acts):
            case "create":
                state[new] = (False, {})
                return state, lambda: call("POST", "/api/repos/create", {"name": new})
            case "duplicate":
                state[new] = state[old]
                return state, lambda: call("POST", f"/api/models/{old}/duplicate", {"repository": new})
            case "move":
                state[new] = state.pop(old)
                return state, lambda: call("POST", "/api/repos/move", {"fromRepo": old, "toRepo": new})
            case "settings":
                state[old] = (not state[old][0], state[old][1])
                return state, lambda: call("PUT", f"/api/models/{old}/settings", {"private": state[old][0]})
            case _:
                del state[old]
                order = {"name": old.partition("/")[2], "organization": self.name}
                return state, lambda: call("DELETE", "/api/repos/delete", order)

    shy = True

    def read(self, call: Caller) -> State:
        listed = call("GET", f"/api/models?author={self.name}&limit=1000&full=1")
        return {item["id"]: (item["private"], call.files(item["id"])) for item in listed}


class Rows(Writer):
    """What is in the database alone: collections, webhooks, likes, locks, tokens, users, a gate, a Space's settings."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name, seed)
        self.told = {"collections": {}, "webhooks": {}, "users": {}}

    def next(self, call: Caller) -> Step:
        state = json.loads(json.dumps(self.told))
        for kind, names in (("model", ("stage",)), ("space", ("page",))):
            for name in names:
                if name not in state:
                    state[name] = {"likes": 0, "gated": False, "locks": []} if kind == "model" else {"secrets": []}
                    order = {"name": f"{self.name}/{name}", "type": kind, "sdk": "docker"}
                    return state, lambda order=order: call("POST", "/api/repos/create", order)  # type: ignore[misc]
        acts = list(self._acts(call, state))
        return self.draw.choice(acts)()

    def _acts(self, call: Caller, state: State) -> Iterator[Callable[[], Step]]:
        title, stage = self.title().replace(" ", "-"), f"/api/models/{self.name}/stage"
        collections, hooks, users = state["collections"], state["webhooks"], state["users"]
        model = state["stage"]

        def collect() -> Step:
            if len(collections) < 3:
                collections[title] = {"items": []}
                return state, lambda: call("POST", "/api/collections", {"title": title, "namespace": self.name})
            name = self.draw.choice(list(collections))
            slug = next(one["slug"] for one in self._collections(call) if one["title"] == name)
            if not collections[name]["items"]:
                collections[name]["items"] = [[f"{self.name}/stage", title]]
                item = {"item": {"type": "model", "id": f"{self.name}/stage"}, "note": title}
                return state, lambda: call("POST", f"/api/collections/{slug}/items", item)
            if self.draw.random() < 0.5:
                collections[title] = collections.pop(name)
                return state, lambda: call("PATCH", f"/api/collections/{slug}", {"title": title})
            del collections[name]
            return state, lambda: call("DELETE", f"/api/collections/{slug}")

        def hook() -> Step:
            if len(hooks) < 3:
                url = f"http://127.0.0.1:9/{title}"
                hooks[url] = {"disabled": False, "names": [self.name]}
                order = {"url": url, "watched": [{"type": "org", "name": self.name}]}
                return state, lambda: call("POST", "/api/settings/webhooks", order)
            url = self.draw.choice(list(hooks))
            (number,) = [one["id"] for one in call("GET", "/api/settings/webhooks") if one["url"] == url]
            if not hooks[url]["disabled"]:
                hooks[url]["disabled"] = True
                return state, lambda: call("POST", f"/api/settings/webhooks/{number}/disable")
            del hooks[url]
            return state, lambda: call("DELETE", f"/api/settings/webhooks/{number}")

        def like() -> Step:
            model["likes"] = 1 - model["likes"]
            return state, lambda: call("POST" if model["likes"] else "DELETE", f"{stage}/like")

        def gate() -> Step:
            model["gated"] = {False: "auto", "auto": "manual", "manual": False}[model["gated"]]
            return state, lambda: call("PUT", f"{stage}/settings", {"gated": model["gated"]})

        def lock() -> Step:
            at = f"/{self.name}/stage.git/info/lfs/locks"
            if len(model["locks"]) < 3:
                model["locks"] = sorted([*model["locks"], f"{title}.bin"])
                return state, lambda: call("POST", at, {"path": f"{title}.bin"})
            path = model["locks"].pop()
            (number,) = [one["id"] for one in call("GET", at)["locks"] if one["path"] == path]
            return state, lambda: call("POST", f"{at}/{number}/unlock", {})

        def account() -> Step:
            if len(users) < 8 or self.draw.random() < 0.5:
                user = self.draw.choice([*users, title]) if len(users) < 8 else self.draw.choice(list(users))
                if user not in users:
                    users[user] = []
                    return state, lambda: call("POST", "/api/hubkit/users", {"name": user})
                users[user] = [*users[user], title]
                return state, lambda: call("POST", "/api/hubkit/tokens", {"user": user, "label": title})
            user = self.draw.choice(list(users))
            if not users[user]:
                users[user] = [title]
                return state, lambda: call("POST", "/api/hubkit/tokens", {"user": user, "label": title})
            label = users[user].pop()
            number = next(token["id"] for token in self._tokens(call, user) if token["label"] == label)
            return state, lambda: call("DELETE", f"/api/hubkit/tokens/{user}/{number}")

        def secret() -> Step:
            at, secrets = f"/api/spaces/{self.name}/page/secrets", state["page"]["secrets"]
            key = f"S{self.number}"
            if len(secrets) < 3:
                secrets.append(key)
                return state, lambda: call("POST", at, {"key": key, "value": title})
            gone = secrets.pop()
            return state, lambda: call("DELETE", at, {"key": gone})

        yield from (collect, hook, like, gate, lock, account, secret)

    def _collections(self, call: Caller) -> list[Any]:
        return list(call("GET", f"/api/collections?owner={self.name}&limit=100"))

    def _tokens(self, call: Caller, user: str) -> list[Any]:
        (found,) = [one for one in call("GET", "/api/hubkit/accounts") if one["name"] == user]
        return list(found["tokens"])

    def read(self, call: Caller) -> State:
        state: State = {}
        for item in call("GET", f"/api/models?author={self.name}&full=1"):
            locks = call("GET", f"/{self.name}/stage.git/info/lfs/locks")["locks"]
            paths = sorted(lock["path"] for lock in locks)
            state["stage"] = {"likes": item["likes"], "gated": item["gated"], "locks": paths}
        for _ in call("GET", f"/api/spaces?author={self.name}"):
            secrets = call("GET", f"/api/spaces/{self.name}/page/secrets")
            keys = sorted(secrets, key=lambda key: int(key[1:]))
            state["page"] = {"secrets": keys}
        items = {
            one["title"]: {"items": [[item["id"], item["note"]["text"]] for item in one["items"]]}
            for one in self._collections(call)
        }
        hooks = {
            one["url"]: {"disabled": one["disabled"], "names": [place["name"] for place in one["watched"]]}
            for one in call("GET", "/api/settings/webhooks")
        }
        users = {
            one["name"]: [token["label"] for token in one["tokens"]]
            for one in call("GET", "/api/hubkit/accounts")
            if one["kind"] == "user" and one["name"].startswith(f"{self.name}-")
        }
        return state | {"collections": items, "webhooks": hooks, "users": users}
