"""What a release costs before it begins: hours, memory and disk of each step, by a stated model.

devices.py    how fast devices are: this one measured, four others from data sheets
formulas.py   arithmetic: FLOPs, seconds and bytes of training, generation, scoring and files
asking.py     what only PyTorch, transformers and PEFT know, asked in a child process (measuring.py)
sources.py    sizes of the base and the datasets: from this machine, the recipe's package or the Hub (datasets.py)
training.py   what a training stage costs; benchmarks.py how much lm-eval asks of a model
steps.py      the cost of each step of a recipe on one device
estimate.py   all of it together, with the assumptions and what could not be checked
room.py       what does not fit into the memory of this device or onto its disk
"""
