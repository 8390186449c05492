"""The study of two maps: what fine attention is worth where the keys come from another frame or photo."""
