"""What a release costs before it begins: hours, memory and disk of each step, by a stated model.

devices.py    how fast devices are: this one measured, four others from data sheets
formulas.py   arithmetic: FLOPs, seconds and bytes of training, generation, scoring and files
sources.py    sizes of the base and the datasets: from this machine, the recipe's package or the Hub
steps.py      the cost of each step of a recipe on one device
estimate.py   all of it together, with the assumptions and what could not be checked
"""
