#!/usr/bin/env bash
# timm's CheckpointSaver keeps two recovery files of an epoch. find_recovery names the older one, by the order of their
# names as text, and resume_checkpoint then answers with the epoch behind the one that was interrupted. So a program
# that puts the two together goes on with older weights, and leaves out the rest of the epoch.
# Usage: findings/timm-recovery-finds-the-older-file-and-skips-the-epoch.sh    installs PyTorch (5 GB) into a temporary
# folder
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    timm==1.0.31 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cat >"$place/program.py" <<'PYTHON'
import pathlib
import sys

import torch
from timm.models import resume_checkpoint
from timm.utils import CheckpointSaver

BATCHES, KEEP_EVERY = 10, 2
place = pathlib.Path(sys.argv[1])
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(place), recovery_dir=str(place))
done = 0
for epoch in range(2):
    for batch in range(BATCHES):
        with torch.no_grad():
            model.weight.fill_(done := done + 1)  # the weight says how many steps were made
        if (batch + 1) % KEEP_EVERY == 0:
            saver.save_recovery(epoch, batch)
        if (epoch, batch) == (1, 5):
            break  # the process is interrupted here, after 16 steps, in the second of the epochs
    else:
        saver.save_checkpoint(epoch)

files = sorted(path.name for path in place.glob("recovery-*"))
found = saver.find_recovery()
with torch.no_grad():
    model.weight.zero_()
epoch = resume_checkpoint(model, found, optimizer, log_info=False)
print(f"{' '.join(files)}; {pathlib.Path(found).name}; step {int(model.weight)}; epoch {epoch}")
PYTHON
mkdir "$place/kept"
result=$("$place/venv/bin/python" "$place/program.py" "$place/kept" 2>"$place/log") || { cat "$place/log" >&2; exit 1; }
IFS=';' read -r files found step epoch <<<"$result"
cat <<WORDS
timm 1.0.31 with PyTorch 2.14.1: epochs of ten batches, a recovery file after every second, interrupted in epoch 1 after
its sixth batch, which is step 16 in all:
  recovery files                   $files
  find_recovery                   $found: the weights of$step
  resume_checkpoint answers       $epoch as the epoch to begin with
The file of batch 5 is newer, and four batches of epoch 1 are trained by nobody. resume_checkpoint adds one to every
epoch, which is right for a file of a whole epoch, and find_recovery takes the first name of the sorted ones.
WORDS
[[ $found == *recovery-1-3* && $step == " step 14" && $epoch == " epoch 2" ]] || { echo "this has changed" >&2; exit 1; }
