"""diffusers 0.32 and newer.

`patch.record` records what a pipeline samples inside a `with`; `locate.locate` finds concepts in
images that exist already. `families.FAMILIES` lists the models. Nothing of diffusers is replaced.
"""
