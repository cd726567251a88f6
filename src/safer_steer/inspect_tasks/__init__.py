"""The bench as a task of Inspect (https://inspect.aisi.org.uk). Needs `safer-steer[inspect]`; README.md
beside this file has the options.

The dialogue loop, the prompts, the judge and the metrics are the bench's own. Inspect asks the models, keeps
the logs and retries.
"""
