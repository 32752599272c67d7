// The tokenizer and the chat template of a model, read by transformers.js of the folder that holds node_modules.
// node in_transformers_js.mjs JOB MODULES: as in_transformers.py. Weights are not read: transformers.js runs ONNX.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

process.stdin.on('end', () => process.exit(1)).resume(); // ends with its parent
const job = JSON.parse(readFileSync(process.argv[2], 'utf-8'));
const reason = (error) => `${error.name}: ${error.message}`;
const { AutoTokenizer, env } = await load();
env.allowRemoteModels = false;
env.localModelPath = '/';
const report = { versions: { 'transformers.js': env.version, node: process.versions.node }, failed: [] };
const ids = (tokenizer, text) => tokenizer.encode(text, { add_special_tokens: false });
try {
  const tokenizer = await AutoTokenizer.from_pretrained(job.tokenizer);
  report.renderings = {};
  for (const [name, [messages, opening]] of Object.entries(job.conversations)) {
    try {
      const text = tokenizer.apply_chat_template(messages, { tokenize: false, add_generation_prompt: opening });
      report.renderings[name] = { text, ids: ids(tokenizer, text) };
    } catch (error) {
      report.renderings[name] = { refused: reason(error) };
    }
  }
  report.texts = Object.fromEntries(job.texts.map((text) => [text, ids(tokenizer, text)]));
} catch (error) {
  report.failed.push({ what: 'the tokenizer', error: reason(error) });
}
writeFileSync(job.report, JSON.stringify(report));
process.exit(0);

async function load() {
  try {
    const found = createRequire(process.argv[3] + '/x.js').resolve('@huggingface/transformers');
    return await import(pathToFileURL(found));
  } catch (error) {
    writeFileSync(job.report, JSON.stringify({ environment: reason(error) }));
    process.exit(0);
  }
}
