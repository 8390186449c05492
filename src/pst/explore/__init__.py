"""A local page to play with: a model, a picture or a clip, k and the other settings, and what comes out of them.

Everything but `pst.explore.page` and `pst.explore.server` works without gradio.
"""
