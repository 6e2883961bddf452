"""CMA-ES keeps its state in the study, as a pickle, which Optuna loads.

A study may come from a stranger, and a pickle can name any function to be called. So each is loaded here first, where
it finds the classes of that state and nothing else.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from trainer.errors import UsageError
from trainer.storage.documents import shown

PREFIXES = ("cma:optimizer", "sepcma:optimizer", "cmawm:optimizer")  # of the names of its parts, which end in :0, :1 …
ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("cmaes._sepcma", "SepCMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (module, name)
        for module in ("numpy._core.multiarray", "numpy.core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def refuse_foreign_pickles(trials: Sequence[FrozenTrial], where: str) -> None:
    """
    Raises:
        UsageError: a trial has a pickle that is not the state of CMA-ES.
    """
    for trial in trials:
        for prefix in PREFIXES:
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            try:
                if parts:
                    text = "".join(parts[f"{prefix}:{index}"] for index in range(len(parts)))
                    _Unpickler(io.BytesIO(bytes.fromhex(text))).load()
            except Exception as error:  # whatever a wrong state makes of itself
                raise UsageError(
                    f"trial {trial.number} of the study in {where} has {prefix}, and that is not a state of CMA-ES: "
                    f"{shown(str(error))}\nnothing of it was run; choose another hydra.sweep.dir"
                ) from error
