"""Child processes: how they are started, limited, watched and ended. Imports the rest of ``core`` alone.

Start reading at :mod:`~hubkit.core.processes.parent` (what the parent does) and :mod:`~hubkit.core.processes.child`
(what the child does about itself). :mod:`~hubkit.core.processes.app` runs the app of a Space on top of them,
confined by :mod:`~hubkit.core.processes.confinement`.
"""
