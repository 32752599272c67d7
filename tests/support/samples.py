"""Small things that several tests start from."""

RECIPE_TEXT = """\
repo: me/my-model
visibility: public
license: apache-2.0
base: {repo: them/base}
data:
  preferences: [{repo: them/pairs}]
  repair: [{repo: them/chats, rows: 300}]
stages:
  dpo: {data: preferences, args: {learning_rate: 5e-5, max_length: 40, bf16: true}}
  sft: {data: repair, continues: dpo}
variants:
  main: {stage: sft}
  dpo-v0: {stage: dpo, gate: report}
evaluate: {suites: [tiny_facts]}
gates:
  stop_rate: {prompts_from: repair}
card: {title: My model, summary: It answers.}
"""
