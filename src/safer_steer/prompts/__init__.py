"""The jobs of the method as typed prompts, one file per job. The texts are in `templates/`."""
