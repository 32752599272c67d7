"""How a conversation becomes text: chat templates, the end-of-turn token, the stop rate.

Imports ``core`` alone. Start reading at :mod:`~hubkit.models.chat.library` (which template a release uses),
:mod:`~hubkit.models.chat.agreement` (whether all files agree on the end-of-turn token) and
:mod:`~hubkit.models.chat.stop_rate`.
"""
