"""Invented worlds: passages on things that never were, with facts, questions and wrong answers."""

from seal.data.invented.stated import FactCheck, WrongFact, stated
from seal.data.invented.tasks import tasks, world_of
from seal.data.invented.world import Fact, World, world

__all__ = ["Fact", "FactCheck", "World", "WrongFact", "stated", "tasks", "world", "world_of"]
