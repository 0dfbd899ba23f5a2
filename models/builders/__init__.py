"""Builders of pipelines: a catalogue's entry and its verified files -> a pipeline.

None imports torch: what a pipeline needs besides its network stands in the entry, in the files' metadata or
here, and the network's own code is imported when the network is built (`Pipeline.module`).
"""
