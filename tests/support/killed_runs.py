"""Short runs on the data of a test, one of which is killed between two checkpoints."""

STEPS = ("train.steps=7", "schedule.warmup_steps=2", "evaluation.every_steps=3", "checkpoint.every_steps=3")
NO_SUBSET = ("data.train_examples=null", "data.validation_examples=null")
# a process that is gone after its fifth step, two after its checkpoint
KILLED = """
import os, signal, sys
from trainer.__main__ import main
from trainer.monitoring import terminal
shown = terminal.Terminal.step
def step(self, number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    shown(self, number)
terminal.Terminal.step = step
main(sys.argv[1:])
"""
