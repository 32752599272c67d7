"""gradio_client talks to a private Space that the Hub runs: words, streams, files, state; then its secret, its logs."""

from pathlib import Path

from gradio_client import Client, handle_file
from huggingface_hub import HfApi

APP = """
import os
import gradio as gr
from huggingface_hub import hf_hub_download

def size(name: str) -> int:
    return os.stat(hf_hub_download("hubkit/weights", name)).st_size

def greet(name: str) -> str:
    return f"Hello {name}, {os.environ['GREETING']} {os.environ['SECRET']}"

def count(to):
    for number in range(int(to)):
        yield f"at {number}"

def lines(path):
    with open(path) as file:
        return len(file.readlines())

def add(value, total):
    total += value
    return total, total

with gr.Blocks() as demo:
    total = gr.State(0)
    gr.api(greet, api_name="greet")
    gr.api(size, api_name="size")
    number, said = gr.Number(), gr.Textbox()
    gr.Button().click(count, number, said, api_name="count")
    gr.Button().click(lines, gr.File(), number, api_name="lines")
    gr.Button().click(add, [number, total], [number, total], api_name="add")
demo.launch()
"""

api, space = HfApi(), "hubkit/app"
api.create_repo(
    space, repo_type="space", space_sdk="gradio", private=True,
    space_secrets=[{"key": "SECRET", "value": "well kept"}], space_variables=[{"key": "GREETING", "value": "and a"}],
)  # fmt: skip
api.create_repo("hubkit/weights")
api.upload_file(repo_id="hubkit/weights", path_or_fileobj=bytes(range(256)) * 4000, path_in_repo="w.bin")
Path("app").mkdir()
Path("app/app.py").write_text(APP)
Path("app/README.md").write_text("---\ntitle: An app\nsdk: gradio\napp_file: app.py\n---\n")
api.upload_folder(repo_id=space, repo_type="space", folder_path="app")
runtime = api.wait_for_space(space, timeout=120, poll_interval=0.2)
assert runtime.stage == "RUNNING", (runtime, list(api.fetch_space_logs(space)))

client = Client(space, verbose=False)
said = client.predict("you", api_name="/greet")
assert said == "Hello you, and a well kept", said
assert client.predict("w.bin", api_name="/size") == 1_024_000, "the app downloads by Xet"
job = client.submit(3, api_name="/count")
assert job.result() == "at 2" and job.outputs() == ["at 0", "at 1", "at 2"], job.outputs()
Path("three.txt").write_text("1\n2\n3\n")
assert client.predict(handle_file("three.txt"), api_name="/lines") == 3
assert [client.predict(2, api_name="/add") for _ in range(3)] == [2, 4, 6]
assert Client(space, verbose=False).predict(2, api_name="/add") == 2
assert {"/greet", "/count"} <= set(client.view_api(print_info=False, return_format="dict")["named_endpoints"])
assert any("Running on" in line for line in map(str, api.fetch_space_logs(space))), list(api.fetch_space_logs(space))
api.pause_space(space)
assert api.get_space_runtime(space).stage == "PAUSED"
