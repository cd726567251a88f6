"""Every job of the method as a typed prompt, one file a job; the texts are in `templates/`."""
