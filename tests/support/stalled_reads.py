"""Source text for programs whose data stall."""

# the digits stall at the ninth batch of several records, in a FIFO that nobody writes to
STALLING_DIGITS = """
from trainer.data.sources.digits import DigitsSplit
os.mkfifo("pipe")
read, batches = DigitsSplit.read, []
def stalling(self, records):
    batches.append(len(records))
    if sum(count > 1 for count in batches) > 8:
        open("pipe").close()
    return read(self, records)
DigitsSplit.read = stalling
"""
