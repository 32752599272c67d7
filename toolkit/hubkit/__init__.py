"""hubkit: from one recipe file to a published, measured release of a fine-tuned chat model.

Importing it is fast: nothing here loads torch, transformers, trl, lm_eval or gradio.
"""

__version__ = "0.1.0"
