"""A pytest plugin that points huggingface_hub's tests at HF_ENDPOINT: their own constant is read at import."""

import importlib
import os

importlib.import_module("tests.testing_constants").ENDPOINT_STAGING = os.environ["HF_ENDPOINT"].rstrip("/")
