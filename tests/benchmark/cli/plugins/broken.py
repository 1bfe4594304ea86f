"""A plugin that another package forgot to finish: its task cannot be made."""

from benchmark import Task


class Forgotten(Task):
    name = "forgotten"
