// @huggingface/hub in Node: repos, files by Xet and by LFS, edits, lists, branches, pull requests, the cache.
import assert from "node:assert";
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import * as hub from "@huggingface/hub";

const at = { hubUrl: process.env.HF_ENDPOINT, accessToken: process.env.HF_TOKEN };
const all = async (items) => { const found = []; for await (const item of items) found.push(item); return found; };
const bytes = async (blob) => Buffer.from(await blob.arrayBuffer());
const repo = { type: "model", name: "hubkit/js" };

assert.equal((await hub.whoAmI(at)).name, "hubkit");
await hub.createRepo({ ...at, repo, private: true, license: "mit" });
await assert.rejects(hub.createRepo({ ...at, repo }), { statusCode: 409 });
assert.ok(await hub.repoExists({ ...at, repo }));
assert.ok(!(await hub.repoExists({ hubUrl: at.hubUrl, repo })));
await hub.checkRepoAccess({ ...at, repo });

// --- files by Xet, by LFS and in the commit itself
const large = randomBytes(3_000_000);
const blob = new Blob([large]);
await hub.uploadFile({ ...at, repo, file: { path: "weights.bin", content: blob }, commitTitle: "By Xet" });
const second = new Blob([large.subarray(0, 2_000_000), "new", large.subarray(2_000_000)]);
const made = await hub.uploadFiles({
  ...at, repo, useXet: false,
  files: [{ path: "more/weights.bin", content: second }, { path: "ünï cöde/a.txt", content: new Blob(["small"]) }],
});
const steps = await all(hub.uploadFilesWithProgress({
  ...at, repo, files: [{ path: "progress.bin", content: new Blob([randomBytes(500_000)]) }],
}));
assert.ok(steps.some((step) => step.event === "phase" && step.phase === "committing"));
mkdirSync("folder/sub", { recursive: true });
writeFileSync("folder/sub/b.txt", "from the disk");
writeFileSync("folder/a.safetensors", large.subarray(0, 100_000));
await hub.uploadFiles({ ...at, repo, files: [pathToFileURL("folder")] });

