"""Preference and SFT sets: their columns mapped to conversations, their rows checked, what is wrong reported.

``mappings`` knows the columns, ``rows`` checks and draws, ``turns`` looks for the end-of-turn token in what will be
trained.
"""
