"""Files on disk: atomic writes and journals, manifests, pictures, the inputs of stages."""