assert.deepEqual(await bytes(await hub.downloadFile({ ...at, repo, path: "weights.bin" })), large);
assert.deepEqual(await bytes(await hub.downloadFile({ ...at, repo, path: "weights.bin", xet: false })), large);
const part = await hub.downloadFile({ ...at, repo, path: "more/weights.bin" });
assert.deepEqual(await bytes(part.slice(1_999_990, 2_000_010)), (await bytes(second)).subarray(1_999_990, 2_000_010));
assert.equal(await (await hub.downloadFile({ ...at, repo, path: "ünï cöde/a.txt" })).text(), "small");
assert.equal(await hub.downloadFile({ ...at, repo, path: "missing.txt" }), null);
await assert.rejects(hub.downloadFile({ ...at, repo, path: "more/weights.bin", revision: "v9" }), { statusCode: 404 });
const info = await hub.fileDownloadInfo({ ...at, repo, path: "weights.bin" });
assert.equal(info.size, large.length);
assert.equal(info.etag.replaceAll(/"|^W\//g, "").length, 64);
const names = (await all(hub.listFiles({ ...at, repo, recursive: true }))).filter((file) => file.type === "file");
assert.ok(names.some((file) => file.path === "folder/sub/b.txt" || file.path === "sub/b.txt"), JSON.stringify(names));
assert.equal((await hub.pathsInfo({ ...at, repo, paths: ["weights.bin"], expand: true }))[0].lfs.size, large.length);

// --- an edit, an append, deletions, a commit on a stale parent
const original = await hub.downloadFile({ ...at, repo, path: "weights.bin" });
await hub.commit({
  ...at, repo, title: "Edit",
  operations: [{
    operation: "edit", path: "weights.bin", originalContent: original,
    edits: [{ content: new Blob(["edited"]), start: 1_000_000, end: 1_000_003 }],
  }],
});
const edited = Buffer.concat([large.subarray(0, 1_000_000), Buffer.from("edited"), large.subarray(1_000_003)]);
assert.deepEqual(await bytes(await hub.downloadFile({ ...at, repo, path: "weights.bin" })), edited);
await assert.rejects(hub.commit({
  ...at, repo, title: "Late", parentCommit: made.commit.oid,
  operations: [{ operation: "addOrUpdate", path: "x.txt", content: new Blob(["x"]) }],
}), { statusCode: 412 });
await hub.deleteFile({ ...at, repo, path: "progress.bin" });
await hub.deleteFiles({ ...at, repo, paths: ["more/weights.bin", "ünï cöde/a.txt"] });
assert.ok(!(await hub.fileExists({ ...at, repo, path: "progress.bin" })));
assert.match((await all(hub.listCommits({ ...at, repo })))[0].title, /^(Remove|Delete)/);
assert.ok((await hub.countCommits({ ...at, repo, revision: "main" })) >= 7);

// --- branches and pull requests
await hub.createBranch({ ...at, repo, branch: "dev/a" });
await assert.rejects(hub.createBranch({ ...at, repo, branch: "dev/a" }), { statusCode: 409 });
await hub.uploadFile({ ...at, repo, branch: "dev/a", file: { path: "only.bin", content: new Blob([randomBytes(70_000)]) } });
assert.ok(await hub.fileExists({ ...at, repo, path: "only.bin", revision: "dev/a" }));
assert.ok(!(await hub.fileExists({ ...at, repo, path: "only.bin" })));
await hub.deleteBranch({ ...at, repo, branch: "dev/a" });
const proposed = await hub.uploadFile({
  ...at, repo, isPullRequest: true, file: { path: "p.bin", content: new Blob([randomBytes(70_000)]) },
});
assert.ok(proposed.pullRequestUrl.endsWith("/hubkit/js/discussions/1"), proposed.pullRequestUrl);
assert.ok(await hub.fileExists({ ...at, repo, path: "p.bin", revision: "refs/pr/1" }));

// --- lists and facts
const header = JSON.stringify({ a: { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] } });
const start = Buffer.alloc(8);
start.writeBigUInt64LE(BigInt(header.length));
await hub.uploadFile({
  ...at, repo, file: { path: "model.safetensors", content: new Blob([start, header, Buffer.alloc(24)]) },
});
const tensors = await hub.parseSafetensorsMetadata({ ...at, repo, computeParametersCount: true });
assert.deepEqual(tensors.parameterCount, { F32: 6 });
assert.deepEqual((await all(hub.listModels({ ...at, search: { owner: "hubkit" } }))).map((model) => model.name), [repo.name]);
assert.equal((await hub.modelInfo({ ...at, name: repo.name, additionalFields: ["sha", "tags"] })).private, true);
await hub.createRepo({ ...at, repo: "datasets/hubkit/js-data" });
await hub.createRepo({ ...at, repo: "spaces/hubkit/js-app", sdk: "static" });
assert.equal((await all(hub.listDatasets({ ...at, search: { query: "js-da" } }))).length, 1);
assert.equal((await all(hub.listSpaces(at)))[0].sdk, "static");
assert.equal((await hub.spaceInfo({ ...at, name: "hubkit/js-app" })).name, "hubkit/js-app");
assert.equal((await hub.datasetInfo({ ...at, name: "hubkit/js-data" })).private, false);
const { slug } = await hub.createCollection({ ...at, collection: { title: "Good", namespace: "hubkit" } });
await hub.addCollectionItem?.({ ...at, slug, item: { type: "model", id: repo.name } });
assert.equal((await all(hub.listCollections({ ...at, search: { owner: ["hubkit"] } })))[0].title, "Good");
await hub.deleteCollection({ ...at, slug });

// --- the cache of this machine
const folder = await hub.snapshotDownload({ ...at, repo, cacheDir: "cache" });
assert.deepEqual(readFileSync(`${folder}/weights.bin`), edited);
const file = await hub.downloadFileToCacheDir({ ...at, repo, path: "weights.bin", cacheDir: "cache" });
assert.deepEqual(readFileSync(file), edited);
for (const gone of [repo, "datasets/hubkit/js-data", "spaces/hubkit/js-app"]) await hub.deleteRepo({ ...at, repo: gone });
assert.ok(!(await hub.repoExists({ ...at, repo })));
